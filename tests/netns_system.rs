//! The system as this process sees it: devices of this network namespace, the route that connect(2) takes, filters and
//! holes on the way, an address that changes. Needs root, `ip` and `nft`.

mod common;
#[path = "common/netns.rs"]
mod namespace;
#[path = "common/needs.rs"]
mod needs;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/stats.rs"]
mod stats;
#[path = "netns/world.rs"]
mod world;

use common::data::{Digest, Noise, pour};
use common::process::Side;
use stats::Stats;
use std::io::Read;
use std::thread;
use std::time::Duration;
use world::{RECEIVER, SENDER, World};

const MIB: u64 = 1 << 20;
/// The exit codes for them, as `--help` documents.
const UNREACHABLE: i32 = 3;
const PEER: i32 = 4;

/// What a side prints on standard output, in JSON.
fn json(mut side: Side) -> serde_json::Value {
    let mut text = String::new();
    side.stdout().read_to_string(&mut text).unwrap();
    let end = side.end();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}; {end:?}"))
}

/// Sends `len` bytes from `a` to a port of the receiver.
fn sending(world: &World, port: &str, args: &[&str], len: u64) -> Side {
    let mut sender = world.mpnc("a", &[args, &[RECEIVER, port]].concat());
    pour(Noise::new(len), sender.stdin());
    sender
}

// --- devices ---------------------------------------------------------------------------------------------------------

/// A device of this machine that any namespace can have one like: its name and MTU.
fn device_of_this_host() -> Option<(String, u32)> {
    let entries = std::fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name != "lo");
    names.find_map(|name| Some((name.clone(), mtu(&name)?)))
}

fn mtu(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

#[test]
fn the_devices_of_this_namespace_are_seen_not_those_that_sysfs_shows() {
    let Some(world) = World::new() else { return };
    let Some((name, theirs)) = device_of_this_host() else {
        return skip::elsewhere("this machine has no device beside lo");
    };
    // Its like here, with another MTU.
    let own = if theirs == 1300 { 1310 } else { 1300 };
    world.ip("a", &format!("link add {name} mtu {own} type veth peer name other0"));
    for line in
        [format!("addr add 10.91.9.1/24 dev {name}"), format!("link set {name} up"), "link set other0 up".into()]
    {
        world.ip("a", &line);
    }
    let doctor = json(world.mpnc("a", &["--doctor", "--json", "-w", "1", "10.91.9.9", "31337"]));
    assert_eq!(doctor["here"]["facts"]["way"][0]["name"], name);
    assert_eq!(doctor["here"]["facts"]["way"][0]["mtu"], own);
}

#[test]
fn a_device_whose_name_is_no_text_is_a_device() {
    let Some(world) = World::new() else { return };
    world.shell("a", "ip link add \"$(printf 'odd\\377')\" type veth peer name other0");
    world.shell("a", "ip addr add 10.91.9.1/24 dev \"$(printf 'odd\\377')\"");
    world.shell("a", "ip link set \"$(printf 'odd\\377')\" up; ip link set other0 up");
    let plan = json(world.mpnc("a", &["--plan", "--json", "10.91.9.9", "31337"])).to_string();
    assert!(plan.contains(r"odd\\xff"), "{plan}");
}

#[test]
fn loopback_is_this_namespaces() {
    let Some(world) = World::new() else { return };
    let (mut receiver, port) = world.at("a", || Side::receiver(&[]));
    let output = receiver.drain();
    world.at("a", || Side::sender(port, &[], MIB)).end().with_code(0);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

// --- the route that connect(2) takes ---------------------------------------------------------------------------------

/// The sender's way out is in a table that only the source ports of `-p` lead to.
#[test]
fn the_route_is_asked_for_with_the_source_ports_that_will_be_used() {
    let Some(world) = World::new() else { return };
    world.ip("a", "route del default");
    world.ip("a", "route add default via 10.91.1.254 table 77");
    world.ip("a", "rule add ipproto tcp sport 40000-40099 lookup 77");
    let (mut receiver, port) = world.receiver(&[]);
    receiver.drain();
    sending(&world, &port, &["-p", "40000-40099", "--streams", "2"], MIB)
        .end()
        .with_code(0)
        .saying(&["over 2 streams"]);
    receiver.end().with_code(0);
    let lost = sending(&world, &port, &["--streams", "2"], MIB);
    lost.end().with_code(UNREACHABLE).saying(&["unreachable"]);
}

/// netlink is asked with TCP's ports; a rule may know more than it can be asked.
#[test]
fn what_connect_reaches_is_reached_where_no_route_can_be_shown() {
    let Some(world) = World::new() else { return };
    world.ip("a", "route del default");
    world.ip("a", "route add default via 10.91.1.254 table 77");
    // The kernel's own choice of ports leads out; the ports of plans do not.
    world.ip("a", "rule add sport 32768-60999 lookup 77");
    let (mut receiver, port) = world.receiver(&[]);
    receiver.drain();
    sending(&world, &port, &[], MIB).end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
}

#[test]
fn a_link_local_address_is_reached_with_a_zone_on_either_side() {
    let Some(world) = World::new() else { return };
    world.ip("a", "addr add fe80::a/64 dev e0 nodad");
    world.ip("r", "addr add fe80::b/64 dev a0 nodad");
    for to in
        [&["fe80::b%e0"][..], &["[fe80::b%e0]"], &["-s", "fe80::a%e0", "fe80::b"], &["-s", "fe80::a", "fe80::b%e0"]]
    {
        let (mut receiver, port) = world.at("r", || Side::receiver(&["-n", "fe80::b%a0"]));
        let output = receiver.drain();
        let mut sender = world.mpnc("a", &[&["-n", "--streams", "2"], to, &[&port.to_string()]].concat());
        pour(Noise::new(MIB), sender.stdin());
        sender.end().with_code(0).saying(&["delivery confirmed"]);
        receiver.end().with_code(0);
        assert_eq!(output.join().unwrap(), Digest::of_noise(MIB), "{to:?}");
    }
    let vague = world.mpnc("a", &["-n", "fe80::b", "31337"]).end();
    vague.with_code(2).saying(&["fe80::b%eth0"]);
}

// --- filters and holes -----------------------------------------------------------------------------------------------

#[test]
fn answers_let_in_to_the_kernels_own_ports_alone_are_enough() {
    let Some(world) = World::new() else { return };
    world.drop(&format!("ip daddr {SENDER} tcp dport < 32768"));
    let (mut receiver, port) = world.receiver(&[]);
    let output = receiver.drain();
    let sent = sending(&world, &port, &["--streams", "4"], MIB).end();
    sent.with_code(0).saying(&["over 4 streams"]);
    assert!(sent.words.contains("-p 32768-60999"), "{sent:?}");
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(MIB));
}

#[test]
fn source_ports_that_a_person_gave_are_named_when_they_get_no_answer() {
    let Some(world) = World::new() else { return };
    world.drop(&format!("ip daddr {SENDER} tcp dport < 32768"));
    let (receiver, port) = world.receiver(&[]);
    let sent = sending(&world, &port, &["-w", "2", "-p", "20000-20009"], MIB).end();
    sent.with_code(UNREACHABLE).saying(&["source ports 20000-20009", "-p 32768-60999"]);
    receiver.signal("TERM");
    receiver.end();
}

#[test]
fn the_doctor_names_the_source_ports_that_are_filtered() {
    let Some(world) = World::new() else { return };
    world.drop(&format!("ip daddr {SENDER} tcp dport < 32768"));
    let (receiver, port) = world.receiver(&["--doctor"]);
    let text = json(world.mpnc("a", &["--doctor", "--json", RECEIVER, &port]))["between"].to_string();
    assert!(text.contains("drops answers to source ports 1024-32767"), "{text}");
    receiver.signal("TERM");
    receiver.end();
}

/// Full packets of one side are lost on the way.
fn hole(from: &str, args: &[&str]) -> Option<(World, Side, Side)> {
    let world = World::new()?;
    world.drop(&format!("ip saddr {from} meta l4proto tcp meta length > 1000"));
    let port = "31337";
    let mut receiver = world.mpnc("b", &[&["-v", "-l"], args, &[port]].concat());
    receiver.wait_for_words("listening on ");
    receiver.drain();
    pour(Noise::new(8 * MIB), receiver.stdin());
    let mut sender = sending(&world, port, args, 8 * MIB);
    sender.drain();
    Some((world, receiver, sender))
}

const CAUSE: &[&str] = &["full segments (1448 bytes)", "not acknowledged", "MTU"];

#[test]
fn a_hole_in_the_mtu_is_named_on_both_sides() {
    let Some((_world, receiver, sender)) = hole(SENDER, &[]) else {
        return;
    };
    sender.end().with_code(PEER).saying(CAUSE);
    receiver.end().with_code(PEER).saying(CAUSE).saying(&["gave up"]);
}

#[test]
fn a_hole_on_the_way_back_is_named_on_both_sides() {
    let Some((_world, receiver, sender)) = hole(RECEIVER, &["-R", "--no-bond"]) else { return };
    sender.end().with_code(PEER).saying(CAUSE).saying(&["gave up"]);
    receiver.end().with_code(PEER).saying(CAUSE);
}

#[test]
fn a_hole_that_opens_in_mid_transfer_is_named_too() {
    let Some(world) = World::new() else { return };
    let (mut receiver, port) = world.receiver(&[]);
    let output = receiver.drain();
    let stats = Stats::new();
    let sender = sending(&world, &port, &["--stats", stats.path(), "--streams", "3", "--rate", "2M"], 1 << 40);
    stats.wait_for_streams(3);
    thread::sleep(Duration::from_secs(1));
    world.drop(&format!("ip saddr {SENDER} tcp dport {port} meta length > 1000"));
    sender.end().with_code(PEER).saying(CAUSE);
    receiver.end().with_code(PEER).saying(CAUSE);
    output.join().unwrap();
}

#[test]
fn the_doctor_knows_a_hole() {
    let Some(world) = World::new() else { return };
    world.drop(&format!("ip saddr {SENDER} meta l4proto tcp meta length > 1000"));
    let (receiver, port) = world.receiver(&["--doctor"]);
    let text = json(world.mpnc("a", &["--doctor", "--json", RECEIVER, &port]))["between"].to_string();
    assert!(CAUSE.iter().all(|part| text.contains(part)), "{text}");
    receiver.end().with_code(PEER).saying(CAUSE);
}

// --- an address that changes -----------------------------------------------------------------------------------------

/// A transfer in the middle of which the sender's address becomes another.
fn moving(world: &World, args: &[&str]) -> (Side, Side, thread::JoinHandle<Digest>) {
    let (mut receiver, port) = world.receiver(&["-w", "8"]);
    let output = receiver.drain();
    let sender = sending(world, &port, &[&["-v", "-w", "8", "--rate", "4M"], args].concat(), 8 * MIB);
    sender.wait_for_words("stream 0 up");
    thread::sleep(Duration::from_millis(500));
    world.ip("a", &format!("addr del {SENDER}/24 dev e0"));
    world.ip("a", "addr add 10.91.1.9/24 dev e0");
    world.ip("a", "route replace default via 10.91.1.254");
    (sender, receiver, output)
}

#[test]
fn a_new_address_takes_over_without_a_bond() {
    let Some(world) = World::new() else { return };
    let (sender, receiver, output) = moving(&world, &[]);
    sender.wait_for_words("is 10.91.1.9 now");
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(8 * MIB));
}

#[test]
fn an_address_that_a_person_gave_is_kept_to_the_end() {
    let Some(world) = World::new() else { return };
    let (sender, receiver, output) = moving(&world, &["-s", SENDER]);
    sender.end().with_code(PEER).saying(&["lost 10.91.2.2"]);
    receiver.end().with_code(PEER);
    output.join().unwrap();
}
