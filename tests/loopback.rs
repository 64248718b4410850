//! Both ends on this host, the real program: what goes in comes out, whatever its length, its pace, its reader, its
//! streams.
//!
//! Needs no privilege and nothing but loopback. What a hostile or failing peer does is in `faults`.

mod common;
#[path = "loopback/memory.rs"]
mod memory;

use common::data::{Digest, Noise, drain, pour};
use common::process::{Ended, Side};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Sends `len` bytes and asserts that both sides call it a success and that they are the same bytes. Answers the
/// sender's end.
#[track_caller]
fn intact(len: u64, receiver_args: &[&str], sender_args: &[&str]) -> Ended {
    let (mut receiver, port) = Side::receiver(receiver_args);
    let output = receiver.drain();
    let sender = Side::sender(port, sender_args, len);
    let (sent, received) = (sender.end(), receiver.end());
    sent.with_code(0).saying(&["delivery confirmed"]);
    received.with_code(0).saying(&["all written"]);
    assert_eq!(output.join().unwrap(), Digest::of_noise(len));
    sent
}

// --- lengths ---------------------------------------------------------------------------------------------------------

#[test]
fn nothing_is_delivered_as_nothing() {
    intact(0, &[], &[]);
    intact(0, &[], &["--streams", "4"]);
}

#[test]
fn short_inputs_are_intact() {
    for len in [1, 2, 4095, 4096, 4097] {
        intact(len, &[], &["--streams", "3"]);
    }
}

#[test]
fn inputs_around_the_block_are_intact() {
    for len in [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1] {
        intact(len, &[], &["--streams", "2"]);
    }
}

#[test]
fn inputs_around_the_window_are_intact() {
    for len in [64 * MIB - 1, 64 * MIB, 64 * MIB + 1] {
        intact(len, &[], &["--streams", "2"]);
    }
}

#[test]
fn inputs_around_small_windows_and_blocks_are_intact() {
    let small = ["--window", "16K", "--block", "4K"];
    for len in [4095, 4097, 8191, 8193, 16383, 16384, 16385, 32769, MIB + 1] {
        intact(len, &small, &[&small[..], &["--streams", "3"]].concat());
    }
}

#[test]
fn the_two_sides_may_differ_in_window_and_block() {
    intact(20 * MIB, &["--window", "1M", "--block", "64K"], &["--window", "64M", "--block", "256K", "--streams", "2"]);
    intact(20 * MIB, &["--window", "64M"], &["--window", "64K", "--block", "8K", "--streams", "4"]);
}

#[test]
fn much_more_than_the_window_is_intact() {
    intact(256 * MIB, &[], &["--streams", "4"]);
}

// --- streams and addresses -------------------------------------------------------------------------------------------

#[test]
fn any_number_of_streams_is_intact() {
    for streams in 1..=16 {
        let sent = intact(4 * MIB, &["--block", "64K"], &["--block", "64K", "--streams", &streams.to_string()]);
        let stated = if streams == 1 { "over 1 stream;".to_owned() } else { format!("over {streams} streams") };
        sent.saying(&[&stated]);
    }
}

fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// A transfer from `host` as typed, with both sides' arguments.
#[track_caller]
fn intact_by_address(listen: &[&str], connect: &[&str], host: &str) {
    let (mut receiver, port) = Side::receiver(listen);
    let output = receiver.drain();
    let mut sender = Side::start(&[connect, &["--streams", "2", host, &port.to_string()]].concat());
    pour(Noise::new(MIB), sender.stdin());
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB), "{listen:?} {connect:?} {host}");
}

#[test]
fn both_address_families_reach_a_listener_on_all_addresses() {
    intact_by_address(&[], &[], "127.0.0.1");
    intact_by_address(&["-4"], &["-4"], "127.0.0.1");
    intact_by_address(&["127.0.0.1"], &["-n"], "127.0.0.1");
    intact_by_address(&["127.0.0.1"], &["-s", "127.0.0.1"], "127.0.0.1");
    if has_ipv6() {
        intact_by_address(&[], &[], "::1");
        intact_by_address(&["-6"], &["-6"], "::1");
        intact_by_address(&["::1"], &[], "::1");
    }
}

#[test]
fn a_name_is_tried_address_by_address() {
    // Where localhost is ::1 as well, that is refused here, and comes first or second.
    intact_by_address(&["-4", "127.0.0.1"], &[], "localhost");
}

// --- pace ------------------------------------------------------------------------------------------------------------

#[test]
fn every_line_of_a_slow_trickle_arrives_at_once() {
    let (mut receiver, port) = Side::receiver(&[]);
    let mut sender = Side::start(&["--streams", "3", "127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    let mut output = BufReader::new(receiver.stdout());
    for n in 0..8 {
        let line = format!("line {n}\n");
        input.write_all(line.as_bytes()).unwrap();
        let mut arrived = String::new();
        // The input stays open: if the line waited for more, this would never return.
        output.read_line(&mut arrived).unwrap();
        assert_eq!(arrived, line);
    }
    drop(input);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.read_line(&mut String::new()).unwrap(), 0);
}

#[test]
fn a_pause_of_the_input_beyond_the_timeout_is_no_error() {
    let (mut receiver, port) = Side::receiver(&["-w", "2"]);
    let output = receiver.drain();
    let mut sender = Side::start(&["-w", "2", "--streams", "2", "127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    input.write_all(b"before ").unwrap();
    thread::sleep(Duration::from_secs(4));
    input.write_all(b"after").unwrap();
    drop(input);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of(&b"before after"[..]));
}

#[test]
fn a_reader_that_stalls_beyond_the_timeout_is_no_error_and_costs_no_memory() {
    let len = 256 * MIB;
    let (mut receiver, port) = Side::receiver(&["-w", "2"]);
    let sender = Side::sender(port, &["-w", "2", "--streams", "4"], len);
    let mut output = receiver.stdout();
    let mut beginning = vec![0; 1000];
    output.read_exact(&mut beginning).unwrap();
    thread::sleep(Duration::from_secs(5));
    let all = Digest::of(beginning.chain(output));
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(all, Digest::of_noise(len));
}

#[test]
fn a_side_that_is_stopped_for_a_while_goes_on() {
    let len = 256 * MIB;
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--streams", "3"], len);
    for side in [&sender, &receiver] {
        thread::sleep(Duration::from_millis(50));
        side.signal("STOP");
        thread::sleep(Duration::from_millis(1500));
        side.signal("CONT");
    }
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(len));
}

/// Hands on a little at a time.
struct Slow<R>(R);

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        thread::sleep(Duration::from_millis(1));
        let len = out.len().min(20_000);
        self.0.read(&mut out[..len])
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    let len = 20 * MIB;
    let (mut receiver, port) = Side::receiver(&["--window", "1M"]);
    let output = drain(Slow(receiver.stdout()));
    let sender = Side::sender(port, &["--streams", "3"], len);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(len));
}

#[test]
fn a_gigabyte_passes_within_bounded_memory() {
    // The bound is asserted of every side in every test; this is the one that would outgrow it.
    intact(1 << 30, &[], &["--streams", "4"]);
}

// --- files -----------------------------------------------------------------------------------------------------------

#[test]
fn files_are_read_and_written_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::io::copy(&mut Noise::new(3 * MIB + 7), &mut File::create(&from).unwrap()).unwrap();
    fs::write(&to, vec![b'x'; 5 << 20]).unwrap();
    let (receiver, port) = Side::receiver(&["--force", "-o", to.to_str().unwrap()]);
    let sender = Side::start(&["-i", from.to_str().unwrap(), "--streams", "2", "127.0.0.1", &port.to_string()]);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    // What was longer before is cut: the output is the input, not the input and a rest.
    assert_eq!(Digest::of(File::open(to).unwrap()), Digest::of_noise(3 * MIB + 7));
}

#[test]
fn redirected_files_are_read_and_written_from_where_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::write(&from, "skip this, send this").unwrap();
    let mut input = File::open(&from).unwrap();
    input.read_exact(&mut [0; 11]).unwrap();
    let mut output = File::create(&to).unwrap();
    output.write_all(b"kept;").unwrap();
    let (receiver, port) = Side::receiver_to(&[], output.into());
    let sender = Side::start_with(&["127.0.0.1", &port.to_string()], input.into(), std::process::Stdio::piped());
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(fs::read_to_string(to).unwrap(), "kept;send this");
}

// --- the summary -----------------------------------------------------------------------------------------------------

#[test]
fn the_summary_can_be_read_by_machines() {
    let (mut receiver, port) = Side::receiver(&["--json"]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--json", "--streams", "2"], 100_000);
    for (side, role) in [(sender.end(), "sender"), (receiver.end(), "receiver")] {
        let line = side.with_code(0).words.lines().last().unwrap();
        let summary: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&summary["role"], &summary["bytes"]), (&role.into(), &100_000.into()), "{line}");
        assert_eq!(summary["confirmed"], true, "{line}");
    }
    assert_eq!(output.join().unwrap().len, 100_000);
}

#[test]
fn a_quiet_side_says_nothing_of_a_success() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sent = Side::sender(port, &["-q", "--streams", "2"], MIB).end();
    assert_eq!(sent.with_code(0).words, "");
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

// --- directions ------------------------------------------------------------------------------------------------------

#[test]
fn both_directions_at_once_are_intact_each_with_its_own_end() {
    let (short, long) = (MIB + 1, 40 * MIB);
    let mut listener = Side::start(&["-l", "--duplex", "0"]);
    let line = listener.wait_for_words("listening on ");
    let port = line.rsplit(':').next().unwrap();
    let mut connector = Side::start(&["--duplex", "--streams", "3", "127.0.0.1", port]);
    pour(Noise::new(short), listener.stdin());
    pour(Noise::new(long), connector.stdin());
    let (at_listener, at_connector) = (listener.drain(), connector.drain());
    connector.end().with_code(0);
    listener.end().with_code(0);
    assert_eq!(at_listener.join().unwrap(), Digest::of_noise(long));
    assert_eq!(at_connector.join().unwrap(), Digest::of_noise(short));
}

#[test]
fn the_listener_sends_when_both_sides_say_so() {
    let len = 20 * MIB;
    let mut listener = Side::start(&["-l", "--reverse", "0"]);
    let line = listener.wait_for_words("listening on ");
    let port = line.rsplit(':').next().unwrap();
    pour(Noise::new(len), listener.stdin());
    let mut connector = Side::start_with(
        &["--reverse", "--streams", "3", "127.0.0.1", port],
        std::process::Stdio::null(),
        std::process::Stdio::piped(),
    );
    let output = connector.drain();
    connector.end().with_code(0);
    listener.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(len));
}
