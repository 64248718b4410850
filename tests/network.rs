//! What goes wrong between the two ends: streams die, stall, are damaged; strangers knock; the peer is not what it
//! should be.
//!
//! What the path does to single streams must not be seen in the result; what ends a transfer must be told on both
//! sides.

mod common;
#[path = "common/impostor.rs"]
mod impostor;
#[path = "common/input.rs"]
mod input;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/stats.rs"]
mod stats;

use common::data::{Digest, Noise, pour};
use common::process::Side;
use impostor::{HTTP_REQUEST, HTTP_RESPONSE, Impostor, OTHER_VERSION, call, pester};
use input::Input;
use proxy::{ACK, DATA, Damage, Part, Proxy};
use serde_json::Value;
use stats::Stats;
use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// More than any test waits for.
const ENDLESS: u64 = 1 << 50;
/// The exit code for it, as `--help` documents.
const PEER: i32 = 4;

/// A transfer through a proxy that goes on until `disturb` has done its work, and then ends: it must succeed, and be
/// intact.
#[track_caller]
fn survives(streams: usize, proxy: impl FnOnce(u16) -> Proxy, disturb: impl FnOnce(&Proxy)) {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let proxy = proxy(port);
    let mut sender = Side::start(&["--streams", &streams.to_string(), "127.0.0.1", &proxy.port.to_string()]);
    let input = Input::into(sender.stdin());
    disturb(&proxy);
    let sent = input.end();
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0).saying(&["all written"]);
    assert_eq!(output.join().unwrap(), sent);
}

// --- addresses -------------------------------------------------------------------------------------------------------

/// Sends to a receiver that listens so, with these words for its address.
#[track_caller]
fn reaches(listen: &[&str], to: &[&str]) {
    let (mut receiver, port) = Side::receiver(listen);
    let output = receiver.drain();
    let mut sender = Side::start(&[to, &[&port.to_string()]].concat());
    pour(Noise::new(1000), sender.stdin());
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(1000), "{listen:?} {to:?}");
}

#[test]
fn an_ipv4_address_is_taken_in_every_form() {
    let forms =
        ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "0", "127.1", "0x7f000001", "2130706433"];
    for form in forms {
        reaches(&[], &["-n", form]);
    }
    for form in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "localhost", "127.1"] {
        reaches(&["-4", form], &["127.0.0.1"]);
    }
    reaches(&[], &["-4", "localhost"]);
    reaches(&[], &["-6", "::ffff:127.0.0.1"]);
}

#[test]
fn an_ipv6_address_is_taken_in_every_form() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip::elsewhere("this machine has no ::1");
    }
    for form in ["::1", "[::1]", "::", "[::]", "0:0::1", "::1%lo"] {
        reaches(&[], &["-n", form]);
        reaches(&["-n", form], &["::1"]);
    }
}

#[test]
fn a_source_is_taken_in_every_form() {
    for source in ["127.0.0.1", "127.0.0.7", "::ffff:127.0.0.7", "127.7", "0.0.0.0", "::", "localhost"] {
        reaches(&["-4"], &["-4", "-s", source, "127.0.0.1"]);
    }
    let refused = |source| Side::start(&["-n", "-s", source, "127.0.0.1", "9"]).end();
    refused("fe80::1%nosuch").with_code(2).saying(&["no device 'nosuch'"]);
    refused("a-name").with_code(2).saying(&["'a-name' is no address"]);
    refused("::1").with_code(3).saying(&["family"]);
}

// --- streams ---------------------------------------------------------------------------------------------------------

#[test]
fn one_stream_that_is_reset_is_replaced() {
    survives(3, Proxy::to, |proxy| {
        proxy.wait_for(3, 2 * MIB);
        proxy.reset(1);
        proxy.wait_for(4, 2 * MIB);
    });
}

#[test]
fn the_only_stream_that_is_reset_is_replaced() {
    survives(1, Proxy::to, |proxy| {
        proxy.wait_for(1, 2 * MIB);
        proxy.reset(0);
        proxy.wait_for(2, 2 * MIB);
    });
}

#[test]
fn all_streams_that_are_reset_at_once_are_replaced() {
    survives(4, Proxy::to, |proxy| {
        proxy.wait_for(4, 2 * MIB);
        (0..4).for_each(|index| proxy.reset(index));
        proxy.wait_for(8, 2 * MIB);
    });
}

/// One stream in each of three loops of the connector, and each is reset once.
#[test]
fn a_stream_that_is_reset_is_replaced_in_whichever_loop() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let proxy = Proxy::to(port);
    let to = proxy.port.to_string();
    let mut sender = Side::start(&["--json", "--workers", "3", "--streams", "3", "127.0.0.1", &to]);
    let input = Input::into(sender.stdin());
    for index in 0..3 {
        proxy.wait_for(3 + index, MIB);
        proxy.reset(index);
    }
    proxy.wait_for(6, MIB);
    let sent = input.end();
    let ended = sender.end();
    ended.with_code(0);
    receiver.end().with_code(0).saying(&["all written"]);
    assert_eq!(output.join().unwrap(), sent);
    let summary: Value = serde_json::from_str(ended.words.lines().last().unwrap()).unwrap();
    let of = |worker: u64| summary["streams"].as_array().unwrap().iter().filter(|s| s["worker"] == worker).count();
    // A successor has the place of the one before it. (On a busy machine one that stalls may have got one, too.)
    assert!((0..3).all(|worker| of(worker) >= 2), "{summary}");
}

#[test]
fn a_storm_of_resets_costs_nothing() {
    survives(4, Proxy::to, |proxy| {
        proxy.wait_for(4, MIB);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(30));
            proxy.reset(proxy.count() - 1);
        }
        proxy.wait_for(5, MIB);
    });
}

#[test]
fn a_reset_at_any_moment_costs_nothing() {
    for round in 0..40 {
        let (mut receiver, port) = Side::receiver(&["-w", "5"]);
        let output = receiver.drain();
        let proxy = Proxy::to(port);
        let sender = Side::sender(proxy.port, &["-v", "--streams", "2"], MIB);
        sender.wait_for_words(" up from port");
        thread::sleep(Duration::from_micros(250 * round));
        (0..proxy.count()).for_each(|index| proxy.reset(index));
        sender.end().with_code(0).saying(&["delivery confirmed"]);
        let received = receiver.end();
        // Only the very last word, that the sender knows, may be lost; then the receiver cannot know it.
        let (code, words) = if received.code == Some(0) { (0, "all written") } else { (PEER, "everything is written") };
        received.with_code(code).saying(&[words]);
        assert_eq!(output.join().unwrap(), Digest::of_noise(MIB), "round {round}");
    }
}

#[test]
fn a_stream_that_falls_silent_is_replaced() {
    survives(3, Proxy::to, |proxy| {
        proxy.wait_for(3, 2 * MIB);
        proxy.blacken(0);
        proxy.wait_for(4, 2 * MIB);
    });
}

#[test]
fn a_stream_that_falls_silent_while_nothing_is_sent_is_replaced() {
    let (mut receiver, port) = Side::receiver(&[]);
    let proxy = Proxy::to(port);
    let mut sender = Side::start(&["--streams", "2", "127.0.0.1", &proxy.port.to_string()]);
    let (mut input, mut output) = (sender.stdin(), receiver.stdout());
    input.write_all(b"before").unwrap();
    output.read_exact(&mut [0; 6]).unwrap();
    proxy.wait_for(2, 1);
    proxy.blacken(0);
    proxy.wait_for(3, 1);
    input.write_all(b"after").unwrap();
    drop(input);
    sender.end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(Digest::of(output), Digest::of(&b"after"[..]));
}

#[test]
fn delay_changes_nothing() {
    let slow = |port| Proxy::slow(port, Duration::from_millis(20));
    survives(4, slow, |proxy| proxy.wait_for(4, 2 * MIB));
}

#[test]
fn streams_that_all_fall_silent_end_both_sides() {
    let (mut receiver, port) = Side::receiver(&["-w", "2"]);
    let output = receiver.drain();
    let proxy = Proxy::to(port);
    let sender = Side::sender(proxy.port, &["-w", "2", "--streams", "3"], ENDLESS);
    proxy.wait_for(3, 2 * MIB);
    proxy.blacken_all();
    sender.end().with_code(PEER).saying(&["lost 127.0.0.1", "bytes had been delivered"]);
    receiver.end().with_code(PEER).saying(&["lost 127.0.0.1", "bytes had been delivered"]);
    output.join().unwrap();
}

#[test]
fn a_side_that_freezes_is_given_up() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let stats = Stats::new();
    let sender = Side::sender(port, &["--stats", stats.path(), "-w", "2", "--streams", "3"], ENDLESS);
    stats.wait_for_streams(3);
    // As if its host had lost power: nothing is answered, nothing is closed.
    receiver.signal("STOP");
    sender.end().with_code(PEER).saying(&["lost 127.0.0.1", "bytes had been delivered"]);
    drop(receiver);
    output.join().unwrap();
}

// --- damage ----------------------------------------------------------------------------------------------------------

/// TCP's checksum lets one damaged segment in 65,536 through, and some middleboxes make it anew.
#[track_caller]
fn is_repaired(kind: u8, part: Part) {
    let damaging = |port| Proxy::damaging(port, Damage { kind, nth: 5, part });
    survives(3, damaging, |proxy| {
        proxy.wait_for_damage();
        // The damaged stream is given up, and another takes its place.
        proxy.wait_for(4, 1);
    });
}

#[test]
fn a_damaged_payload_is_repaired() {
    is_repaired(DATA, Part::Body);
}

#[test]
fn a_damaged_data_header_is_repaired() {
    is_repaired(DATA, Part::Header);
}

#[test]
fn a_damaged_acknowledgement_is_repaired() {
    is_repaired(ACK, Part::Body);
    is_repaired(ACK, Part::Header);
}

// --- strangers at the port -------------------------------------------------------------------------------------------

#[test]
fn a_thousand_strangers_do_not_disturb_a_transfer() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let stats = Stats::new();
    let mut sender = Side::start(&["--stats", stats.path(), "--streams", "4", "127.0.0.1", &port.to_string()]);
    let input = Input::into(sender.stdin());
    stats.wait_for_streams(1);
    // What stays open is open until the transfer is over.
    let held = pester(port, 1000);
    let sent = input.end();
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0).saying(&["all written"]);
    assert_eq!(output.join().unwrap(), sent);
    drop(held);
}

#[test]
fn strangers_before_the_sender_do_not_end_the_wait() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let held = pester(port, 300);
    assert_eq!(call(port, HTTP_REQUEST), b"", "HTTP gets no answer");
    receiver.wait_for_words("does not speak mpnc");
    assert_eq!(call(port, OTHER_VERSION), mpnc::wire::preamble(), "another version can read which one this is");
    Side::sender(port, &["--streams", "2"], MIB).end().with_code(0);
    receiver.end().with_code(0).saying(&["all written"]);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
    drop(held);
}

#[test]
fn a_connector_of_another_version_is_named() {
    let (receiver, port) = Side::receiver(&[]);
    call(port, OTHER_VERSION);
    receiver.wait_for_words("version 9 of the mpnc protocol");
}

#[test]
fn a_silent_connection_is_closed_by_and_by() {
    let (receiver, port) = Side::receiver(&["-w", "2"]);
    assert_eq!(call(port, b""), b"");
    Side::sender(port, &[], 10).end().with_code(0);
    receiver.end().with_code(0);
}

// --- a listener that is not mpnc -------------------------------------------------------------------------------------

fn sent_to(impostor: &Impostor, words: &[&str]) {
    let sender = Side::sender(impostor.port, &["-w", "3", "--streams", "2"], ENDLESS);
    sender.end().with_code(PEER).saying(&[&format!("127.0.0.1:{}", impostor.port)]).saying(words);
}

#[test]
fn a_web_server_is_not_mpnc() {
    sent_to(&Impostor::saying(HTTP_RESPONSE), &["does not speak mpnc", "HTTP"]);
}

#[test]
fn a_listener_of_another_version_is_named() {
    sent_to(
        &Impostor::saying(OTHER_VERSION),
        &["version 9", &format!("version {}", mpnc::wire::VERSION), "same release on both sides"],
    );
}

#[test]
fn a_listener_that_says_nothing_is_given_up() {
    sent_to(&Impostor::saying(b""), &["said nothing"]);
}

#[test]
fn a_listener_that_closes_is_not_mpnc() {
    sent_to(&Impostor::closing(), &["closed the connection without a greeting", "is that mpnc"]);
}

#[test]
fn a_listener_that_says_half_a_greeting_is_given_up() {
    sent_to(&Impostor::saying(b"\x89mpnc\r\n\x02\x02\x00"), &["said nothing"]);
}
