//! Several event loops on the one port: every stream goes to the loop of its lane, whoever steers; and what a receiver
//! may and may not do.
//!
//! Needs nothing but loopback; as root it also plays the ordinary user (setpriv).

mod common;
#[path = "common/needs.rs"]
mod needs;
#[path = "common/skip.rs"]
mod skip;

use common::data::Digest;
use common::process::Side;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const STREAMS: usize = 16;
const WORKERS: usize = 4;
const LEN: u64 = 20 << 20;

/// mpnc as an ordinary user without any capability, also where root runs the test.
struct Ordinary {
    /// A copy that this user can reach.
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Ordinary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("mpnc");
        fs::copy(env!("CARGO_BIN_EXE_mpnc"), &program).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { program, _folder: folder }
    }

    fn start(&self, args: &[&str]) -> Side {
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]);
            command.arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        Side::of(command.args(args), Stdio::null(), Stdio::piped())
    }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}

fn port_of(receiver: &Side) -> u16 {
    let line = receiver.wait_for_words("listening on ");
    line.rsplit(':').next().unwrap().trim().parse().unwrap()
}

/// A transfer to this receiver, and the receiver's JSON.
fn summary(mut receiver: Side, port: u16) -> Value {
    let output = receiver.drain();
    Side::sender(port, &["--streams", "16"], LEN).end().with_code(0);
    let ended = receiver.end();
    ended.with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of_noise(LEN));
    serde_json::from_str(ended.words.lines().last().unwrap()).unwrap()
}

/// Four streams on each worker, and each on that of its lane: by chance once in 4^16.
#[track_caller]
fn assert_steered(summary: &Value) {
    let streams = summary["streams"].as_array().unwrap();
    assert_eq!(streams.len(), STREAMS);
    let mut counts = [0; WORKERS];
    for stream in streams {
        let number = |key: &str| usize::try_from(stream[key].as_u64().unwrap()).unwrap();
        let (lane, worker) = ((number("source_port") >> 1) % 32, number("worker"));
        assert_eq!(worker, lane % WORKERS, "{stream}");
        counts[worker] += 1;
    }
    assert_eq!(counts, [STREAMS / WORKERS; WORKERS]);
}

#[test]
fn sixteen_streams_are_four_on_each_worker_for_an_ordinary_user() {
    let ordinary = Ordinary::new();
    let receiver = ordinary.start(&["-l", "-v", "--json", "--workers", "4", "127.0.0.1", "0"]);
    receiver.wait_for_words("4 workers, steered by cbpf");
    let port = port_of(&receiver);
    let summary = summary(receiver, port);
    assert_eq!(summary["steering"], "cbpf");
    assert_eq!(summary["workers"], WORKERS);
    assert_steered(&summary);
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn sixteen_streams_are_four_on_each_worker_by_the_programs_own_count() {
    if !is_root() || mpnc::bpf::embedded().is_none() {
        return needs::missing("needs root and the eBPF object (MPNC_EBPF_OBJECT is empty?)");
    }
    let (receiver, port) = Side::receiver(&["--json", "--workers", "4", "--steering", "ebpf"]);
    let summary = summary(receiver, port);
    assert_eq!(summary["steering"], "ebpf");
    assert_eq!(summary["steered"], serde_json::json!([4, 4, 4, 4]));
    assert_steered(&summary);
}

#[test]
fn steered_by_the_kernels_hash_a_transfer_is_right_all_the_same() {
    let (receiver, port) = Side::receiver(&["--json", "--workers", "4", "--steering", "kernel"]);
    let summary = summary(receiver, port);
    assert_eq!(summary["steering"], "kernel");
    assert_eq!(summary["streams"].as_array().unwrap().len(), STREAMS);
}

/// A socket of the same user that joins a listener's group.
fn join(port: u16) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.listen(64).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// Connections of 32 that a socket gets which joins the group of a listener with these options.
fn taken_by_another(args: &[&str]) -> usize {
    let mut receiver = Side::start_with(&[&["-l"], args, &["127.0.0.1", "0"]].concat(), Stdio::null(), Stdio::piped());
    let output = receiver.drain();
    let port = port_of(&receiver);
    let another = join(port);
    let to = (Ipv4Addr::LOCALHOST, port);
    let streams: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(to).unwrap()).collect();
    let taken = std::iter::from_fn(|| another.accept().ok()).count();
    drop(streams);
    receiver.signal("TERM");
    receiver.end();
    output.join().unwrap();
    taken
}

/// Seen from outside: others of the same user can join, which is what a group is, and get nothing, which is what a
/// program does. With the kernel's own hash half of the connections are theirs (none once in 2^32).
#[test]
fn a_plain_listener_is_a_steered_group_of_one() {
    assert_eq!(taken_by_another(&[]), 0);
    assert_ne!(taken_by_another(&["--steering", "kernel"]), 0);
}

#[test]
fn that_another_has_joined_the_group_is_said_and_the_transfer_goes_on() {
    let mut receiver = Side::start_with(&["-l", "127.0.0.1", "0"], Stdio::null(), Stdio::piped());
    let output = receiver.drain();
    let port = port_of(&receiver);
    let another = join(port);
    Side::sender(port, &[], LEN).end().with_code(0);
    let ended = receiver.end();
    ended.with_code(0);
    let line = format!("listens on 127.0.0.1:{port} too since");
    assert!(ended.words.contains("another socket of user") && ended.words.contains(&line), "{}", ended.words);
    assert_eq!(output.join().unwrap(), Digest::of_noise(LEN));
    drop(another);
}

#[test]
fn a_second_receiver_of_the_same_user_is_refused_loudly() {
    for workers in ["1", "4"] {
        let (first, port) = Side::receiver(&["--workers", "4"]);
        let second = Side::start_with(&["-l", "--workers", workers, &port.to_string()], Stdio::null(), Stdio::null());
        let ended = second.end();
        assert_ne!(ended.code, Some(0));
        ended.saying(&["cannot listen on", "another process has the port"]);
        first.signal("TERM");
        first.end().with_code(143);
    }
}

#[test]
fn what_ebpf_on_lacks_is_named_by_both_sides() {
    let ordinary = Ordinary::new();
    let lacks =
        if mpnc::bpf::embedded().is_some() { "which this process has not: run it as root" } else { "without the eBPF" };
    for args in [&["-l", "--ebpf", "on", "127.0.0.1", "0"][..], &["--ebpf", "on", "127.0.0.1", "9"]] {
        ordinary.start(args).end().with_code(2).saying(&["--ebpf on, but the slaves cannot be observed", lacks]);
    }
}

/// The capabilities of a set in /proc/PID/status, but CAP_BPF: that is what reading the programs' counters takes on
/// kernels before 6.0.
fn capabilities(status: &str, set: &str) -> u64 {
    const CAP_BPF: u64 = 1 << 39;
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap_or_else(|| panic!("no {set} in {status}"));
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap() & !CAP_BPF
}

/// Also of root, once set-up is over.
#[test]
fn a_listener_gives_up_its_privileges() {
    let (mut receiver, port) = Side::receiver(&["--workers", "2"]);
    let output = receiver.drain();
    // It has caught its signals by now, and so is past that.
    Side::sender(port, &["--doctor"], 0).end();
    let status = fs::read_to_string(format!("/proc/{}/status", receiver.pid())).unwrap();
    assert_eq!(capabilities(&status, "CapPrm"), 0, "{status}");
    Side::sender(port, &[], 1000).end().with_code(0);
    receiver.end().with_code(0);
    output.join().unwrap();
}

/// A command of root's has root's rights in any case; mpnc itself does without, but for opening files and ending what
/// it has started.
#[test]
fn a_listener_with_a_command_lays_its_privileges_down() {
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    const CAP_KILL: u64 = 1 << 5;
    const LOOK: &str = "cat > /dev/null; cat /proc/$PPID/status";
    let (mut receiver, port) = Side::receiver(&["--workers", "2", "--sh", "-e", LOOK]);
    let mut output = receiver.stdout();
    Side::sender(port, &[], 1000).end().with_code(0);
    receiver.end().with_code(0);
    let mut status = String::new();
    output.read_to_string(&mut status).unwrap();
    assert_eq!(capabilities(&status, "CapEff") & !(CAP_DAC_OVERRIDE | CAP_KILL), 0, "{status}");
}
