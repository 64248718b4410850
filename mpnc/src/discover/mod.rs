//! The path to a receiver, as this host's kernel tells it: route, devices down to the bond, slaves. No privilege needed.
//!
//! The shell around [`crate::bond`]: asks netlink, reads sysfs and proc, and hands facts to pure code. Must not know
//! streams or how a plan is printed.
//!
//! - [`Tree`]: `/sys`, `/proc` and sysctls, under a root that tests move
//! - `netlink`: questions over rtnetlink; `links`: devices; `walk`: the way down; `bonds`: a bond's state
//! - `judge`: from facts to the planner's outlook; [`PathView`]: the result
//! - [`transmitted`], [`received`]: what the slaves have carried so far
//! - [`vitals()`]: what the doctor wants to know of the way
//! - [`LinkWatch`]: tells the event loop that links changed

mod bonds;
mod follow;
mod gauge;
mod judge;
mod links;
mod netlink;
mod tree;
mod view;
mod vitals;
mod walk;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use thiserror::Error;

use crate::bond::{Note, Policy};
use crate::error::words;

use judge::{Facts, judge};
use links::Links;
use netlink::{Netlink, NextHop, Query};

pub use bonds::bonded;
pub use follow::follow;
pub use gauge::{received, transmitted};
pub use links::Kind;
pub use tree::Tree;
pub use view::{Class, Leg, PathView};
pub use vitals::vitals;
pub use walk::{End, Layer};
pub use watch::LinkWatch;

/// A source port to ask routes with: of the range that plans use.
const PROBE_PORT: u16 = 20_000;
/// Source ports to ask a multipath route about: with two equal next hops all of these agree by chance once in 2^63.
const PROBES: u16 = 64;
/// How often a changing bond is read before its last reading is taken.
const READINGS: u32 = 6;
/// Between readings: LACP and the links' monitors settle in tenths of a second.
const PAUSE: Duration = Duration::from_millis(50);

/// What a person says instead of what can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--slaves`: usable slaves of a bond that is out of sight.
    pub slaves: Option<u16>,
    /// `--policy`: its policy, or another than the one read.
    pub policy: Option<Policy>,
    /// `--no-bond`: look for none.
    pub no_bond: bool,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The receiver.
    pub destination: SocketAddr,
    /// `-s`: the address to send from; otherwise the kernel's choice.
    pub source: Option<IpAddr>,
    /// What a person says.
    pub overrides: Overrides,
}

impl Request {
    /// The way to this address as the kernel sees it, with nothing overridden.
    #[must_use]
    pub fn to(destination: SocketAddr) -> Self {
        Self { destination, source: None, overrides: Overrides::default() }
    }

    /// The way back to a peer: which of its ports does not matter.
    #[must_use]
    pub fn back_to(peer: IpAddr) -> Self {
        Self::to(SocketAddr::new(peer, 1))
    }
}

/// Why there is no path.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// The kernel has no route.
    #[error("no route to {destination}: {}; see 'ip route get {destination}'", words(reason))]
    NoRoute {
        /// The receiver's address.
        destination: IpAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// No route from the address that was asked for.
    #[error(
        "no route to {destination} from {origin}: {}; -s takes an address of this host, see 'ip address'",
        words(reason)
    )]
    NoRouteFrom {
        /// The receiver's address.
        destination: IpAddr,
        /// The address to send from.
        origin: IpAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// IPv4 here, IPv6 there.
    #[error(
        "cannot send from {origin} to {destination}: one is an IPv4 address, the other IPv6; choose with -4, -6 or -s"
    )]
    Families {
        /// The receiver's address.
        destination: IpAddr,
        /// The address to send from.
        origin: IpAddr,
    },
}

/// Finds the path to a receiver. Takes milliseconds; a bond that is changing, up to a few tenths of a second.
pub fn discover(request: &Request, tree: &Tree) -> Result<PathView, DiscoverError> {
    let destination = request.destination.ip().to_canonical();
    let origin = request.source.map(|ip| ip.to_canonical());
    if let Some(origin) = origin.filter(|ip| ip.is_ipv4() != destination.is_ipv4()) {
        return Err(DiscoverError::Families { destination, origin });
    }
    let no_route = |reason| match origin {
        Some(origin) => DiscoverError::NoRouteFrom { destination, origin, reason },
        None => DiscoverError::NoRoute { destination, reason },
    };
    let netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(e) => return without_netlink(request, tree, &e).map_err(no_route),
    };
    Explorer { request, tree, netlink, destination }.explore(origin).map_err(no_route)
}

/// The path where netlink is forbidden: only the source address is known.
fn without_netlink(request: &Request, tree: &Tree, reason: &io::Error) -> io::Result<PathView> {
    let source = match request.source {
        Some(source) => source.to_canonical(),
        None => chosen_source(request.destination)?,
    };
    let mut view = view(request, tree, source, Vec::new(), |_| None);
    view.notes.push(Note::uncertain(
        format!("the routing tables cannot be read: netlink socket: {}", words(reason)),
        "allow AF_NETLINK in this container's seccomp profile",
    ));
    Ok(view)
}

/// The address that the kernel would send from: connecting a UDP socket sends nothing and shows it.
fn chosen_source(destination: SocketAddr) -> io::Result<IpAddr> {
    let any: SocketAddr = if destination.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

fn view(request: &Request, tree: &Tree, source: IpAddr, legs: Vec<Leg>, device_of: impl judge::DeviceOf) -> PathView {
    let kernel = tree.kernel_release();
    let destination = SocketAddr::new(request.destination.ip().to_canonical(), request.destination.port());
    let base = crate::bond::FlowBase { src: source, dst: destination.ip(), dport: destination.port() };
    let facts = Facts { kernel: &kernel, base, overrides: &request.overrides };
    let verdict = judge(&facts, &legs, device_of);
    PathView {
        destination,
        source,
        kernel,
        legs,
        outlook: verdict.outlook,
        classes: verdict.classes,
        streams: verdict.streams,
        notes: verdict.notes,
    }
}

struct Explorer<'a> {
    request: &'a Request,
    tree: &'a Tree,
    netlink: Netlink,
    destination: IpAddr,
}

impl Explorer<'_> {
    fn explore(mut self, origin: Option<IpAddr>) -> io::Result<PathView> {
        let first = self.netlink.route(&self.query(origin, PROBE_PORT))?;
        let source = match origin.or(first.source) {
            Some(source) => source,
            None => chosen_source(self.request.destination)?,
        };
        let (hops, note) = self.next_hops(source)?;
        let legs = self.legs_when_stable(&hops);
        let query = self.query(Some(source), 0);
        let netlink = Mutex::new(self.netlink);
        let device_of = move |port: u16| {
            let ports = query.ports.map(|(_, dport)| (port, dport));
            let mut netlink = netlink.lock().ok()?;
            netlink.route(&Query { ports, ..query }).ok()?.hops.first().map(|hop| hop.device)
        };
        let mut view = view(self.request, self.tree, source, legs, device_of);
        view.notes.extend(note);
        Ok(view)
    }

    fn query(&self, src: Option<IpAddr>, sport: u16) -> Query {
        let scope = match self.request.destination {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Query { dst: self.destination, src, scope, ports: Some((sport, self.request.destination.port())) }
    }

    /// The next hops that source ports can reach, one per device: several only on a multipath route that follows the ports.
    fn next_hops(&mut self, source: IpAddr) -> io::Result<(Vec<NextHop>, Option<Note>)> {
        let query = self.query(Some(source), PROBE_PORT);
        let all = self.netlink.route_entry(&query).map(|r| r.hops).unwrap_or_default();
        let probes = if all.len() > 1 { PROBES } else { 1 };
        let mut seen: Vec<NextHop> = Vec::new();
        for port in PROBE_PORT..PROBE_PORT + probes {
            let route = self.netlink.route(&self.query(Some(source), port))?;
            let new = route.hops.into_iter().filter(|hop| seen.iter().all(|s| s.device != hop.device));
            seen.extend(new.take(1).collect::<Vec<_>>());
        }
        let devices = all.iter().map(|hop| hop.device).collect::<std::collections::BTreeSet<_>>().len();
        let note = (devices > 1 && seen.len() == 1).then(|| self.one_of_many(devices, source));
        Ok((seen, note))
    }

    /// The note for a multipath route of which all streams take the same next hop: the kernel's policy ignores ports (0, 2), or
    /// it prefers the next hop that owns the source address (6.16 and newer).
    fn one_of_many(&self, devices: usize, source: IpAddr) -> Note {
        let v6 = self.destination.is_ipv6();
        let family = if v6 { "ipv6" } else { "ipv4" };
        match self.tree.multipath_policy(v6) {
            Some(policy @ (1 | 3)) => Note::in_the_way(
                format!(
                    "multipath route over {devices} devices, but everything from {source} takes one of them \
                     (fib_multipath_hash_policy {policy})"
                ),
                "send from an address that belongs to none of them (-s, for example one on lo)",
            ),
            policy => Note::in_the_way(
                format!(
                    "multipath route over {devices} devices, but fib_multipath_hash_policy {} sends all streams over one",
                    policy.map_or_else(|| "0".to_owned(), |p| p.to_string())
                ),
                format!("as root: sysctl -w net.{family}.fib_multipath_hash_policy=1"),
            ),
        }
    }

    /// Reads the devices until two readings agree and LACP has settled.
    fn legs_when_stable(&mut self, hops: &[NextHop]) -> Vec<Leg> {
        let mut last = self.legs(hops);
        for _ in 1..READINGS {
            let next = self.legs(hops);
            let settled = next.iter().all(|leg| leg.bond.as_ref().is_none_or(crate::bond::Bond::settled));
            let same = next == last;
            last = next;
            if same && settled {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        last
    }

    fn legs(&mut self, hops: &[NextHop]) -> Vec<Leg> {
        let links = match self.netlink.links() {
            Ok(messages) => Links::from_netlink(&messages, self.tree),
            Err(e) => {
                log::debug!("netlink: links cannot be listed ({e}); reading sysfs");
                Links::from_tree(self.tree)
            }
        };
        let (tree, destination) = (self.tree, self.destination);
        hops.iter().map(|hop| leg(tree, &links, hop, |bridge| self.port_of(bridge, hop, destination))).collect()
    }

    /// The bridge port behind which the next hop was seen.
    fn port_of(&mut self, bridge: u32, hop: &NextHop, destination: IpAddr) -> Option<u32> {
        let next = hop.gateway.unwrap_or(destination);
        // The address may be resolved on the bridge or on a device above it (a VLAN, a macvlan).
        let mac = [hop.device, bridge].into_iter().find_map(|on| self.netlink.neighbour(on, next))?;
        self.netlink.bridge_port(bridge, &mac)
    }
}

/// A team's port.
fn class(tree: &Tree, port: &links::Link) -> Class {
    let speed = tree.device(&port.name, "speed").and_then(|text| crate::bond::sysfs::speed(&text));
    Class { name: port.name.clone(), ifindex: port.index, speed }
}

fn leg(tree: &Tree, links: &Links, hop: &NextHop, mut bridge_port: impl FnMut(u32) -> Option<u32>) -> Leg {
    let way = walk::walk(links, hop.device, &mut bridge_port);
    let last = way.layers.last().and_then(|layer| links.get(layer.ifindex));
    let bond = last.filter(|_| way.end == End::Bond).and_then(|link| bonds::read(links, tree, link));
    let speed =
        last.and_then(|link| tree.device(&link.name, "speed")).and_then(|text| crate::bond::sysfs::speed(&text));
    let slaves = match (&bond, last) {
        (Some(bond), _) => judge::classes(bond),
        (None, Some(team)) if way.end == End::Team => links.members(team.index).map(|port| class(tree, port)).collect(),
        _ => Vec::new(),
    };
    Leg { gateway: hop.gateway, layers: way.layers, stacking: way.stacking, end: way.end, bond, slaves, speed }
}

#[cfg(test)]
mod tests;
