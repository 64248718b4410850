//! Session after session: none leaves anything in the next one's output, its slot or its input. Rows 8 and 24.

use crate::common::data::Noise;
use crate::common::process::Side;
use crate::failed::failure_of;
use crate::scene::{Scene, eventually};
use crate::{PEER, SYSTEM, by_sigterm, holding, noise, send};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const MIB: u64 = crate::MIB;

#[test]
fn row_8_a_peer_that_gave_up_before_it_was_admitted_begins_no_session() {
    // Only with -k are there numbers in names.
    for (keep, name) in [(&[][..], "of-1"), (&["-k"], "of-%n")] {
        let scene = Scene::new();
        let (listener, port) = scene.listener(&[], &[keep, &["-o", &scene.arg(name)]].concat(), Stdio::null());
        listener.signal("STOP");
        let gone = Side::sender(port, &["-w", "3"], 1000).end();
        assert_ne!(gone.code, Some(0));
        listener.signal("CONT");
        send(port, b"the next").with_code(0);
        if keep.is_empty() {
            listener.end().with_code(0);
        } else {
            listener.signal("TERM");
            by_sigterm(&listener.end());
        }
        assert_eq!(scene.content("of-1"), b"the next");
        assert!(!scene.path("of-2").exists());
    }
}

/// Reads about 4 MB a second, so that a session's window is still queued when its sender dies.
fn read_slowly(mut source: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let read = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&read);
    let reading = thread::spawn(move || {
        let mut piece = vec![0; 40_000];
        while let Ok(n) = source.read(&mut piece) {
            if n == 0 {
                return;
            }
            into.lock().unwrap().extend_from_slice(&piece[..n]);
            thread::sleep(Duration::from_millis(10));
        }
    });
    (read, reading)
}

/// Unlike anything in the noise.
fn second_input() -> Vec<u8> {
    b"the second session's own words, again and again;".repeat(30_000)
}

/// Sends until it is let in: as long as the session before has not let go, others are told so.
#[track_caller]
fn send_when_free(port: u16, bytes: &[u8]) {
    eventually(|| match send(port, bytes) {
        ended if ended.code == Some(0) => Ok(()),
        ended if ended.words.contains("refused") => Err(ended.words),
        ended => panic!("neither let in nor refused: {ended:?}"),
    });
}

/// The output is a beginning of the first input, no more of it than was told, and then the second input.
#[track_caller]
fn assert_succession(output: &[u8], told: usize) {
    /// What may be on its way into the output when a session fails: one block, and what a pipe holds.
    const UNDER_WAY: usize = 2 << 20;
    let second = second_input();
    assert!(output.ends_with(&second), "the second's output is not the second's input");
    let first = &output[..output.len() - second.len()];
    assert!(first == noise(first.len() as u64), "what precedes it is not the first's input");
    assert!(first.len() <= told + UNDER_WAY, "{} bytes of the first, of which {told} were told", first.len());
}

/// The first sender is stopped in mid-transfer while much is queued, and the second comes.
#[track_caller]
fn succeed(signal: &str, listener: &Side, port: u16, read: &Arc<Mutex<Vec<u8>>>) -> usize {
    let first = Side::sender(port, &[], 1 << 40);
    eventually(|| if read.lock().unwrap().len() > 1_000_000 { Ok(()) } else { Err("nothing comes out") });
    thread::sleep(Duration::from_millis(500));
    first.signal(signal);
    let told = failure_of(listener, 1)["received"].as_u64().expect("bytes");
    send_when_free(port, &second_input());
    drop(first);
    usize::try_from(told).unwrap()
}

#[test]
fn row_24_nothing_of_a_dead_session_is_in_the_next_ones_output() {
    for signal in ["TERM", "KILL"] {
        let (mut listener, port) = Side::receiver(&["-k", "--json", "-w", "2"]);
        let (read, reading) = read_slowly(listener.stdout());
        let told = succeed(signal, &listener, port, &read);
        listener.signal("TERM");
        by_sigterm(&listener.end());
        reading.join().unwrap();
        assert_succession(&read.lock().unwrap(), told);
    }
}

#[test]
fn row_24_nor_in_a_named_pipe() {
    let scene = Scene::new();
    let fifo = scene.arg("f");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open for both, so that it has a reader and no end.
    let pipe = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let (listener, port) = scene.listener(&[], &["-k", "--json", "-w", "2", "-o", &fifo], Stdio::null());
    let (read, _) = read_slowly(pipe);
    let told = succeed("KILL", &listener, port, &read);
    let wanted = second_input();
    eventually(|| if read.lock().unwrap().ends_with(&wanted) { Ok(()) } else { Err("the second's end does not come") });
    drop(listener);
    assert_succession(&read.lock().unwrap(), told);
}

#[test]
fn standard_input_serves_one_session() {
    let scene = Scene::new();
    fs::write(scene.path("in"), noise(MIB)).unwrap();
    let args = ["-l", "-k", "--reverse", "0"];
    let input = fs::File::open(scene.path("in")).unwrap();
    let listener = Side::of(&mut scene.command(&[], &args), input.into(), Stdio::null());
    let port = listener.wait_for_words("listening on ").rsplit(':').next().unwrap().to_owned();
    let connect = || {
        let args = ["--reverse", "127.0.0.1", &port];
        let mut connector = Side::start_with(&args, Stdio::null(), Stdio::piped());
        let output = connector.drain();
        (connector.end(), output.join().unwrap())
    };
    let (first, output) = connect();
    first.with_code(0);
    assert_eq!(output, crate::Digest::of(Noise::new(MIB)));
    let (second, output) = connect();
    second.with_code(PEER).saying(&["standard input"]);
    assert_eq!(output.len, 0);
    listener.signal("TERM");
    by_sigterm(&listener.end());
}

#[test]
fn an_input_file_serves_session_after_session() {
    let scene = Scene::new();
    fs::write(scene.path("in"), noise(MIB)).unwrap();
    let (listener, port) = scene.listener(&[], &["-k", "--reverse", "-i", &scene.arg("in")], Stdio::null());
    for _ in 0..2 {
        let port = port.to_string();
        let mut connector = Side::start_with(&["--reverse", "127.0.0.1", &port], Stdio::null(), Stdio::piped());
        let output = connector.drain();
        connector.end().with_code(0);
        assert_eq!(output.join().unwrap(), crate::Digest::of_noise(MIB));
    }
    drop(listener);
}

#[test]
fn an_output_that_breaks_fails_the_session_and_not_the_listener() {
    let scene = Scene::new();
    let (listener, port) = scene.listener(&[], &["-k", "-o", "/dev/full"], Stdio::null());
    for _ in 0..2 {
        let (sender, mut input) = holding(port, b"one");
        let _ = input.write_all(b"two");
        drop(input);
        sender.end().with_code(PEER).saying(&["gave up", "no space left"]);
    }
    listener.signal("TERM");
    let ended = listener.end();
    by_sigterm(&ended);
    assert_ne!(ended.code, Some(SYSTEM));
}
