//! `--doctor` on loopback: what it says of whoever answers at the port, and that it disturbs nobody. The faults it
//! finds on real bonds are in scenarios/doctor*.toml.

mod common;

use common::data::{Noise, pour};
use common::process::{Ended, Side};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

/// The exit code of findings.
const FINDINGS: i32 = 5;

/// What a side prints on standard output, and how it ends.
fn told(mut side: Side) -> (String, Ended) {
    let mut text = String::new();
    side.stdout().read_to_string(&mut text).unwrap();
    (text, side.end())
}

fn examine(port: u16, args: &[&str]) -> (String, Ended) {
    let port = port.to_string();
    told(Side::start_with(&[args, &["--doctor", "127.0.0.1", &port]].concat(), Stdio::null(), Stdio::piped()))
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn two_doctors_tell_each_other_and_nothing_is_in_the_way_of_loopback() {
    let (listener, port) = Side::receiver(&["--doctor"]);
    let (text, end) = examine(port, &[]);
    end.with_code(0);
    contains(
        &text,
        &[
            "this host (127.0.0.1",
            "the other host (127.0.0.1",
            "the destination is this host",
            "an mpnc --doctor answers",
        ],
    );
    contains(&text, &["nothing is in the way of full speed"]);
    let (text, end) = told(listener);
    end.with_code(0);
    contains(&text, &["the other host (127.0.0.1", "nothing is in the way of full speed"]);
}

#[test]
fn the_machine_form_is_one_object_a_session() {
    let (mut listener, port) = Side::receiver(&["--doctor", "--json", "-k"]);
    let mut output = BufReader::new(listener.stdout());
    for _ in 0..2 {
        let (text, end) = examine(port, &["--json"]);
        end.with_code(0);
        let diagnosis: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(diagnosis["version"], 1);
        assert_eq!(diagnosis["findings"], 0);
        assert!(diagnosis["here"]["checks"].is_array() && diagnosis["there"]["facts"]["kernel"].is_string());
        assert!(diagnosis["between"][0]["name"] == "port");
    }
    for _ in 0..2 {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["findings"], 0, "{line}");
    }
    listener.signal("TERM");
    listener.end().with_code(128 + 15);
}

#[test]
fn a_listener_that_waits_for_data_keeps_waiting_for_it() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let (text, end) = examine(port, &[]);
    end.with_code(0);
    contains(&text, &["is open and an mpnc listens", "--doctor", "-> for the checks of that side"]);
    let sender = Side::sender(port, &[], 100_000);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), common::data::Digest::of_noise(100_000));
}

#[test]
fn a_doctor_takes_no_data() {
    let (listener, port) = Side::receiver(&["--doctor"]);
    let mut sender = Side::start(&["127.0.0.1", &port.to_string()]);
    pour(Noise::new(1000), sender.stdin());
    sender.end().with_code(4).saying(&["--doctor"]);
    let (_, end) = examine(port, &[]);
    end.with_code(0);
    listener.end().with_code(0);
}

#[test]
fn a_port_without_a_listener_is_a_finding_with_its_remedy() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (text, end) = examine(port, &[]);
    end.with_code(FINDINGS);
    contains(&text, &["connection refused", "-> start `mpnc -l` there first", "1 finding"]);
}

#[test]
fn who_answers_and_is_no_mpnc_is_a_finding() {
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port();
    // It ends with the test program: there is always one more who might come.
    thread::spawn(move || {
        for mut socket in web.incoming().map(Result::unwrap) {
            let _ = socket.read(&mut [0; 512]);
            // Whoever has seen enough of it does not wait for the rest.
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let (text, end) = examine(port, &[]);
    end.with_code(FINDINGS);
    contains(&text, &["what answers is no mpnc", "HTTP", "-> take another port"]);
}

#[test]
fn a_peer_that_vanishes_is_told_of() {
    let (listener, port) = Side::receiver(&["--doctor"]);
    listener.signal("STOP");
    let doctor =
        Side::start_with(&["-w", "2", "--doctor", "127.0.0.1", &port.to_string()], Stdio::null(), Stdio::piped());
    let (text, end) = told(doctor);
    end.with_code(FINDINGS);
    contains(&text, &["it took the connection but said nothing"]);
    listener.signal("CONT");
}
