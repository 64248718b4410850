//! Questions to the kernel over rtnetlink: routes, links, neighbours. No privilege needed for any of them.
//!
//! Must not know what the answers are used for.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::message::lean;
use super::request::Channel;

/// What a route is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) dst: IpAddr,
    /// Without it the kernel chooses, and hashes multipath routes with zero in its place.
    pub(super) src: Option<IpAddr>,
    /// The device that the connection is bound to, or that the destination's scope names; 0 for none.
    pub(super) device: u32,
    /// The mark of its packets (`SO_MARK`); 0 for none.
    pub(super) mark: u32,
    /// Source and destination port of the TCP connection.
    pub(super) ports: Option<(u16, u16)>,
}

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextHop {
    /// Interface index of the egress device.
    pub(super) device: u32,
    /// The router's address; `None` when the destination is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// Relative weight in a multipath route.
    pub(super) weight: u32,
}

/// The kernel's answer about a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The next hop, or all of them when the whole route was asked for.
    pub(super) hops: Vec<NextHop>,
    /// The source address that the kernel prefers.
    pub(super) source: Option<IpAddr>,
    /// The destination is this host.
    pub(super) local: bool,
}

/// A connection to the kernel's routing tables.
pub(super) struct Netlink(Channel);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        Channel::open(NETLINK_ROUTE, lean).map(Self)
    }

    /// The way that one connection takes. Kernels before 4.18 do not know ports in the question; they are then left
    /// out.
    pub(super) fn route(&mut self, query: &Query) -> io::Result<Route> {
        self.get_route(query, RouteFlags::LookupTable).or_else(|e| match query.ports {
            Some(_) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                self.get_route(&Query { ports: None, ..*query }, RouteFlags::LookupTable)
            }
            _ => Err(e),
        })
    }

    /// The whole entry of the routing table with all its next hops (4.13 and newer).
    pub(super) fn route_entry(&mut self, query: &Query) -> io::Result<Route> {
        self.get_route(query, RouteFlags::LookupTable | RouteFlags::FibMatch)
    }

    fn get_route(&mut self, query: &Query, flags: RouteFlags) -> io::Result<Route> {
        let request = RouteNetlinkMessage::GetRoute(route_request(query, flags));
        for answer in self.0.ask(request, 0)? {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                return Ok(read_route(&route));
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel did not answer the route request"))
    }

    /// All devices of this network namespace.
    pub(super) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let answers = self.0.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(link) = m { Some(link) } else { None })
            .collect())
    }

    /// The hardware address of a neighbour on a device, if the kernel has it.
    pub(super) fn neighbour(&mut self, device: u32, address: IpAddr) -> Option<Vec<u8>> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        self.neighbours(family).into_iter().filter(|n| n.header.ifindex == device).find_map(|n| {
            let is_it = n.attributes.iter().any(|a| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address == *ip,
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address == *ip,
                _ => false,
            });
            if is_it { hardware_address(&n) } else { None }
        })
    }

    /// The port behind which a bridge has seen a hardware address.
    pub(super) fn bridge_port(&mut self, bridge: u32, mac: &[u8]) -> Option<u32> {
        self.neighbours(AddressFamily::Bridge).into_iter().find_map(|n| {
            let of_bridge = n.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Controller(i) if *i == bridge));
            let is_it = of_bridge && n.header.ifindex != bridge && hardware_address(&n)? == mac;
            is_it.then_some(n.header.ifindex)
        })
    }

    fn neighbours(&mut self, family: AddressFamily) -> Vec<NeighbourMessage> {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        let answers = self.0.ask(RouteNetlinkMessage::GetNeighbour(request), NLM_F_DUMP).unwrap_or_default();
        answers
            .into_iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewNeighbour(n) = m { Some(n) } else { None })
            .collect()
    }
}

fn route_request(query: &Query, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let bits = if query.dst.is_ipv4() { 32 } else { 128 };
    message.header.address_family = if query.dst.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = bits;
    message.header.flags = flags;
    message.attributes.push(RouteAttribute::Destination(query.dst.into()));
    if let Some(src) = query.src {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(src.into()));
    }
    if query.device != 0 {
        message.attributes.push(RouteAttribute::Oif(query.device));
    }
    if query.mark != 0 {
        message.attributes.push(RouteAttribute::Mark(query.mark));
    }
    if let Some((sport, dport)) = query.ports {
        message.attributes.push(RouteAttribute::IpProto(mpnc_ebpf::flow::PROTO_TCP));
        message.attributes.push(RouteAttribute::Sport(sport));
        message.attributes.push(RouteAttribute::Dport(dport));
    }
    message
}

fn read_route(route: &RouteMessage) -> Route {
    let mut hops = Vec::new();
    let mut single = NextHop { device: 0, gateway: None, weight: 1 };
    let mut source = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(device) => single.device = *device,
            RouteAttribute::Gateway(address) => single.gateway = ip(address),
            RouteAttribute::Via(via) => single.gateway = via_ip(via),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::MultiPath(many) => hops.extend(many.iter().map(|hop| NextHop {
                device: hop.interface_index,
                gateway: hop.attributes.iter().find_map(gateway_of),
                weight: u32::from(hop.hops) + 1,
            })),
            _ => {}
        }
    }
    if hops.is_empty() && single.device != 0 {
        hops.push(single);
    }
    Route { hops, source, local: route.header.kind == RouteType::Local }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => via_ip(via),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(a) => Some((*a).into()),
        RouteVia::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}

fn hardware_address(neighbour: &NeighbourMessage) -> Option<Vec<u8>> {
    neighbour.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(dst: &str, ports: Option<(u16, u16)>) -> Query {
        Query { dst: dst.parse().unwrap(), src: None, device: 0, mark: 0, ports }
    }

    #[test]
    fn loopback_is_a_local_route() {
        let mut netlink = Netlink::open().unwrap();
        let route = netlink.route(&query("127.0.0.1", Some((2000, 31337)))).unwrap();
        assert!(route.local);
        assert_eq!(route.source, Some("127.0.0.1".parse().unwrap()));
        let device = route.hops[0].device;
        assert!(netlink.links().unwrap().iter().any(|l| l.header.index == device));
    }

    #[test]
    fn a_refusal_is_the_systems_error() {
        let src = Some("198.51.100.7".parse().unwrap());
        let e = Netlink::open().unwrap().route(&Query { src, ..query("127.0.0.1", None) }).unwrap_err();
        assert!(e.raw_os_error().is_some(), "{e}");
    }
}
