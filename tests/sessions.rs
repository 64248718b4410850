//! A listener that goes on: session after session, several at once, each with its own file or command, failed ones
//! among them.
//!
//! Needs no privilege and nothing but loopback.

mod common;
#[path = "common/failed.rs"]
mod failed;

use common::data::Digest;
use common::process::Side;
use failed::failure_of;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A listener that keeps open, with these options.
fn listener(args: &[&str]) -> (Side, u16) {
    Side::receiver_to(&[&["-k"], args].concat(), Stdio::null())
}

/// Waits until a session has opened its file.
fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_mins(1), "no {}", path.display());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sessions of the fifty whose sender is killed midway.
const KILLED: [u64; 5] = [5, 16, 27, 38, 50];

#[test]
fn sessions_in_a_row_have_a_file_each_and_a_killed_one_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pattern = folder.path().join("part-%n");
    let (listener, port) = listener(&["--json", "-w", "2", "-o", pattern.to_str().unwrap()]);
    for number in 1..=50u64 {
        let len = number * 50_000;
        if KILLED.contains(&number) {
            // Killed in the middle: it has sent something, and never ends.
            let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
            let mut input = sender.stdin();
            input.write_all(&[0; 1000]).unwrap();
            wait_for(&folder.path().join(format!("part-{number}")));
            drop(sender);
            drop(input);
            continue;
        }
        Side::sender(port, &[], len).end().with_code(0);
        let part = File::open(folder.path().join(format!("part-{number}"))).unwrap();
        assert_eq!(Digest::of(part), Digest::of_noise(len), "session {number}");
    }
    for number in KILLED {
        failure_of(&listener, number);
    }
    listener.signal("TERM");
    let words = listener.end().with_code(143).words.clone();
    let told = words.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (done, mut failed): (Vec<_>, Vec<_>) = told.partition(|object| object["confirmed"] == true);
    // The last words are about the signal, which no session died of.
    failed.retain(|object| object.get("session").is_some());
    assert_eq!((failed.len(), done.len()), (5, 45), "each is told once: {words}");
}

#[test]
fn eight_sessions_at_once_are_all_right() {
    let folder = tempfile::tempdir().unwrap();
    let pattern = folder.path().join("part-%n");
    let (_listener, port) = listener(&["-o", pattern.to_str().unwrap()]);
    let senders: Vec<_> = (0..8)
        .map(|_| thread::spawn(move || Side::sender(port, &["--streams", "2"], 4 * MIB).end().with_code(0).code))
        .collect();
    for sender in senders {
        assert_eq!(sender.join().unwrap(), Some(0));
    }
    let parts: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(parts.len(), 8);
    for part in parts {
        assert_eq!(Digest::of(File::open(&part).unwrap()), Digest::of_noise(4 * MIB), "{}", part.display());
    }
}

#[test]
fn eight_commands_at_once_each_have_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let command = format!("cat > {}/part-$MPNC_SESSION", folder.path().display());
    let (_listener, port) = listener(&["--sh", "-e", &command]);
    let lens = (1..=8).map(|n| n * MIB).collect::<Vec<_>>();
    let senders: Vec<_> = lens.iter().map(|len| Side::sender(port, &["--streams", "2"], *len)).collect();
    for sender in senders {
        sender.end().with_code(0);
    }
    let parts = (1..=8).map(|n| Digest::of(File::open(folder.path().join(format!("part-{n}"))).unwrap()));
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|part| part.len);
    assert_eq!(parts, lens.into_iter().map(Digest::of_noise).collect::<Vec<_>>());
}

#[test]
fn a_command_answers_each_session() {
    let (listener, port) = listener(&["--duplex", "-e", "tr a-z A-Z"]);
    for line in ["hello", "again"] {
        let mut side = Side::start(&["--duplex", "127.0.0.1", &port.to_string()]);
        side.stdin().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        side.stdout().read_to_string(&mut answer).unwrap();
        assert_eq!(answer, line.to_uppercase());
        side.end().with_code(0);
    }
    drop(listener);
}

#[test]
fn sessions_on_one_output_follow_each_other() {
    let (mut listener, port) = Side::receiver(&["-k"]);
    let output = listener.drain();
    for _ in 0..3 {
        Side::sender(port, &[], 0).end().with_code(0);
    }
    Side::sender(port, &[], MIB).end().with_code(0);
    listener.signal("TERM");
    listener.end().with_code(143);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

#[test]
fn a_command_that_fails_fails_its_session() {
    let (listener, port) = listener(&["--json", "--sh", "-e", "cat > /dev/null; exit 3"]);
    Side::sender(port, &[], MIB).end().with_code(4).saying(&["it ended with exit status: 3"]);
    assert_eq!(failure_of(&listener, 1)["exit"], 1);
    drop(listener);
}

/// The first session has no output, and so nothing to be seen; the second is still the second.
#[test]
fn statistics_count_sessions_as_messages_do() {
    let folder = tempfile::tempdir().unwrap();
    let [pattern, stats] = ["part-%n", "stats"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    fs::write(folder.path().join("part-1"), "is in the way").unwrap();
    let (listener, port) = listener(&["-o", &pattern, "--stats", &stats]);
    Side::sender(port, &[], 1000).end().with_code(4);
    listener.wait_for_words("session 1 failed: ");
    Side::sender(port, &[], 1000).end().with_code(0);
    listener.signal("TERM");
    listener.end().with_code(143);
    let lines = fs::read_to_string(&stats).unwrap();
    let ended: Vec<_> = lines.lines().filter(|line| line.contains("\"end\":true")).collect();
    assert!(ended.len() == 1 && ended[0].contains("\"session\":2,"), "{lines}");
}
