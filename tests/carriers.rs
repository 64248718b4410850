//! Several event loops on the connecting side: the streams are shared out evenly, and whatever becomes of one of them
//! is as with one loop. (A stream that is reset gets a successor, whichever loop has it: `network`.)

mod common;
#[path = "common/input.rs"]
mod input;
#[path = "common/stats.rs"]
mod stats;

use common::data::{Digest, drain};
use common::process::Side;
use input::Input;
use serde_json::Value;
use stats::Stats;
use std::fs;
use std::io::Read;

const MIB: u64 = 1 << 20;
/// More than any test waits for.
const ENDLESS: u64 = 1 << 50;
/// The exit code for it, as `--help` documents.
const PEER: i32 = 4;
/// Slow enough for a test that waits until all streams are up.
const RATE: [&str; 2] = ["--rate", "8M"];

/// A transfer over seven streams that lasts until all of them are up: the connector's JSON, and how many threads it had
/// for further loops.
fn transfer(direction: &[&str], workers: &str) -> (Value, usize) {
    let (sends, receives) = (direction != ["--reverse"], !direction.is_empty());
    let rate = |sends| if sends { &RATE[..] } else { &[] };
    let mut listener = Side::start(&[&["-l"], direction, rate(receives), &["0"]].concat());
    let (port, stats) = (listener.port().to_string(), Stats::new());
    let args = ["--workers", workers, "--streams", "7", "--json", "--stats", stats.path(), "127.0.0.1", &port];
    let mut connector = Side::start(&[direction, rate(sends), &args].concat());
    let [at_listener, at_connector] = [&mut listener, &mut connector].map(Side::drain);
    let input = |side: &mut Side, sends: bool| sends.then(|| Input::into(side.stdin()));
    let (there, here) = (input(&mut connector, sends), input(&mut listener, receives));
    stats.wait_for_streams(7);
    let threads = threads(&connector);
    let [there, here] = [there, here].map(|input| input.map_or_else(|| Digest::of_noise(0), Input::end));
    let ended = connector.end();
    ended.with_code(0);
    listener.end().with_code(0);
    assert!(at_listener.join().unwrap() == there && at_connector.join().unwrap() == here, "{direction:?}");
    (serde_json::from_str(ended.words.lines().last().unwrap()).unwrap(), threads)
}

/// Threads of a side that are named as those of further loops.
fn threads(side: &Side) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", side.pid())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim() == "worker").count()
}

/// Streams of each of so many loops.
fn shares(summary: &Value, workers: usize) -> Vec<usize> {
    let mut shares = vec![0; workers];
    for stream in summary["streams"].as_array().unwrap() {
        shares[usize::try_from(stream["worker"].as_u64().unwrap()).unwrap()] += 1;
    }
    shares
}

#[test]
fn streams_are_shared_out_over_the_loops_whoever_sends() {
    for direction in [&[][..], &["--duplex"], &["--reverse"]] {
        let (summary, threads) = transfer(direction, "3");
        assert_eq!((&summary["workers"], threads), (&Value::from(3), 2), "{summary}");
        assert_eq!(shares(&summary, 3), [3, 2, 2], "{direction:?} {summary}");
    }
}

#[test]
fn one_loop_is_one_thread() {
    let (summary, threads) = transfer(&[], "1");
    assert_eq!((&summary["workers"], threads), (&Value::from(1), 0), "{summary}");
    assert_eq!(shares(&summary, 1), [7], "{summary}");
}

#[test]
fn more_loops_than_streams_do_no_harm() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    Side::sender(port, &["--workers", "8", "--streams", "2"], MIB).end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

#[test]
fn with_all_that_can_be_said_of_it_nothing_is_lost() {
    let (mut receiver, port) = Side::receiver(&["--workers", "2"]);
    let output = receiver.drain();
    let ended = Side::sender(port, &["-vv", "--workers", "4", "--streams", "8"], 20 * MIB).end();
    ended.with_code(0);
    assert!(ended.words.contains("4 workers") && ended.words.contains("delivery confirmed"), "{}", ended.words);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(20 * MIB));
}

/// A transfer without end over streams in three loops, of which some output has come out.
fn running() -> (Side, Side, std::thread::JoinHandle<Digest>) {
    let (mut receiver, port) = Side::receiver(&["-w", "3"]);
    let sender = Side::sender(port, &["-w", "3", "--workers", "3", "--streams", "6"], ENDLESS);
    let mut output = receiver.stdout();
    output.read_exact(&mut vec![0; 1 << 20]).unwrap();
    (receiver, sender, drain(output))
}

#[test]
fn a_killed_peer_is_noticed_as_with_one_loop() {
    let (receiver, sender, _) = running();
    receiver.signal("KILL");
    sender.end().with_code(PEER).saying(&["127.0.0.1", "gone", "bytes had been delivered"]);
    let (receiver, sender, _) = running();
    sender.signal("KILL");
    receiver.end().with_code(PEER).saying(&["lost 127.0.0.1", "bytes had been delivered"]);
}

#[test]
fn a_signal_ends_all_loops_and_the_peer_is_told() {
    for (signal, code) in [("INT", 128 + 2), ("TERM", 128 + 15)] {
        let (receiver, sender, _) = running();
        sender.signal(signal);
        sender.end().with_code(code).saying(&["interrupted by SIG", signal, "bytes had been delivered"]);
        receiver.end().with_code(PEER).saying(&["the other side", "127.0.0.1", "interrupted by SIG", signal]);
    }
}

/// While a connector has no session its loops have nothing to carry, and end with it all the same.
#[test]
fn without_a_session_the_loops_end_too() {
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    let sender = Side::sender(port, &["--workers", "4", "--streams", "4"], 1000);
    sender.end().with_code(3).saying(&["cannot connect", "connection refused", "mpnc -l"]);
}
