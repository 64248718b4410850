//! What goes wrong at the two ends: a side is killed or interrupted, an output breaks, an input cannot be read, nobody
//! is there.
//!
//! Each of these ends in bounded time, with the documented exit code and one clear line on every side that still lives,
//! and never with a short output called a success. What goes wrong between the ends is in `network`.

mod common;
#[path = "common/stats.rs"]
mod stats;
#[path = "faults/whole.rs"]
mod whole;

use common::data::{Digest, Noise, drain, pour};
use common::process::{Ended, Side};
use stats::Stats;
use std::fs::{self, OpenOptions};
use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

/// Exit codes, as `--help` documents them.
const SYSTEM: i32 = 1;
const UNREACHABLE: i32 = 3;
const PEER: i32 = 4;
const SIGHUP: i32 = 128 + 1;
const SIGINT: i32 = 128 + 2;
const SIGTERM: i32 = 128 + 15;

/// More than any test waits for.
const ENDLESS: u64 = 1 << 50;

/// A transfer without end that has begun: some output has come out.
struct Running {
    receiver: Side,
    sender: Side,
    output: JoinHandle<Digest>,
}

fn running(timeout: &str) -> Running {
    let (mut receiver, port) = Side::receiver(&["-w", timeout]);
    let sender = Side::sender(port, &["-w", timeout, "--streams", "3"], ENDLESS);
    let mut output = receiver.stdout();
    output.read_exact(&mut vec![0; 1 << 20]).unwrap();
    Running { receiver, sender, output: drain(output) }
}

/// The sender reads what it cannot have, and the receiver is told.
fn unreadable(path: &str, reason: &str) {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let sender = Side::start(&["-i", path, "--streams", "2", "127.0.0.1", &port.to_string()]);
    sender.end().with_code(SYSTEM).saying(&["cannot read", path, reason]);
    receiver.end().with_code(PEER).saying(&["127.0.0.1", "gave up", "cannot read", path, reason]);
    assert_eq!(output.join().unwrap().len, 0);
}

// --- killed and interrupted ------------------------------------------------------------------------------------------

#[test]
fn a_killed_sender_is_noticed() {
    let Running { receiver, sender, output } = running("3");
    sender.signal("KILL");
    let ended = receiver.end();
    ended.with_code(PEER).saying(&["lost 127.0.0.1", "bytes had been delivered"]);
    let said = ended.words.split(" bytes had been delivered").next().and_then(|words| words.rsplit(' ').next());
    let delivered: u64 = said.unwrap().parse().unwrap();
    // Its first megabyte was read before it was killed.
    let there = (1 << 20) + output.join().unwrap().len;
    assert!(delivered > 0 && delivered <= there, "{delivered} bytes are said to be delivered, {there} are");
}

#[test]
fn a_killed_sender_that_had_nothing_to_say_is_noticed() {
    let (mut receiver, port) = Side::receiver(&["-w", "3"]);
    let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    input.write_all(b"one line\n").unwrap();
    let mut output = receiver.stdout();
    output.read_exact(&mut [0; 9]).unwrap();
    sender.signal("KILL");
    receiver.end().with_code(PEER).saying(&["lost 127.0.0.1", "9 bytes had been delivered"]);
    drop((input, output));
}

#[test]
fn a_killed_receiver_is_noticed() {
    let Running { receiver, sender, .. } = running("3");
    receiver.signal("KILL");
    sender.end().with_code(PEER).saying(&["127.0.0.1", "gone", "bytes had been delivered"]);
}

#[test]
fn an_interrupted_sender_tells_its_receiver() {
    for (signal, code) in [("INT", SIGINT), ("TERM", SIGTERM)] {
        let Running { receiver, sender, .. } = running("30");
        sender.signal(signal);
        sender.end().with_code(code).saying(&["interrupted by SIG", signal, "bytes had been delivered"]);
        receiver.end().with_code(PEER).saying(&["the other side", "127.0.0.1", "interrupted by SIG", signal]);
    }
}

#[test]
fn an_interrupted_receiver_tells_its_sender() {
    for (signal, code) in [("INT", SIGINT), ("TERM", SIGTERM)] {
        let Running { receiver, sender, .. } = running("30");
        receiver.signal(signal);
        receiver.end().with_code(code).saying(&["interrupted by SIG", signal, "bytes had been delivered"]);
        sender.end().with_code(PEER).saying(&["the other side", "127.0.0.1", "interrupted by SIG", signal]);
    }
}

#[test]
fn a_receiver_whose_reader_stalls_can_be_interrupted() {
    let (mut receiver, port) = Side::receiver(&[]);
    let sender = Side::sender(port, &[], ENDLESS);
    let mut output = receiver.stdout();
    output.read_exact(&mut [0; 100]).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    // The writer thread hangs in write(2), and nobody reads.
    receiver.signal("INT");
    receiver.end().with_code(SIGINT).saying(&["interrupted by SIGINT"]);
    sender.end().with_code(PEER).saying(&["interrupted by SIGINT"]);
    drop(output);
}

#[test]
fn a_sender_whose_input_says_nothing_can_be_interrupted() {
    let (receiver, port) = Side::receiver(&[]);
    let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    input.write_all(b"a little").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    // The reader thread hangs in read(2), and nobody writes.
    sender.signal("TERM");
    sender.end().with_code(SIGTERM).saying(&["interrupted by SIGTERM"]);
    receiver.end().with_code(PEER).saying(&["interrupted by SIGTERM"]);
    drop(input);
}

#[test]
fn a_receiver_that_waits_for_a_sender_can_be_interrupted() {
    for (signal, code) in [("INT", SIGINT), ("TERM", SIGTERM)] {
        let (receiver, _) = Side::receiver(&[]);
        receiver.signal(signal);
        receiver.end().with_code(code).saying(&["interrupted by SIG", signal]);
    }
}

#[test]
fn signals_that_are_ignored_stay_so() {
    // What nohup does, and a shell for a job in the background of a script.
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let (stats, mpnc) = (Stats::new(), env!("CARGO_BIN_EXE_mpnc"));
    let script = format!("trap '' HUP INT; exec {mpnc} --stats {} 127.0.0.1 {port}", stats.path());
    let mut sender = Side::of(Command::new("sh").args(["-c", &script]), Stdio::piped(), Stdio::piped());
    let mut input = sender.stdin();
    input.write_all(b"before ").unwrap();
    stats.wait_for_streams(1);
    sender.signal("HUP");
    sender.signal("INT");
    input.write_all(b"after").unwrap();
    drop(input);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of(&b"before after"[..]));
}

#[test]
fn a_hangup_ends_a_transfer_that_nobody_protects() {
    let Running { receiver, sender, .. } = running("30");
    sender.signal("HUP");
    sender.end().with_code(SIGHUP).saying(&["interrupted by SIGHUP"]);
    receiver.end().with_code(PEER).saying(&["interrupted by SIGHUP"]);
}

// --- outputs and inputs ----------------------------------------------------------------------------------------------

#[test]
fn a_full_output_is_told_on_both_sides() {
    for len in [1, 1 << 20, ENDLESS] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (receiver, port) = Side::receiver_to(&[], full.into());
        let sender = Side::sender(port, &["--streams", "2"], len);
        receiver.end().with_code(SYSTEM).saying(&["cannot write", "standard output", "no space left on device"]);
        sender.end().with_code(PEER).saying(&["the other side", "gave up", "cannot write", "no space left on device"]);
    }
}

#[test]
fn a_named_output_that_is_full_is_told_by_name() {
    let (receiver, port) = Side::receiver(&["-o", "/dev/full"]);
    let sender = Side::sender(port, &[], 1000);
    receiver.end().with_code(SYSTEM).saying(&["cannot write", "/dev/full", "no space left on device"]);
    sender.end().with_code(PEER).saying(&["gave up", "/dev/full", "no space left on device"]);
}

#[test]
fn an_output_that_closes_early_is_told_on_both_sides() {
    let (mut receiver, port) = Side::receiver(&[]);
    let sender = Side::sender(port, &["--streams", "3"], ENDLESS);
    // What `head -c 100000` does.
    let mut output = receiver.stdout();
    output.read_exact(&mut vec![0; 100_000]).unwrap();
    drop(output);
    receiver.end().with_code(SYSTEM).saying(&["cannot write", "standard output", "broken pipe"]);
    sender.end().with_code(PEER).saying(&["the other side", "gave up", "cannot write", "broken pipe"]);
}

#[test]
fn with_data_both_ways_a_broken_output_of_either_side_ends_both() {
    for at_listener in [true, false] {
        let mut listener = Side::start(&["-l", "--duplex", "0"]);
        let port = listener.wait_for_words("listening on ").rsplit(':').next().unwrap().to_owned();
        let mut connector = Side::start(&["--duplex", "--streams", "2", "127.0.0.1", &port]);
        for side in [&mut listener, &mut connector] {
            pour(Noise::new(ENDLESS), side.stdin());
        }
        let (mut broken, mut whole) = if at_listener { (listener, connector) } else { (connector, listener) };
        let kept = whole.drain();
        broken.stdout().read_exact(&mut [0; 1000]).unwrap();
        broken.end().with_code(SYSTEM).saying(&["cannot write", "broken pipe"]);
        whole.end().with_code(PEER).saying(&["the other side", "gave up", "broken pipe"]);
        kept.join().unwrap();
    }
}

#[test]
fn a_killed_listener_that_sends_is_noticed() {
    let mut listener = Side::start(&["-l", "--reverse", "0"]);
    let port = listener.wait_for_words("listening on ").rsplit(':').next().unwrap().to_owned();
    pour(Noise::new(ENDLESS), listener.stdin());
    let mut connector = Side::start(&["--reverse", "-w", "3", "127.0.0.1", &port]);
    let mut output = connector.stdout();
    output.read_exact(&mut [0; 1000]).unwrap();
    let output = drain(output);
    listener.signal("KILL");
    connector.end().with_code(PEER).saying(&["127.0.0.1", "bytes had been delivered"]);
    output.join().unwrap();
}

#[test]
fn an_output_that_cannot_be_opened_ends_the_receiver_before_anything_else() {
    let args = ["-l", "-o", "/nonexistent/file", "0"];
    Side::start(&args).end().with_code(SYSTEM).saying(&["cannot open", "/nonexistent/file", "no such file"]);
}

#[test]
fn an_input_that_cannot_be_read_is_told_on_both_sides() {
    unreadable("/proc/self/mem", "input/output error");
}

#[test]
fn an_input_that_cannot_be_opened_leaves_the_receiver_waiting() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    for (path, reason) in [("/nonexistent/file", "no such file"), ("/", "is a directory")] {
        let sender = Side::start(&["-i", path, "127.0.0.1", &port.to_string()]);
        sender.end().with_code(SYSTEM).saying(&["cannot open", path, reason]);
    }
    Side::sender(port, &[], 1000).end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(1000));
}

/// Starts mpnc from a shell that closes one of its standard files.
fn with_closed(args: &str, redirection: &str) -> Ended {
    let script = format!("exec {} {args} {redirection}", env!("CARGO_BIN_EXE_mpnc"));
    Side::of(Command::new("sh").args(["-c", &script]), Stdio::piped(), Stdio::piped()).end()
}

#[test]
fn a_closed_standard_output_loses_nothing_silently() {
    with_closed("-l 0", ">&-").with_code(SYSTEM).saying(&["standard output", "closed"]);
}

#[test]
fn a_closed_standard_input_is_not_an_empty_one() {
    with_closed("127.0.0.1 9", "<&-").with_code(SYSTEM).saying(&["standard input", "closed"]);
}

// --- nobody there ----------------------------------------------------------------------------------------------------

/// A port of this host on which nobody listens, for as long as the socket lives.
fn unused_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

#[test]
fn a_refused_connection_is_unreachable() {
    let (_held, port) = unused_port();
    let target = format!("127.0.0.1:{port}");
    for streams in ["1", "4"] {
        let sender = Side::sender(port, &["--streams", streams], 1000);
        sender.end().with_code(UNREACHABLE).saying(&["cannot connect", &target, "connection refused", "mpnc -l"]);
    }
}

#[test]
fn a_port_without_a_listener_does_not_answer_itself() {
    // From its own port a socket connects to itself; the kernel gives it that one now and then.
    for host in ["127.0.0.1", "::1"] {
        let (held, port) = unused_port();
        drop(held);
        let port = port.to_string();
        let sender = Side::start(&["-p", &format!("{port}-{port}"), host, &port]);
        sender.end().with_code(UNREACHABLE).saying(&["cannot connect", "connection refused", "mpnc -l"]);
    }
}

#[test]
fn an_unknown_host_is_unreachable() {
    // Too long for a name: the resolver knows without asking anybody.
    let host = "x".repeat(64);
    let sender = Side::start(&[&host, "31337"]);
    sender.end().with_code(UNREACHABLE).saying(&["cannot resolve", &host, "name"]);
}

#[test]
fn a_port_in_use_is_refused_and_the_output_left_alone() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept");
    fs::write(&kept, "precious").unwrap();
    let receiver = Side::start(&["-l", "-o", kept.to_str().unwrap(), "127.0.0.1", &port]);
    receiver.end().with_code(SYSTEM).saying(&["cannot listen", &port, "address already in use", "ss -ltnp"]);
    assert_eq!(fs::read_to_string(kept).unwrap(), "precious");
}

#[test]
fn two_receivers_never_share_a_port() {
    let (first, port) = Side::receiver(&["127.0.0.1"]);
    let second = Side::start(&["-l", "127.0.0.1", &port.to_string()]);
    second.end().with_code(SYSTEM).saying(&["cannot listen", "address already in use"]);
    drop(first);
}

#[test]
fn an_address_of_another_host_cannot_be_listened_on() {
    // TEST-NET-1 (RFC 5737) is nobody's.
    let receiver = Side::start(&["-l", "192.0.2.1", "0"]);
    receiver.end().with_code(SYSTEM).saying(&["cannot listen on 192.0.2.1", "no interface has this address"]);
}

#[test]
fn a_source_address_of_another_host_is_refused() {
    let (_receiver, port) = Side::receiver(&[]);
    let sender = Side::sender(port, &["-s", "192.0.2.1"], 1000);
    sender.end().with_code(UNREACHABLE).saying(&["192.0.2.1", "-s"]);
}

// --- one receiver, one session ---------------------------------------------------------------------------------------

#[test]
fn a_second_sender_is_refused_with_words_and_disturbs_nobody() {
    let len = 20 << 20;
    let (mut receiver, port) = Side::receiver(&[]);
    let mut output = receiver.stdout();
    let first = Side::sender(port, &["--streams", "2"], len);
    let mut beginning = vec![0; 1000];
    output.read_exact(&mut beginning).unwrap();
    let second = Side::sender(port, &["--streams", "2"], 1000);
    second.end().with_code(PEER).saying(&["127.0.0.1", "refused", "busy"]);
    let output = drain(Cursor::new(beginning).chain(output));
    first.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(len));
}

#[test]
fn sides_that_disagree_about_the_direction_say_so() {
    let (receiver, port) = Side::receiver(&[]);
    let sender = Side::sender(port, &["--duplex"], 1000);
    sender.end().with_code(PEER).saying(&["refused", "same option on both sides"]);
    drop(receiver);
}

#[test]
fn an_output_file_of_a_failed_transfer_holds_only_what_was_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let (receiver, port) = Side::receiver(&["-w", "3", "-o", to.to_str().unwrap()]);
    let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
    let mut input = sender.stdin();
    input.write_all(b"the beginning").unwrap();
    while fs::metadata(&to).map_or(0, |meta| meta.len()) < 13 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    sender.signal("KILL");
    receiver.end().with_code(PEER).saying(&["lost", "13 bytes had been delivered"]);
    assert_eq!(fs::read_to_string(to).unwrap(), "the beginning");
}
