//! Strangers, and few descriptors: whoever says nothing never keeps out whoever has something to say, and a listener
//! that has no descriptor left waits for one without wearing the processor out.
//!
//! Needs nothing but loopback, and strace for one.

mod common;
#[path = "common/input.rs"]
mod input;
#[path = "common/limited.rs"]
mod limited;
#[path = "common/stats.rs"]
mod stats;

use common::data::Digest;
use common::process::Side;
use input::Input;
use limited::{Limited, wait_until};
use stats::Stats;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Connections that say `word` and then nothing.
fn strangers(port: u16, count: usize, word: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("the queue has room");
        socket.write_all(word).expect("a new connection takes a byte");
        socket
    };
    (0..count).map(connect).collect()
}

/// Whether the other side has closed it.
fn is_shown_out(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    !matches!(socket.read(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn digest_of(path: &Path) -> Digest {
    Digest::of(File::open(path).unwrap())
}

#[test]
fn who_finds_no_descriptor_is_served_when_one_is_free() {
    for (descriptors, workers) in [(16, 1), (26, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let args = format!("-k --workers {workers} -o 'o-%n'");
        let listener = Limited::listener(descriptors, &args, &folder);
        let (stats, port) = (Stats::new(), listener.port.to_string());
        let mut first = Side::start(&["--stats", stats.path(), "--streams", "4", "--rate", "20M", "127.0.0.1", &port]);
        let input = Input::into(first.stdin());
        stats.wait_for_streams(1);
        // They take what is left, each with a session of its own, until no more can be had.
        let others: Vec<Side> = (0..4).map(|_| Side::sender(listener.port, &["--streams", "4"], MIB)).collect();
        thread::sleep(Duration::from_millis(500));
        let busy = listener.busy(Duration::from_secs(2));
        assert!(busy < Duration::from_millis(700), "it used {busy:?} of 2 s");
        let sent = input.end();
        first.end().with_code(0);
        for other in others {
            other.end().with_code(0);
        }
        assert_eq!(digest_of(&folder.path().join("o-1")), sent);
        for n in 2..=5 {
            assert_eq!(digest_of(&folder.path().join(format!("o-{n}"))), Digest::of_noise(MIB), "session {n}");
        }
        listener.side.signal("TERM");
        let words = listener.side.end().words.clone();
        let waits = words.lines().filter(|line| line.contains("must wait")).count();
        assert!(waits <= 10, "{words}");
    }
}

#[test]
fn no_error_of_accept_makes_a_listener_deaf() {
    for (error, args) in
        [("EMFILE", ""), ("ENFILE", ""), ("ENOBUFS", ""), ("ENOMEM", "--workers 4 "), ("ECONNABORTED", "")]
    {
        // The first knock fails, and nobody else comes to knock.
        // As its grandchild (-D), so that mpnc itself is the child that a failing test kills.
        let inject = format!("inject=accept4:error={error}:when=1");
        let mut command = Command::new("strace");
        command.args([
            "-D",
            "-f",
            "-q",
            "-o",
            "/dev/null",
            "-e",
            "trace=accept4",
            "-e",
            &inject,
            env!("CARGO_BIN_EXE_mpnc"),
        ]);
        command.args(["-l"]).args(args.split_whitespace()).arg("0");
        let mut listener = Side::of(&mut command, Stdio::null(), Stdio::piped());
        let port = listener.wait_for_words("listening on ").rsplit(':').next().unwrap().trim().parse().unwrap();
        let output = listener.drain();
        Side::sender(port, &[], MIB).end().with_code(0);
        listener.end().with_code(0);
        assert_eq!(output.join().unwrap(), Digest::of_noise(MIB), "{error}");
    }
}

#[test]
fn the_oldest_stranger_goes_and_the_sender_is_served() {
    for workers in [1, 4] {
        for word in [&b""[..], b"\x89"] {
            let folder = tempfile::tempdir().unwrap();
            let listener = Limited::listener(64, &format!("--workers {workers} -o out"), &folder);
            let held = strangers(listener.port, 200, word);
            let sender = Side::sender(listener.port, &["--streams", "4"], MIB);
            sender.end().with_code(0);
            assert!(is_shown_out(&held[0]), "the oldest is still there");
            listener.side.end().with_code(0);
            assert_eq!(digest_of(&folder.path().join("out")), Digest::of_noise(MIB));
        }
    }
}

#[test]
fn the_last_stranger_is_let_in_in_place_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Limited::listener(64, "-o out", &folder);
    let held = strangers(listener.port, 200, b"");
    wait_until("all are taken", || held[..180].iter().all(is_shown_out));
    assert!(!held[190..].iter().any(is_shown_out), "a newcomer was thrown out");
    assert!(listener.descriptors() < 40, "strangers have {} descriptors", listener.descriptors());
    assert!(listener.resident() < 64 * MIB, "strangers have {} bytes", listener.resident());
}

#[test]
fn strangers_take_nothing_that_a_session_needs() {
    let folder = tempfile::tempdir().unwrap();
    let listener = Limited::listener(64, "-k -o 'o-%n'", &folder);
    let stats = Stats::new();
    let mut first = Side::start(&["--stats", stats.path(), "--streams", "4", "127.0.0.1", &listener.port.to_string()]);
    let input = Input::into(first.stdin());
    stats.wait_for_streams(4);
    let held = strangers(listener.port, 200, b"");
    // Its file, and its streams.
    Side::sender(listener.port, &["--streams", "8"], MIB).end().with_code(0);
    let sent = input.end();
    first.end().with_code(0);
    assert_eq!(digest_of(&folder.path().join("o-1")), sent);
    assert_eq!(digest_of(&folder.path().join("o-2")), Digest::of_noise(MIB));
    drop(held);
}

#[test]
fn as_many_streams_as_can_be_are_no_strangers() {
    // More at once than strangers may be, all with something to say.
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["-v", "--streams", "64", "--block", "64K"], 20 * MIB);
    let ended = sender.end();
    ended.with_code(0);
    assert_eq!(ended.words.matches(" up from port").count(), 64, "{}", ended.words);
    receiver.end().with_code(0).saying(&["64 streams"]);
    assert_eq!(output.join().unwrap(), Digest::of_noise(20 * MIB));
}
