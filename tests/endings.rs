//! Every way a session can end, with every kind of end: what both sides say, what is in the output, and what is left.
//!
//! Nothing in the table says 0 with a byte missing, and nothing of a session is left when it is over: no process, no
//! thread, no descriptor, no file that nobody named. Sizes and moments come from a seed that is printed (`MPNC_SEED=N`
//! replays it; `MPNC_CELL=TEXT` runs only the cells whose name holds it). Needs strace; the column of devices needs
//! root.

#[path = "common/breaking.rs"]
mod breaking;
#[path = "endings/cell.rs"]
mod cell;
mod common;
#[path = "endings/judge.rs"]
mod judge;
#[path = "common/needs.rs"]
mod needs;
#[path = "endings/relay.rs"]
mod relay;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/skip.rs"]
mod skip;
#[path = "endings/stage.rs"]
mod stage;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/stuck.rs"]
mod stuck;

use cell::{ENDS, End, WAYS, Way};
use common::data::{Digest, Noise};
use common::process::Side;
use judge::Seen;
use scene::{eventually, none, within};
use stage::{BACK, Stage, holdings, holdings_at_rest};
use std::fs;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Cells at once: most of their time they wait.
const AT_ONCE: usize = 6;
/// Every session is over within the timeout (2 s) and the grace of a command (1 s); the rest is room for a busy
/// machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// The session after.
const NEXT: &[u8] = b"the next session's own words";

/// The number of a seed that `n` stands for.
fn mix(seed: u64, n: u64) -> u64 {
    fastrand::Rng::with_seed(seed.wrapping_add(n)).u64(..)
}

/// How much is sent: anything, but more than fits where something must break.
fn input_len(way: Way, end: End, number: u64) -> u64 {
    match way {
        Way::Delivered | Way::StderrStuck => number % 1_500_000,
        // A pipe holds a megabyte that nobody has read.
        Way::OutputEarly if !end.is_named() => 3_000_000,
        Way::CommandKilled => 3_000_000,
        Way::DiskFull | Way::OutputEarly => 600_000 + number % 600_000,
        // With a rate, and then most of it is not sent yet.
        _ if way.is_midway() && number.is_multiple_of(2) => 3_000_000,
        _ => 1 + number % 1_500_000,
    }
}

/// Whether a process has ended (it may not be reaped yet).
fn is_gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Makes the session end as its row says.
fn strike(way: Way, end: End, stage: &Stage, number: u64) {
    let (sender, receiver) = match end {
        End::Reverse => (&stage.listener, &stage.connector),
        _ => (&stage.connector, &stage.listener),
    };
    if !way.is_midway() && way != Way::CommandHangs {
        return;
    }
    // In its midst: something has come out, or is about to.
    let started = Instant::now();
    while output(stage, end, way).is_empty() && started.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(number % 150));
    match way {
        Way::SenderKilled => sender.signal("KILL"),
        Way::SenderInterrupted => sender.signal("TERM"),
        Way::ReceiverInterrupted | Way::CommandHangs => receiver.signal("TERM"),
        Way::ReceiverKilled => receiver.signal("KILL"),
        _ => stage.relay.reset(),
    }
}

/// What has come out of the session.
fn output(stage: &Stage, end: End, way: Way) -> Vec<u8> {
    let scene = &stage.scene;
    match end {
        End::StdoutPipe | End::Duplex | End::Fifo | End::Keep => stage.out.bytes(),
        End::StdoutFile | End::File | End::Reverse => scene.content("out"),
        End::Pattern => scene.content("of-1"),
        End::Device if way == Way::OutputEarly => Vec::new(),
        End::Device => stage.disk.as_ref().map(breaking::LoopDevice::content).unwrap_or_default(),
        End::Command | End::KeepCommand if scene.path("whole-1").exists() => scene.content("whole-1"),
        End::Command | End::KeepCommand => scene.content("part-1"),
    }
}

/// What a disk holds of the input: a beginning, and then what was there before.
fn written(disk: &[u8], input: &[u8]) -> Vec<u8> {
    let len = disk.iter().zip(input).take_while(|(there, sent)| there == sent).count();
    let untouched = disk[len..].iter().all(|byte| *byte == 0);
    if untouched { input[..len].to_vec() } else { disk.to_vec() }
}

/// The listener goes on: what it says of the session, whether it holds what it held before, and whether the next
/// session is served.
fn go_on(stage: &Stage, way: Way, end: End, left: &mut Vec<String>) -> Option<i32> {
    let started = Instant::now();
    let said = loop {
        let failed = stage.listener.heard("session 1 failed").map(|_| Some(1));
        let done = stage.listener.heard("all written and confirmed").map(|_| Some(0));
        // Where nobody can hear it, only the other side knows.
        let unheard = (way == Way::StderrStuck && is_gone(stage.connector.pid())).then_some(Some(0));
        if let Some(said) = failed.or(done).or(unheard) {
            break said;
        }
        if started.elapsed() > PATIENCE {
            left.push("the listener never reported the session".into());
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    // Where strace has close(2) fail, nothing is closed.
    let kept = usize::from(way == Way::AtClose);
    let idle = (stage.idle.0, stage.idle.1 + kept);
    loop {
        let now = holdings(stage.listener.pid());
        if now.0 <= idle.0 && now.1 <= idle.1 {
            break;
        }
        if started.elapsed() > PATIENCE {
            let descriptors = stage::descriptors(stage.listener.pid());
            left.push(format!("threads and descriptors: {now:?}, before it {idle:?}; {descriptors:?}"));
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    // A standard output that nobody reads any more serves nobody.
    if !(end == End::Keep && way == Way::OutputEarly) {
        serve_next(stage, end, left);
    }
    said
}

fn serve_next(stage: &Stage, end: End, left: &mut Vec<String>) {
    let mut next = Side::start_with(&["127.0.0.1", &stage.port.to_string()], Stdio::piped(), Stdio::null());
    let _ = next.stdin().write_all(NEXT);
    let started = Instant::now();
    while !is_gone(next.pid()) && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    next.signal("KILL");
    let code = next.end().code;
    let there = match end {
        End::Pattern => stage.scene.content("of-2"),
        End::KeepCommand => stage.scene.content("whole-2"),
        _ => NEXT.to_vec(),
    };
    if code != Some(0) || there != NEXT {
        left.push(format!("the next session: {code:?}, {} bytes", there.len()));
    }
}

/// Files that nobody named.
fn strange_files(stage: &Stage) -> Vec<String> {
    let known = ["said", "f", "out", "of-1", "of-2", "part-1", "whole-1", "whole-2"];
    let names =
        fs::read_dir(stage.scene.path("")).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| !known.contains(&name.as_str())).map(|name| format!("a file {name}")).collect()
}

/// Waits until both sides and all they started are gone; notes what is not, and ends it.
fn settle(stage: &Stage, left: &mut Vec<String>) {
    let sides = [("listener", stage.listener.pid()), ("connector", stage.connector.pid())];
    let started = Instant::now();
    // Not by their ends alone: a command that lives on has their standard error, and would be waited for.
    let remaining = || {
        let hanging = sides.iter().filter(|(_, pid)| !is_gone(*pid)).map(|(name, _)| format!("the {name} hangs"));
        let commands = stage.scene.commands().into_iter().map(|process| format!("the process {process}"));
        hanging.chain(commands).collect::<Vec<_>>()
    };
    while !remaining().is_empty() && started.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    left.extend(remaining());
    stage.scene.sweep();
}

/// Plays one cell.
fn play(way: Way, end: End, seed: u64) -> (Vec<u8>, Seen) {
    let mut input = Vec::new();
    Noise::new(input_len(way, end, mix(seed, 0))).read_to_end(&mut input).unwrap();
    let mut stage = Stage::start(way, end, &input);
    let mut seen = Seen::default();
    strike(way, end, &stage, mix(seed, 1));
    let goes_on = end.keeps() && !way.ends_listener();
    if goes_on {
        seen.receiver = go_on(&stage, way, end, &mut seen.left);
        stage.listener.signal("TERM");
    }
    settle(&stage, &mut seen.left);
    seen.left.extend(strange_files(&stage));
    seen.whole = stage.scene.path("whole-1").exists();
    stage.let_go();
    // A thread of the test may still have a piece in its hand.
    thread::sleep(Duration::from_millis(100));
    seen.output = output(&stage, end, way);
    if end == End::Device && way != Way::OutputEarly {
        seen.output = written(&seen.output, &input);
    }
    if end == End::Keep && goes_on && seen.output.ends_with(NEXT) {
        seen.output.truncate(seen.output.len() - NEXT.len());
    }
    if end == End::Duplex {
        seen.back = stage.back.bytes();
    }
    let Stage { listener, connector, .. } = stage;
    let (listener, connector) = (listener.end().code, connector.end().code);
    let (sender, receiver) = if end == End::Reverse { (listener, connector) } else { (connector, listener) };
    seen.sender = sender;
    if !goes_on {
        seen.receiver = receiver;
    }
    (input, seen)
}

/// One cell: what the table says of it, and what is wrong.
fn cell(way: Way, end: End, seed: u64) -> (String, Vec<String>) {
    match catch_unwind(AssertUnwindSafe(|| play(way, end, seed))) {
        Ok((input, seen)) => {
            let back = if end == End::Duplex { BACK } else { b"" };
            (judge::words(end, way, &input, &seen), judge::problems(way, end, &input, back, &seen))
        }
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            ("?".into(), vec![format!("it broke off: {said}")])
        }
    }
}

/// Plays the cells, several at once; answers what to print for each, and all that is wrong.
fn play_all(cells: &[(usize, usize)], seed: u64) -> (Vec<Vec<String>>, Vec<String>) {
    let table = Mutex::new(vec![vec![String::from("-"); ENDS.len()]; WAYS.len()]);
    let (problems, next) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((row, column)) = cells.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let ((way, row_name), (end, column_name)) = (WAYS[row], ENDS[column]);
                    let number = u64::try_from(row * ENDS.len() + column).unwrap();
                    let (words, found) = cell(way, end, mix(seed, number));
                    let found = found.into_iter().map(|what| format!("[{row_name}, {column_name}] {what}"));
                    problems.lock().unwrap().extend(found);
                    table.lock().unwrap()[row][column] = words;
                }
            });
        }
    });
    (table.into_inner().unwrap(), problems.into_inner().unwrap())
}

/// The table, or the part of it for these ends.
fn play_table(wanted: impl Fn(End) -> bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = std::env::var("MPNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now.as_secs());
    let only = std::env::var("MPNC_CELL").unwrap_or_default();
    let all = (0..WAYS.len()).flat_map(|row| (0..ENDS.len()).map(move |column| (row, column)));
    let named = |(row, column): &(usize, usize)| format!("{}, {}", WAYS[*row].1, ENDS[*column].1).contains(&only);
    let all = all.filter(|(row, column)| wanted(ENDS[*column].0) && WAYS[*row].0.is_of(ENDS[*column].0));
    let cells: Vec<_> = all.filter(named).collect();
    let started = Instant::now();
    let (table, problems) = play_all(&cells, seed);
    println!(
        "MPNC_SEED={seed}: {} cells in {} s; exit codes of sender / receiver, output\n",
        cells.len(),
        started.elapsed().as_secs()
    );
    println!("| |{}", ENDS.map(|(_, name)| format!(" {name} |")).concat());
    println!("|---|{}", "---|".repeat(ENDS.len()));
    for ((_, name), row) in WAYS.iter().zip(table) {
        println!("| {name} | {} |", row.join(" | "));
    }
    assert!(problems.is_empty(), "MPNC_SEED={seed}, {} wrong: {problems:#?}", problems.len());
}

#[test]
fn every_way_to_end_with_every_kind_of_end() {
    if strace::is_there() {
        play_table(|end| end != End::Device);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn every_way_to_end_with_a_device() {
    if strace::is_there() && breaking::LoopDevice::is_possible() {
        play_table(|end| end == End::Device);
    }
}

/// What the table compares with: nothing is in the way, and nothing of it goes wrong.
#[test]
fn an_ordinary_session_leaves_nothing() {
    let scene = scene::Scene::new();
    for (mut listener, port) in [Side::receiver(&["-k"]), scene.listener(&[], &["-k"], Stdio::piped())] {
        let idle = holdings_at_rest(listener.pid());
        let output = listener.drain();
        Side::sender(port, &["--streams", "3"], 1_000_000).end().with_code(0).saying(&["delivery confirmed"]);
        within(PATIENCE, || match holdings(listener.pid()) {
            now if now.0 <= idle.0 && now.1 <= idle.1 => Ok(()),
            now => Err(format!("threads and descriptors: {now:?}, before it {idle:?}")),
        });
        eventually(|| none(scene.commands()));
        listener.signal("TERM");
        listener.end();
        assert_eq!(output.join().unwrap(), Digest::of_noise(1_000_000));
    }
}
