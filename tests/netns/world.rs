//! A small world of network namespaces: two hosts and a router between them, made with `ip` and gone with the test,
//! also when it fails.
//!
//! Must not know what is tried in it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::process::Side;
use crate::needs;

/// A host's address; the router's is .254.
pub(crate) const SENDER: &str = "10.91.1.1";
/// The other host's.
pub(crate) const RECEIVER: &str = "10.91.2.2";
/// `a` (the sender) and `b` (the receiver), each a cable away from the router `r`.
pub(crate) struct World {
    name: String,
}

impl World {
    /// Builds it. `None` where this machine cannot: the running test is skipped and has to return.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for (program, argument) in [("ip", "-V"), ("nft", "-v")] {
            let found = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                needs::missing(&format!("there is no {program}"));
                return None;
            }
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let world = Self { name: format!("mpnc-sys-{}-{number}", std::process::id()) };
        let first = Command::new("ip").args(["netns", "add", &world.of("a")]).output().expect("ip is there");
        if !first.status.success() {
            needs::missing(&format!("needs root: {}", String::from_utf8_lossy(&first.stderr).trim()));
            return None;
        }
        for place in ["b", "r"] {
            run(&["ip", "netns", "add", &world.of(place)]);
        }
        for (place, host, address) in [("a", 1, SENDER), ("b", 2, RECEIVER)] {
            world.ip(place, "link set lo up");
            world.ip(place, &format!("link add e0 type veth peer name {place}0 netns {}", world.of("r")));
            world.ip(place, &format!("addr add {address}/24 dev e0"));
            world.ip("r", &format!("addr add 10.91.{host}.254/24 dev {place}0"));
            world.ip(place, "link set e0 up");
            world.ip("r", &format!("link set {place}0 up"));
            world.ip(place, &format!("route add default via 10.91.{host}.254"));
        }
        world.shell("r", "echo 1 > /proc/sys/net/ipv4/ip_forward");
        world.shell("r", "nft 'table inet f { chain fw { type filter hook forward priority 0; }; }'");
        Some(world)
    }

    fn of(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    /// `ip` in a place.
    #[track_caller]
    pub(crate) fn ip(&self, place: &str, line: &str) {
        let name = self.of(place);
        run(&[&["ip", "-n", &name], &*line.split(' ').collect::<Vec<_>>()].concat());
    }

    /// A line of shell in a place.
    #[track_caller]
    pub(crate) fn shell(&self, place: &str, line: &str) {
        run(&["ip", "netns", "exec", &self.of(place), "sh", "-c", line]);
    }

    /// What the router drops, as nft says it.
    #[track_caller]
    pub(crate) fn drop(&self, what: &str) {
        self.shell("r", &format!("nft 'add rule inet f fw {what} drop'"));
    }

    /// Starts something in a place: its network, and this process's `/sys`, which is another network's.
    pub(crate) fn at<T: Send>(&self, place: &str, start: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.of(place))).unwrap();
        let inside = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            start()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// mpnc in a place, between pipes.
    pub(crate) fn mpnc(&self, place: &str, args: &[&str]) -> Side {
        self.at(place, || Side::start(args))
    }

    /// A receiver at the other host, and its port.
    pub(crate) fn receiver(&self, args: &[&str]) -> (Side, String) {
        let (side, port) = self.at("b", || Side::receiver(args));
        (side, port.to_string())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in ["a", "b", "r"] {
            let _ = Command::new("ip").args(["netns", "del", &self.of(place)]).stderr(Stdio::null()).status();
        }
    }
}

#[track_caller]
fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
