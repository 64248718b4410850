//! How long each side waits for the other (`-w`), in every phase; that a sleep of its own is not the other's silence;
//! that one connection that fails is not all of them; that what a session held is free when it is over.
//!
//! Needs nothing but loopback. No test asserts that something was fast: only that nobody gave up too early, or ever.

#[path = "common/caller.rs"]
mod caller;
mod common;
#[path = "common/failed.rs"]
mod failed;
#[path = "common/input.rs"]
mod input;
#[path = "common/limited.rs"]
mod limited;
#[path = "common/porter.rs"]
mod porter;
#[path = "common/stats.rs"]
mod stats;

use caller::{Caller, is_accepted};
use common::data::Digest;
use common::process::Side;
use failed::failure_of;
use input::Input;
use limited::{Limited, wait_until};
use mpnc::wire::{Directions, Fault, Frame, Verdict};
use porter::{Fate, Porter};
use stats::Stats;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const UNREACHABLE: i32 = 3;
const PEER: i32 = 4;

// --- what -w means ---------------------------------------------------------------------------------------------------

#[test]
fn a_listener_waits_for_its_first_connection_whatever_its_patience() {
    let (mut receiver, port) = Side::receiver(&["-w", "1"]);
    let output = receiver.drain();
    thread::sleep(Duration::from_secs(3));
    Side::sender(port, &[], MIB).end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

#[test]
fn a_silent_listener_is_waited_for_as_long_as_was_asked() {
    for secs in [1, 12] {
        let porter = Porter::before(1, vec![Fate::Ignored; 2]);
        let start = Instant::now();
        let sender = Side::sender(porter.port, &["-w", &secs.to_string(), "--streams", "2"], MIB);
        sender.end().with_code(PEER).saying(&["said nothing"]);
        assert!(start.elapsed() >= Duration::from_secs(secs), "given up after {:?}", start.elapsed());
    }
}

#[test]
fn a_handshake_without_an_answer_is_waited_for_as_long_as_was_asked() {
    // A full queue drops whoever comes (listen(2), tcp(7)).
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let port = full.local_addr().unwrap().as_socket().unwrap().port();
    let _first = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for secs in [1, 12] {
        let start = Instant::now();
        let sender = Side::sender(port, &["-w", &secs.to_string()], MIB);
        sender.end().with_code(UNREACHABLE).saying(&["no answer"]);
        assert!(start.elapsed() >= Duration::from_secs(secs), "given up after {:?}", start.elapsed());
    }
}

#[test]
fn a_silent_caller_is_waited_for_as_long_as_was_asked_however_it_dribbles() {
    for (secs, dribbles) in [(2, true), (12, false)] {
        let (receiver, port) = Side::receiver(&["-w", &secs.to_string()]);
        let start = Instant::now();
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut bytes = mpnc::wire::preamble().into_iter().chain([1; 20]).cycle();
        while !matches!(socket.read(&mut [0; 1]), Ok(0)) {
            assert!(start.elapsed() < Duration::from_mins(1), "never closed");
            if dribbles && socket.write_all(&[bytes.next().unwrap()]).is_err() {
                break;
            }
        }
        assert!(start.elapsed() >= Duration::from_secs(secs), "given up after {:?}", start.elapsed());
        Side::sender(port, &[], 10).end().with_code(0);
        receiver.end().with_code(0);
    }
}

// --- own sleep -------------------------------------------------------------------------------------------------------

#[test]
fn what_both_sides_sleep_through_is_nobodys_silence() {
    for streams in ["1", "3"] {
        let (mut receiver, port) = Side::receiver(&["-w", "4"]);
        let output = receiver.drain();
        let (stats, port) = (Stats::new(), port.to_string());
        let args = ["--stats", stats.path(), "-w", "4", "--rate", "20M", "--streams", streams, "127.0.0.1", &port];
        let mut sender = Side::start(&args);
        let input = Input::into(sender.stdin());
        stats.wait_for_streams(1);
        sleep_both(&receiver, &sender, Duration::from_secs(8));
        let sent = input.end();
        sender.end().with_code(0);
        receiver.end().with_code(0);
        assert_eq!(output.join().unwrap(), sent);
    }
}

#[test]
fn a_greeting_that_both_sides_sleep_through_is_heard() {
    let (mut receiver, port) = Side::receiver(&["-w", "3"]);
    let output = receiver.drain();
    receiver.signal("STOP");
    let sender = Side::sender(port, &["-w", "3", "--streams", "2"], MIB);
    thread::sleep(Duration::from_secs(1));
    sleep_both(&receiver, &sender, Duration::from_secs(6));
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

fn sleep_both(receiver: &Side, sender: &Side, span: Duration) {
    for side in [receiver, sender] {
        side.signal("STOP");
    }
    thread::sleep(span);
    // Whoever wakes first must not blame the other.
    sender.signal("CONT");
    thread::sleep(Duration::from_millis(300));
    receiver.signal("CONT");
}

#[test]
fn what_one_side_sleeps_through_is_silence_to_the_other() {
    for sleeper_sends in [true, false] {
        let (mut receiver, port) = Side::receiver(&["-w", "2"]);
        let _output = receiver.drain();
        let (stats, port) = (Stats::new(), port.to_string());
        let mut sender = Side::start(&["--stats", stats.path(), "-w", "2", "--rate", "20M", "127.0.0.1", &port]);
        let _input = Input::into(sender.stdin());
        stats.wait_for_streams(1);
        let (sleeper, waiter) = if sleeper_sends { (sender, receiver) } else { (receiver, sender) };
        sleeper.signal("STOP");
        waiter.end().with_code(PEER).saying(&["lost 127.0.0.1"]);
        sleeper.signal("CONT");
        sleeper.end().with_code(PEER);
    }
}

// --- one connection of several ---------------------------------------------------------------------------------------

#[test]
fn one_of_four_that_fails_before_its_greeting_ends_nothing() {
    for fate in [Fate::Closed, Fate::Reset, Fate::Garbled, Fate::Ignored] {
        for victim in 0..4 {
            let (mut receiver, port) = Side::receiver(&[]);
            let output = receiver.drain();
            let mut fates = vec![Fate::Passes; 4];
            fates[victim] = fate;
            let porter = Porter::before(port, fates);
            let ended = Side::sender(porter.port, &["--streams", "4"], 4 * MIB).end();
            assert_eq!(ended.code, Some(0), "{fate:?} of number {victim}: {}", ended.words);
            receiver.end().with_code(0);
            assert_eq!(output.join().unwrap(), Digest::of_noise(4 * MIB), "{fate:?} of number {victim}");
        }
    }
}

#[test]
fn one_that_failed_before_its_greeting_is_had_later() {
    for fate in [Fate::Closed, Fate::Ignored] {
        let (mut receiver, port) = Side::receiver(&[]);
        let output = receiver.drain();
        let porter = Porter::before(port, vec![fate]);
        let mut sender = Side::start(&["-v", "-w", "3", "--streams", "3", "127.0.0.1", &porter.port.to_string()]);
        let input = Input::into(sender.stdin());
        wait_until("another has come", || porter.count() > 3);
        let sent = input.end();
        sender.end().with_code(0);
        receiver.end().with_code(0);
        assert_eq!(output.join().unwrap(), sent);
    }
}

#[test]
fn when_all_fail_the_most_telling_reason_is_given() {
    let all = [Fate::Closed, Fate::Reset, Fate::Garbled, Fate::Ignored];
    for first in 0..4 {
        let fates = (0..4).map(|n| all[(first + n) % 4]).collect();
        let porter = Porter::before(1, fates);
        let sender = Side::sender(porter.port, &["-w", "2", "--streams", "4"], MIB);
        sender.end().with_code(PEER).saying(&["does not speak mpnc", "HTTP"]);
    }
}

#[test]
fn a_second_stream_of_the_same_number_is_refused_and_the_first_goes_on() {
    let (receiver, port) = Side::receiver(&[]);
    let (mut first, welcome) = Caller::hello(port, 7, 0, Directions::Send);
    assert!(is_accepted(&welcome), "{welcome:?}");
    let (_second, welcome) = Caller::hello(port, 7, 0, Directions::Send);
    match &welcome.verdict {
        Verdict::Refused(_, words) => assert!(words.contains("stream 0"), "{words}"),
        Verdict::Accepted => panic!("two streams of one number"),
    }
    first.say(&Frame::End { total: 0, crc: 0 });
    while first.hear() != (Frame::Done { total: 0 }) {}
    first.say(&Frame::Bye);
    receiver.end().with_code(0);
}

// --- what is left ----------------------------------------------------------------------------------------------------

#[test]
fn who_has_gone_before_it_is_admitted_begins_no_session() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    receiver.signal("STOP");
    for streams in ["1", "4"] {
        let gone = Side::sender(port, &["-w", "1", "--streams", streams], MIB);
        gone.end().with_code(PEER).saying(&["said nothing"]);
    }
    receiver.signal("CONT");
    Side::sender(port, &[], MIB).end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

#[test]
fn what_a_session_held_is_free_when_it_is_over_whatever_its_peer_does() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("in"), vec![7; 32 << 20]).unwrap();
    let listener = Limited::listener(1024, "-k --json -w 3 --sessions 40 --window 16M --reverse -i in", &folder);
    let (descriptors, resident) = (listener.descriptors(), listener.resident());
    let mut deaf = Vec::new();
    for session in 1..=40 {
        let (mut caller, welcome) = Caller::hello(listener.port, session, 0, Directions::Receive);
        assert!(is_accepted(&welcome), "{welcome:?}");
        thread::sleep(Duration::from_millis(100));
        // It has never read. It gives up or falls silent, and neither reads on nor closes.
        if session % 2 == 0 {
            caller.say(&Frame::Error(Fault::new(Fault::OUTPUT, "no more")));
        }
        deaf.push(caller);
    }
    for session in 1..=40 {
        failure_of(&listener.side, session);
    }
    let held = || (listener.descriptors(), listener.resident());
    // What the process keeps for itself (its tables, threads' stacks) is less than two windows.
    wait_until("all is back", || held().0 <= descriptors && held().1 < resident + (32 << 20));
    assert!(listener.busy(Duration::from_secs(1)) < Duration::from_millis(400), "it has nothing to do");
    drop(deaf);
}
