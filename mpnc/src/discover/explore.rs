//! From a destination to the devices that lead there: the route that connect(2) would take, its next hops, and what is
//! beneath them.
//!
//! Must not judge what that means for a plan.

use super::links::{self, Links};
use super::netlink::{Netlink, NextHop, Query};
use super::socket::{Given, chosen_source, path_mtu};
use super::walk::{self, BridgePort, End, Layer};
use super::{Class, Leg, PathView, Request, Tree, Ways, bonds, guest, judge, view};
use crate::bond::Note;
use crate::bond::kernel::draws_next_hops_of_v6;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

/// A source port to ask routes with: of the range that plans use.
const PROBE_PORT: u16 = 20_000;
/// Source ports to ask a multipath route about: with two equal next hops all of these agree by chance once in 2^63.
const PROBES: usize = 64;
/// How often a changing bond is read before its last reading is taken.
const READINGS: u32 = 6;
/// Between readings: LACP and the links' monitors settle in tenths of a second.
const PAUSE: Duration = Duration::from_millis(50);

/// Where packets may go.
struct NextHops {
    all: Vec<NextHop>,
    /// Each connection draws one.
    are_drawn: bool,
}

/// One question after another about one path.
pub(super) struct Explorer<'a> {
    request: &'a Request,
    tree: &'a Tree,
    netlink: Netlink,
    destination: IpAddr,
    /// The device that the connection is bound to, or that an address's zone names; 0 for none.
    device: u32,
    mark: u32,
    /// Source ports to ask with.
    ports: Vec<u16>,
}

impl<'a> Explorer<'a> {
    pub(super) fn new(request: &'a Request, tree: &'a Tree, mut netlink: Netlink, destination: IpAddr) -> Self {
        let given = Given::to_streams(request.destination);
        let zone = match request.destination {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let bound = given.device.and_then(|name| Links::from_netlink(&netlink.links().ok()?).named(&name));
        let ports: Vec<u16> = match &request.ports {
            Some(stated) => stated.ports().take(PROBES).collect(),
            None => (PROBE_PORT..).take(PROBES).collect(),
        };
        Self { request, tree, netlink, destination, device: bound.unwrap_or(zone), mark: given.mark, ports }
    }

    /// # Errors
    /// The kernel has no route, or connects otherwise than its tables say.
    pub(super) fn explore(mut self, origin: Option<IpAddr>) -> io::Result<PathView> {
        let first = self.netlink.route(&self.query(origin, self.first_port()))?;
        let source = match origin.or(first.source) {
            Some(source) => source,
            None => chosen_source(self.request.destination, None)?,
        };
        self.confirm(source)?;
        let (hops, note) = self.next_hops(source)?;
        let ways = Ways { legs: self.legs_when_stable(&hops.all), are_drawn: hops.are_drawn };
        let wrapped = self.wrapped(&ways.legs, source, first.mtu);
        let query = self.query(Some(source), 0);
        let netlink = Mutex::new(self.netlink);
        let device_of = move |port: u16| {
            let ports = query.ports.map(|(_, dport)| (port, dport));
            let mut netlink = netlink.lock().ok()?;
            netlink.route(&Query { ports, ..query }).ok()?.hops.first().map(|hop| hop.device)
        };
        let mut view = view(self.request, self.tree, source, ways, device_of);
        view.notes.extend(note);
        view.notes.extend(wrapped);
        Ok(view)
    }

    /// Fails where connect(2) would not go from this address, but would from another.
    fn confirm(&self, source: IpAddr) -> io::Result<()> {
        let Err(reason) = chosen_source(self.request.destination, Some(source)) else { return Ok(()) };
        if chosen_source(self.request.destination, self.request.source).is_ok() { Err(reason) } else { Ok(()) }
    }

    fn first_port(&self) -> u16 {
        self.ports.first().copied().unwrap_or(PROBE_PORT)
    }

    fn query(&self, src: Option<IpAddr>, sport: u16) -> Query {
        let ports = Some((sport, self.request.destination.port()));
        Query { dst: self.destination, src, device: self.device, mark: self.mark, ports }
    }

    /// The note for packets that are smaller than route and device permit: something puts a header of its own into
    /// them after they were routed, and the bond finds that one.
    ///
    /// IPsec by policy has no device of its own. Its policies cannot be read without privilege, but what a socket may
    /// send can (`xfrm_mtu`, net/xfrm/xfrm_policy.c, 6.12).
    fn wrapped(&self, legs: &[Leg], source: IpAddr, of_route: Option<u32>) -> Option<Note> {
        let [leg] = legs else { return None };
        let v6 = self.destination.is_ipv6().then(|| self.tree.v6_mtu(&leg.layers.first()?.name)).flatten();
        let due = of_route.or(v6).or(leg.mtu)?;
        let mtu = path_mtu(self.request.destination, source).ok()?;
        judge::wrapped(leg, self.destination, due, mtu)
    }

    /// The next hops that source ports can reach, one per device: several only on a multipath route that follows the
    /// ports, or of which each connection draws one.
    fn next_hops(&mut self, source: IpAddr) -> io::Result<(NextHops, Option<Note>)> {
        let query = self.query(Some(source), self.first_port());
        let all = self.netlink.route_entry(&query).map(|r| r.hops).unwrap_or_default();
        if let Some(drawn) = self.drawn(&all) {
            return Ok((NextHops { all: drawn, are_drawn: true }, None));
        }
        let probes = if all.len() > 1 { PROBES } else { 1 };
        let mut seen: Vec<NextHop> = Vec::new();
        for port in self.ports.clone().into_iter().take(probes) {
            let route = self.netlink.route(&self.query(Some(source), port))?;
            let new = route.hops.into_iter().filter(|hop| seen.iter().all(|s| s.device != hop.device));
            seen.extend(new.take(1).collect::<Vec<_>>());
        }
        let devices = all.iter().map(|hop| hop.device).collect::<std::collections::BTreeSet<_>>().len();
        let note = (devices > 1 && seen.len() == 1).then(|| self.one_of_many(devices, source));
        Ok((NextHops { all: seen, are_drawn: false }, note))
    }

    /// All next hops, where the kernel draws one for each socket. Asked about a route it has no socket, and so always
    /// says the same.
    fn drawn(&self, all: &[NextHop]) -> Option<Vec<NextHop>> {
        let mut hops: Vec<NextHop> = all.to_vec();
        hops.sort_by_key(|hop| hop.device);
        hops.dedup_by_key(|hop| hop.device);
        let by_addresses = self.destination.is_ipv6() && self.tree.multipath_policy(true) == Some(0);
        (hops.len() > 1 && by_addresses && draws_next_hops_of_v6(&self.tree.kernel_release())).then_some(hops)
    }

    /// The note for a multipath route of which all streams take the same next hop: the kernel's policy ignores ports
    /// (0, 2), or it prefers the next hop that owns the source address (6.16 and newer).
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
                    "multipath route over {devices} devices, but fib_multipath_hash_policy {} sends all streams over \
                     one",
                    policy.map_or_else(|| "0".to_owned(), |p| p.to_string())
                ),
                format!("as root: sysctl -w net.{family}.fib_multipath_hash_policy=1"),
            ),
        }
    }

    /// Reads the devices until two readings agree and LACP has settled.
    fn legs_when_stable(&mut self, hops: &[NextHop]) -> Vec<Leg> {
        let mut last = self.legs(hops);
        let plain = |leg: &Leg| matches!(leg.end, End::NoBond | End::Guest | End::Loopback);
        if !last.is_empty() && last.iter().all(plain) {
            // There is nothing that could be changing.
            return last;
        }
        for _ in 1..READINGS {
            let next = self.legs(hops);
            let settled = next.iter().all(|leg| leg.bond.as_ref().is_none_or(|bond| bond.moving().is_empty()));
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
            Ok(messages) => Links::from_netlink(&messages),
            Err(error) => Links::without_netlink(self.tree, &error),
        };
        let (tree, destination) = (self.tree, self.destination);
        // A device that nobody shows could be anything.
        if hops.iter().any(|hop| links.get(hop.device).is_none()) {
            return Vec::new();
        }
        let mut port_of = |bridge, tag: Option<u16>, hop: &NextHop| {
            let untagged = links.get(bridge)?.untagged;
            self.port_of((bridge, untagged.map(|untagged| tag.unwrap_or(untagged))), hop, destination)
        };
        hops.iter().map(|hop| leg(tree, &links, hop, |bridge, tag| port_of(bridge, tag, hop))).collect()
    }

    /// The bridge port behind which the next hop was seen, in a VLAN if the bridge keeps them apart.
    fn port_of(&mut self, (bridge, vlan): (u32, Option<u16>), hop: &NextHop, destination: IpAddr) -> Option<u32> {
        let next = hop.gateway.unwrap_or(destination);
        // The address may be resolved on the bridge or on a device above it (a VLAN, a macvlan).
        let mac = [hop.device, bridge].into_iter().find_map(|on| self.netlink.neighbour(on, next))?;
        self.netlink.bridge_port(bridge, &mac, vlan)
    }
}

/// A team's port.
fn class(tree: &Tree, port: &links::Link) -> Class {
    let speed = tree.device(port.identity(), "speed").and_then(|text| crate::bond::sysfs::speed(&text));
    Class { name: port.name.clone(), ifindex: port.index, speed }
}

pub(super) fn leg(tree: &Tree, links: &Links, hop: &NextHop, mut bridge_port: impl BridgePort) -> Leg {
    let way = walk::walk(links, hop.device, &mut bridge_port);
    let (top, last) = (way.layers.first(), way.layers.last());
    let link = |layer: Option<&Layer>| layer.and_then(|layer| links.get(layer.ifindex));
    let (top, last) = (link(top), link(last));
    let is_made = way.end == End::NoBond && last.is_some_and(|card| guest::is_made(tree, card.identity()));
    let bond = last.filter(|_| way.end == End::Bond).and_then(|link| bonds::read(links, tree, link));
    let speed =
        last.and_then(|link| tree.device(link.identity(), "speed")).and_then(|text| crate::bond::sysfs::speed(&text));
    let slaves = match (&bond, last) {
        (Some(bond), _) => judge::classes(bond),
        (None, Some(team)) if way.end == End::Team => links.members(team.index).map(|port| class(tree, port)).collect(),
        _ => Vec::new(),
    };
    Leg {
        gateway: hop.gateway,
        stacking: way.stacking,
        end: if is_made { End::Guest } else { way.end },
        bond,
        slaves,
        speed,
        mtu: top.and_then(|link| link.mtu),
        gso_max: top.and_then(|link| link.gso_max),
        layers: way.layers,
    }
}
