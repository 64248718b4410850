//! No event loop waits for anything but its events: shown by what the kernel was asked for, under strace, through all
//! kinds of transfers.
//!
//! A loop that opens, closes, spawns, reaps, logs, asks netlink or holds a lock over such a call delays every session
//! that it carries. `loop_discipline/trace` says what a loop may do. Needs strace.

mod common;
#[path = "common/needs.rs"]
mod needs;
#[path = "common/scene.rs"]
mod scene;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/stats.rs"]
mod stats;
#[path = "common/strace.rs"]
mod strace;
#[path = "common/stuck.rs"]
mod stuck;
#[path = "loop_discipline/trace.rs"]
mod trace;

use common::data::{Digest, Noise, pour};
use common::process::Side;
use scene::{Scene, eventually, none, within};
use stats::Stats;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use stuck::{REDIRECT, Stuck};

const LEN: u64 = 3 << 20;

/// A folder in which both sides run under strace.
struct Traced {
    scene: Scene,
}

impl Traced {
    fn new() -> Option<Self> {
        strace::is_there().then(|| Self { scene: Scene::new() })
    }

    /// The program that traces a side.
    fn wrapper(&self, name: &str) -> Vec<String> {
        trace::STRACE.iter().map(ToString::to_string).chain(["-o".into(), self.scene.arg(name)]).collect()
    }

    fn listener(&self, args: &[&str]) -> (Side, u16) {
        self.listener_to(args, Stdio::null())
    }

    fn listener_to(&self, args: &[&str], output: Stdio) -> (Side, u16) {
        let wrapper = self.wrapper("listener");
        self.scene.listener(&wrapper.iter().map(String::as_str).collect::<Vec<_>>(), args, output)
    }

    /// A connector that is traced as well; its trace has this name.
    fn connector(&self, name: &str, port: u16, args: &[&str]) -> Side {
        let wrapper = self.wrapper(name);
        let wrapper = wrapper.iter().map(String::as_str).collect::<Vec<_>>();
        let port = port.to_string();
        let args = [args, &["127.0.0.1", &port]].concat();
        Side::of(&mut self.scene.command(&wrapper, &args), Stdio::piped(), Stdio::piped())
    }

    /// A connector that sends [`LEN`] bytes.
    fn sender(&self, name: &str, port: u16, args: &[&str]) -> Side {
        let mut side = self.connector(name, port, args);
        pour(Noise::new(LEN), side.stdin());
        side
    }

    /// Asserts that no loop in these traces did what it must not.
    #[track_caller]
    fn loops_waited_for_events_alone(&self, traces: &[&str]) {
        let found: BTreeSet<_> = traces
            .iter()
            .flat_map(|name| {
                trace::findings_of(&self.scene.path(name)).into_iter().map(move |what| format!("{name}: {what}"))
            })
            .collect();
        assert!(found.is_empty(), "in an event loop: {found:#?}");
    }
}

/// Ends a listener with -k, and waits for its end.
fn terminate(listener: Side) {
    listener.signal("TERM");
    listener.end();
}

#[test]
fn of_a_transfer_between_files_with_all_that_is_seen_of_it() {
    let Some(traced) = Traced::new() else { return };
    std::io::copy(&mut Noise::new(LEN), &mut File::create(traced.scene.path("in")).unwrap()).unwrap();
    let seen = ["-v", "--digest", "--progress", "always", "--stats"];
    let (output, stats) = (traced.scene.arg("out"), [traced.scene.arg("stats-l"), traced.scene.arg("stats-c")]);
    let (listener, port) = traced.listener(&[&seen[..], &[&stats[0], "-o", &output]].concat());
    let input = traced.scene.arg("in");
    // It lasts for a second or two, so that what comes once a second comes.
    let sending = ["--streams", "4", "--rate", "2M", "-i", &input];
    let sender = traced.connector("connector", port, &[&seen[..], &[&stats[1]], &sending].concat());
    thread::sleep(Duration::from_millis(500));
    // Asks for a line.
    sender.signal("USR1");
    listener.signal("USR1");
    sender.end().with_code(0).saying(&["delivery confirmed"]);
    listener.end().with_code(0);
    assert!(traced.scene.content("out") == traced.scene.content("in"));
    traced.loops_waited_for_events_alone(&["listener", "connector"]);
}

#[test]
fn of_transfers_the_other_way_and_both_ways() {
    for direction in ["--reverse", "--duplex"] {
        let Some(traced) = Traced::new() else { return };
        let args = ["-l", direction, "0"];
        let wrapper = traced.wrapper("listener");
        let wrapper = wrapper.iter().map(String::as_str).collect::<Vec<_>>();
        let mut listener = Side::of(&mut traced.scene.command(&wrapper, &args), Stdio::piped(), Stdio::piped());
        let port = listener.port();
        pour(Noise::new(LEN), listener.stdin());
        let mut connector = traced.sender("connector", port, &[direction, "--workers", "2", "--streams", "4"]);
        let outputs = (connector.drain(), listener.drain());
        connector.end().with_code(0);
        listener.end().with_code(0);
        assert_eq!(outputs.0.join().unwrap(), Digest::of_noise(LEN));
        outputs.1.join().unwrap();
        traced.loops_waited_for_events_alone(&["listener", "connector"]);
    }
}

#[test]
fn of_sessions_with_files_of_their_own() {
    let Some(traced) = Traced::new() else { return };
    let (listener, port) = traced.listener(&["-k", "-o", &traced.scene.arg("of-%n")]);
    let held = traced.connector("held", port, &[]);
    let others = ["one", "two"].map(|name| traced.sender(name, port, &["--streams", "2"]));
    for other in others {
        other.end().with_code(0);
    }
    held.signal("TERM");
    held.end();
    terminate(listener);
    traced.loops_waited_for_events_alone(&["listener", "one", "two"]);
}

#[test]
fn of_sessions_on_several_loops() {
    let Some(traced) = Traced::new() else { return };
    let (mut listener, port) = traced.listener_to(&["-k", "--workers", "4", "--steering", "cbpf"], Stdio::piped());
    let output = listener.drain();
    traced.sender("one", port, &["--workers", "3", "--streams", "8"]).end().with_code(0);
    terminate(listener);
    assert_eq!(output.join().unwrap(), Digest::of_noise(LEN));
    traced.loops_waited_for_events_alone(&["listener", "one"]);
}

#[test]
fn of_sessions_with_commands_that_work_fail_and_hang() {
    let Some(traced) = Traced::new() else { return };
    let script = "case $MPNC_SESSION in 1) cat > whole;; 2) exit 3;; *) trap '' TERM; sleep 300;; esac";
    let (listener, port) = traced.listener(&["-k", "-w", "2", "--sh", "-e", script]);
    traced.sender("good", port, &[]).end().with_code(0);
    traced.sender("failing", port, &[]).end().with_code(4);
    let hanging = traced.sender("hanging", port, &[]);
    eventually(|| if traced.scene.commands().is_empty() { Err("no command") } else { Ok(()) });
    hanging.signal("KILL");
    within(Duration::from_secs(30), || none(traced.scene.commands()));
    terminate(listener);
    traced.loops_waited_for_events_alone(&["listener", "good", "failing"]);
}

#[test]
fn of_a_listener_whose_output_waits_for_a_reader() {
    let Some(traced) = Traced::new() else { return };
    assert!(Command::new("mkfifo").arg(traced.scene.path("of-1")).status().unwrap().success());
    let (listener, port) = traced.listener(&["-k", "-w", "3", "-o", &traced.scene.arg("of-%n")]);
    let stuck = traced.sender("stuck", port, &[]);
    thread::sleep(Duration::from_millis(300));
    traced.sender("other", port, &[]).end().with_code(0);
    stuck.end().with_code(4);
    terminate(listener);
    traced.loops_waited_for_events_alone(&["listener", "stuck", "other"]);
}

#[test]
fn of_a_listener_that_meets_strangers_and_is_heard_by_nobody() {
    let Some(traced) = Traced::new() else { return };
    let mut stuck = Stuck::new(&traced.scene);
    let wrapper = traced.wrapper("listener");
    let wrapper: Vec<_> = REDIRECT.into_iter().chain(wrapper.iter().map(String::as_str)).collect();
    let args = ["-l", "-v", "-o", &traced.scene.arg("out"), "0"];
    let mut listener = Side::of(&mut traced.scene.command(&wrapper, &args), Stdio::null(), Stdio::piped());
    let port = stuck.port();
    stuck.fill();
    let sender = traced.sender("sender", port, &["--rate", "2M"]);
    for words in ["GET / HTTP/1.0\r\n\r\n", "\u{89}mpnc", "hello"] {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stranger.write_all(words.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    sender.end().with_code(0);
    let mut nothing = Vec::new();
    listener.stdout().read_to_end(&mut nothing).unwrap();
    listener.end().with_code(0);
    traced.loops_waited_for_events_alone(&["listener", "sender"]);
}

#[test]
fn of_a_connector_whose_listener_dies() {
    let Some(traced) = Traced::new() else { return };
    let (listener, port) = Side::receiver(&[]);
    let stats = Stats::new();
    let sender =
        traced.connector("connector", port, &["--stats", stats.path(), "-w", "2", "--workers", "2", "--streams", "2"]);
    stats.wait_for_streams(2);
    listener.signal("KILL");
    sender.end().with_code(4);
    // The next is refused, and then nobody is there.
    Side::sender(port, &["-w", "2"], 1).end().with_code(3);
    traced.loops_waited_for_events_alone(&["connector"]);
}
