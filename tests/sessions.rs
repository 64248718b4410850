//! A listener that goes on: session after session, several at once, each with its own file or command, failed ones among them.
//!
//! Needs no privilege and nothing but loopback.

mod common;

use common::data::Digest;
use common::process::Side;
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

#[test]
fn sessions_in_a_row_have_a_file_each_and_a_killed_one_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pattern = folder.path().join("part-%n");
    let (listener, port) = listener(&["-w", "2", "-o", pattern.to_str().unwrap()]);
    for number in 1..=20u64 {
        let len = number * 100_000;
        if number % 5 == 0 {
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
    for number in [5, 10, 15, 20] {
        listener.wait_for_words(&format!("session {number} failed"));
    }
    listener.signal("TERM");
    listener.end().with_code(143);
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
    let (listener, port) = listener(&["--sh", "-e", "cat > /dev/null; exit 3"]);
    Side::sender(port, &[], MIB).end().with_code(4).saying(&["it ended with exit status: 3"]);
    listener.wait_for_words("session 1 failed");
    drop(listener);
}
