//! A command belongs to its session: it cannot take a broken stream for a whole one, and nothing of it is left. Rows 2,
//! 6, 20 and 25.

use crate::common::process::Side;
use crate::failed::failure_of;
use crate::scene::{Scene, eventually, none, within};
use crate::{MIB, PEER, SYSTEM, USAGE, by_sigterm, ended_early, holding, noise, send};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// A shell's way to have a file only when it is whole: what reads is slow, so that the pipe is full when the session
/// ends.
const SLOW: &str = "(sleep 2; cat) > part && mv part whole";
/// The same as a pipeline, where what renames is not what reads.
const PIPELINE: &str = "(sleep 2; cat) | (cat > part && mv part whole)";

/// A command line that runs `script` without --sh.
fn in_sh(script: &str) -> String {
    format!("sh -c '{script}'")
}

/// The threads of a process.
fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Every process of the command is gone, and it has not believed in its input.
#[track_caller]
fn nothing_whole(scene: &Scene) {
    eventually(|| none(scene.commands()));
    assert!(!scene.path("whole").exists(), "the command took a broken stream for a whole one");
}

#[test]
fn row_2_a_command_of_an_interrupted_listener_has_nothing_whole() {
    for (signal, script) in [("TERM", SLOW), ("INT", SLOW), ("HUP", PIPELINE)] {
        let scene = Scene::new();
        let (listener, port) = scene.listener(&[], &["-e", &in_sh(script)], Stdio::null());
        let sender = Side::sender(port, &[], 1 << 40);
        thread::sleep(Duration::from_millis(700));
        listener.signal(signal);
        assert_ne!(listener.end().code, Some(0));
        sender.end().with_code(PEER);
        nothing_whole(&scene);
    }
}

#[test]
fn row_2_a_whole_stream_is_believed() {
    let scene = Scene::new();
    let (listener, port) = scene.listener(&[], &["--sh", "-e", PIPELINE], Stdio::null());
    send(port, &noise(MIB)).with_code(0);
    listener.end().with_code(0);
    assert!(scene.content("whole") == noise(MIB));
}

#[test]
fn what_a_command_leaves_running_when_it_has_said_0_is_left_alone() {
    // So often, because the end of the session must not overtake the end of its command.
    for _ in 0..12 {
        let scene = Scene::new();
        let leaves = "cat > part; (sleep 0.3; mv part whole) < /dev/null > /dev/null 2>&1 &";
        let (listener, port) = scene.listener(&[], &["--sh", "-e", leaves], Stdio::null());
        send(port, &noise(1000)).with_code(0);
        listener.end().with_code(0);
        eventually(|| if scene.path("whole").exists() { Ok(()) } else { Err("it was ended") });
    }
}

#[test]
fn row_6_a_command_answers_for_itself_also_where_ended_children_are_thrown_away() {
    let scene = Scene::new();
    let (listener, port) = scene.listener(&["env", "--ignore-signal=CHLD"], &["--sh", "-e", PIPELINE], Stdio::null());
    send(port, &noise(1000)).with_code(0);
    listener.end().with_code(0);
    assert!(scene.content("whole") == noise(1000));
}

#[test]
fn row_25_a_command_whose_sender_dies_has_nothing_whole() {
    for (signal, keep) in [("KILL", &[][..]), ("TERM", &[]), ("KILL", &["-k", "--json"]), ("TERM", &["-k", "--json"])] {
        for exec in [&["--sh", "-e", PIPELINE][..], &["-e", &in_sh(SLOW)]] {
            let scene = Scene::new();
            let (listener, port) = scene.listener(&[], &[&["-w", "2"], keep, exec].concat(), Stdio::null());
            let sender = Side::sender(port, &[], 1 << 40);
            thread::sleep(Duration::from_millis(500));
            sender.signal(signal);
            if keep.is_empty() {
                listener.end().with_code(PEER);
            } else {
                failure_of(&listener, 1);
            }
            nothing_whole(&scene);
            drop(sender);
        }
    }
}

#[test]
fn row_25_a_command_does_not_survive_the_kill_of_mpnc() {
    // A command that reads would see its pipe end; this one never looks.
    let scene = Scene::new();
    let (listener, port) = scene.listener(&[], &["-e", "sleep 300"], Stdio::null());
    let held = holding(port, b"x");
    eventually(|| if scene.commands().is_empty() { Err("no command") } else { Ok(()) });
    listener.signal("KILL");
    // Before its end is waited for: standard error, which the command has too, would wait for the command.
    within(Duration::from_secs(10), || none(scene.commands()));
    assert!(matches!(listener.end().code, None | Some(137)));
    drop(held);
}

#[test]
fn row_6_a_command_that_never_reads_goes_with_its_session() {
    let stubborn = in_sh("trap \"\" TERM; sleep 300");
    let family = in_sh("sleep 300 & sleep 300");
    for exec in ["sleep 300", &stubborn, &family] {
        for direction in [&[][..], &["--duplex"]] {
            let scene = Scene::new();
            let args = [&["-k", "-w", "3", "-e", exec], direction].concat();
            let (listener, port) = scene.listener(&[], &args, Stdio::null());
            let idle = threads(listener.pid());
            let mut sender = Side::start(&[direction, &["127.0.0.1", &port.to_string()]].concat());
            let input = sender.stdin();
            eventually(|| if scene.commands().is_empty() { Err("no command") } else { Ok(()) });
            sender.signal("KILL");
            // -w + 2 s are promised.
            within(Duration::from_secs(12), || none(scene.commands()));
            within(Duration::from_secs(12), || match threads(listener.pid()) {
                now if now <= idle => Ok(()),
                now => Err(format!("{now} threads, {idle} before")),
            });
            drop((sender, input));
            let mut sender = Side::start(&[direction, &["127.0.0.1", &port.to_string()]].concat());
            let input = sender.stdin();
            eventually(|| if scene.commands().is_empty() { Err("no command") } else { Ok(()) });
            listener.signal("TERM");
            within(Duration::from_secs(10), || none(scene.commands()));
            by_sigterm(&listener.end());
            drop((sender, input));
        }
    }
}

#[test]
fn row_6_a_command_inherits_what_is_stated_and_nothing_else() {
    let scene = Scene::new();
    let script = "ls -l /proc/self/fd > fds; cat /proc/self/status > status; cat > /dev/null";
    // Whoever starts mpnc may have left more open.
    let careless = ["sh", "-c", "exec 9</dev/null; exec \"$@\"", "sh"];
    let (listener, port) = scene.listener(&careless, &["--sh", "-e", script], Stdio::null());
    send(port, b"x").with_code(0);
    listener.end().with_code(0);
    let fds = String::from_utf8(scene.content("fds")).unwrap();
    let numbers = fds.lines().filter_map(|line| line.split_once(" -> ")?.0.rsplit(' ').next()?.parse().ok());
    // ls itself opens the folder that it lists.
    assert_eq!(numbers.collect::<Vec<u32>>(), [0, 1, 2, 3], "{fds}");
    let status = String::from_utf8(scene.content("status")).unwrap();
    for signals in ["SigBlk", "SigIgn"] {
        let line = status.lines().find(|line| line.starts_with(signals)).unwrap();
        let mask = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        // 32 and 33 are the C library's own.
        assert_eq!(mask & !(3 << 31), 0, "{line}");
    }
}

#[test]
fn row_20_what_cannot_run_is_found_at_the_start() {
    let scene = Scene::new();
    std::fs::write(scene.path("no-program"), "text").unwrap();
    let not_executable = scene.arg("no-program");
    let refused: [(&[&str], i32, &str); 7] = [
        (&["-e", "tar 'x"], USAGE, "quote"),
        (&["-e", ""], USAGE, "--exec"),
        (&["-e", "mpnc-no-such-program -x"], SYSTEM, "mpnc-no-such-program"),
        (&["-e", "/nonexistent/program"], SYSTEM, "/nonexistent/program"),
        (&["-e", &not_executable], SYSTEM, "no-program"),
        (&["-o", "/nonexistent/of-%n"], SYSTEM, "/nonexistent"),
        (&["-o", "/"], SYSTEM, "directory"),
    ];
    for (end, code, words) in refused {
        for keep in [&["-l"][..], &["-l", "-k"]] {
            let args = [keep, end, &["0"]].concat();
            let mut side = Side::of(&mut scene.command(&[], &args), Stdio::null(), Stdio::null());
            assert!(ended_early(&mut side), "waits for a session: {args:?}");
            side.end().with_code(code).saying(&[words]);
        }
    }
}
