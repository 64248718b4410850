//! A small world of network namespaces: two hosts and a router between them, gone with the test.
//!
//! Must not know what is tried in it.

use std::process::{Command, Stdio};

use crate::common::process::Side;
use crate::namespace::Namespace;
use crate::needs;

/// A host's address; the router's is .254.
pub(crate) const SENDER: &str = "10.91.1.1";
/// The other host's.
pub(crate) const RECEIVER: &str = "10.91.2.2";
/// `a` (the sender) and `b` (the receiver), each a cable away from the router `r`.
pub(crate) struct World {
    places: [(&'static str, Namespace); 3],
}

impl World {
    /// Builds it. `None` where this machine cannot: the running test is skipped and has to return.
    pub(crate) fn new() -> Option<Self> {
        for (program, argument) in [("ip", "-V"), ("nft", "-v")] {
            let found = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                needs::missing(&format!("there is no {program}"));
                return None;
            }
        }
        let made = ["a", "b", "r"].map(|place| Namespace::try_new().map(|namespace| (place, namespace)));
        let places = match made {
            [Ok(a), Ok(b), Ok(r)] => [a, b, r],
            [Err(why), ..] | [_, Err(why), _] | [.., Err(why)] => {
                needs::missing(&format!("needs root: {why}"));
                return None;
            }
        };
        let world = Self { places };
        for (place, host, address) in [("a", 1, SENDER), ("b", 2, RECEIVER)] {
            world.ip(place, &format!("link add e0 type veth peer name {place}0 netns {}", world.of("r").name()));
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

    fn of(&self, place: &str) -> &Namespace {
        let found = self.places.iter().find(|(name, _)| *name == place);
        &found.expect("the places are a, b and r").1
    }

    /// `ip` in a place.
    #[track_caller]
    pub(crate) fn ip(&self, place: &str, line: &str) {
        self.of(place).ip(line);
    }

    /// A line of shell in a place.
    #[track_caller]
    pub(crate) fn shell(&self, place: &str, line: &str) {
        self.of(place).shell(line);
    }

    /// What the router drops, as nft says it.
    #[track_caller]
    pub(crate) fn drop(&self, what: &str) {
        self.shell("r", &format!("nft 'add rule inet f fw {what} drop'"));
    }

    /// Starts something in a place.
    pub(crate) fn at<T: Send>(&self, place: &str, start: impl FnOnce() -> T + Send) -> T {
        self.of(place).enter(start)
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
