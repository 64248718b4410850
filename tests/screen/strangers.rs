//! Strangers: whoever connects and is not let in, and what a peer can make us print.

use super::common::process::Side;
use super::{LIMIT, LOOK};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

/// Connects, says `words`, and waits to be shown out.
fn call(port: u16, words: &[u8]) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _ = socket.write_all(words);
    let _ = socket.read_to_end(&mut Vec::new());
}

/// A greeting that asks for data the other way, which the listener refuses in words.
fn unwelcome(port: u16) {
    let sender = Side::start(&["--reverse", "127.0.0.1", &port.to_string()]);
    sender.end().with_code(4);
}

#[test]
fn strangers_of_all_kinds_get_one_line_a_second_and_the_others_are_counted() {
    const STRANGERS: u64 = 400;
    let started = Instant::now();
    let (mut receiver, port) = Side::receiver(&["-k"]);
    let output = receiver.drain();
    let sender = Side::sender(port, &["--rate", "2MB"], 4_000_000);
    for n in 0..STRANGERS {
        match n % 40 {
            0 => unwelcome(port),
            1..20 => call(port, &[b'x'; 1000]),
            _ => call(port, b"\x89mpnc\r\n\x09"),
        }
    }
    sender.end().with_code(0);
    // The last ones are told of as well.
    thread::sleep(std::time::Duration::from_millis(1200));
    receiver.signal("TERM");
    let ended = receiver.end();
    let most = started.elapsed().as_secs() + 2;
    ended.with_code(128 + 15);
    output.join().unwrap();
    let about = |line: &&str| ["was not mpnc's", "refused 127", "turned away"].iter().any(|part| line.contains(part));
    let lines: Vec<&str> = ended.words.lines().filter(about).collect();
    assert!(!lines.is_empty() && lines.len() as u64 <= most, "{} lines: {lines:#?}", lines.len());
    assert!(lines.iter().all(|line| line.len() < 300), "{lines:#?}");
    let counted = |line: &&str| -> u64 {
        match (line.split_once("; before it "), line.split_once(" more connections")) {
            (Some((_, rest)), _) => 1 + rest.split(' ').next().unwrap().parse::<u64>().unwrap(),
            (None, Some((front, _))) => front.rsplit(' ').next().unwrap().parse().unwrap(),
            (None, None) => 1,
        }
    };
    assert_eq!(lines.iter().map(counted).sum::<u64>(), STRANGERS, "{lines:#?}");
}

#[test]
fn with_v_too_but_twice_v_tells_of_each() {
    for (option, least, most) in [("-v", 1, 20), ("-vv", 50, usize::MAX)] {
        let (receiver, port) = Side::receiver(&["-k", option]);
        (0..50).for_each(|_| call(port, b"GET / HTTP/1.0\r\n\r\n"));
        let started = Instant::now();
        thread::sleep(LOOK);
        receiver.signal("TERM");
        let ended = receiver.end();
        assert!(started.elapsed() < LIMIT);
        let told = ended.words.lines().filter(|line| line.contains("was not mpnc's")).count();
        assert!((least..=most).contains(&told), "{option}: {told} lines\n{}", ended.words);
    }
}
