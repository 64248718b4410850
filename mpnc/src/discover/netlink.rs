//! Questions to the kernel over rtnetlink: routes, links, addresses, neighbours. No privilege needed for any of them.
//!
//! Must not know what the answers are used for.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
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
    /// The MTU that the route has of its own, or that was found on the path: bytes of an IP packet.
    pub(super) mtu: Option<u32>,
    /// The destination is this host.
    pub(super) local: bool,
}

/// A queueing discipline of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Qdisc {
    pub(super) kind: String,
    /// What leaves goes through it first; not one of a queue beneath it, nor clsact, which holds no packet.
    pub(super) is_root: bool,
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

    /// The queueing disciplines of a device.
    pub(super) fn qdiscs(&mut self, device: u32) -> io::Result<Vec<Qdisc>> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(tc_request(device)?);
        let answers = self.0.ask(request, NLM_F_DUMP)?;
        let of = |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(tc) if u32::try_from(tc.header.index) == Ok(device) => Some(tc),
            _ => None,
        };
        let read = |tc: TcMessage| Qdisc { is_root: tc.header.parent == TcHandle::ROOT, kind: tc_kind(&tc) };
        Ok(answers.into_iter().filter_map(of).map(read).collect())
    }

    /// Whether the clsact qdisc of a device has filters for what leaves.
    pub(super) fn has_egress_filters(&mut self, device: u32) -> io::Result<bool> {
        let mut request = tc_request(device)?;
        request.header.parent = EGRESS;
        let answers = self.0.ask(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_DUMP)?;
        Ok(answers.iter().any(|message| matches!(message, RouteNetlinkMessage::NewTrafficFilter(_))))
    }

    /// The addresses of a device that are in use, those of the widest scope first.
    pub(super) fn addresses(&mut self, device: u32) -> io::Result<Vec<IpAddr>> {
        let answers = self.0.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let of_device = |message| match message {
            RouteNetlinkMessage::NewAddress(address) if address.header.index == device => Some(address),
            _ => None,
        };
        let mut found: Vec<_> =
            answers.into_iter().filter_map(of_device).filter(|address| !is_unfit(address)).collect();
        found.sort_by_key(|address| u8::from(address.header.scope));
        Ok(found.iter().filter_map(own_address).collect())
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

    /// The port behind which a bridge has seen a hardware address, in the VLAN of these frames (`None` in a bridge that
    /// does not keep VLANs apart).
    pub(super) fn bridge_port(&mut self, bridge: u32, mac: &[u8], vlan: Option<u16>) -> Option<u32> {
        port_behind(&self.neighbours(AddressFamily::Bridge), bridge, mac, vlan)
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

/// Not yet this host's, no longer to be used, or somebody else's as well.
fn is_unfit(address: &AddressMessage) -> bool {
    let unfit = AddressFlags::Tentative | AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let bits = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    bits.unwrap_or_else(|| AddressFlags::from_bits_retain(address.header.flags.bits().into())).intersects(unfit)
}

/// Of a link between two hosts `IFA_ADDRESS` is the other's (`inet_fill_ifaddr`, net/ipv4/devinet.c, 6.12).
fn own_address(address: &AddressMessage) -> Option<IpAddr> {
    let told = address.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some((true, *ip)),
        AddressAttribute::Address(ip) => Some((false, *ip)),
        _ => None,
    });
    told.max_by_key(|(is_local, _)| *is_local).map(|(_, ip)| ip)
}

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)` of include/uapi/linux/pkt_sched.h.
const EGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff3 };

fn tc_request(device: u32) -> io::Result<TcMessage> {
    let mut request = TcMessage::default();
    request.header.index = i32::try_from(device).map_err(io::Error::other)?;
    Ok(request)
}

fn tc_kind(tc: &TcMessage) -> String {
    let kind =
        tc.attributes.iter().find_map(|a| if let TcAttribute::Kind(kind) = a { Some(kind.clone()) } else { None });
    kind.unwrap_or_default()
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
    let (mut source, mut mtu) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(device) => single.device = *device,
            RouteAttribute::Gateway(address) => single.gateway = ip(address),
            RouteAttribute::Via(via) => single.gateway = via_ip(via),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
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
    Route { hops, source, mtu, local: route.header.kind == RouteType::Local }
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

/// A bridge's entry is that of an address in a VLAN (`fdb_find_rcu`, net/bridge/br_fdb.c, 6.12). Where there is none
/// for this VLAN, all of the address's have to agree.
fn port_behind(entries: &[NeighbourMessage], bridge: u32, mac: &[u8], vlan: Option<u16>) -> Option<u32> {
    let is_its = |n: &&NeighbourMessage| {
        let of_bridge = n.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Controller(i) if *i == bridge));
        of_bridge && n.header.ifindex != bridge && hardware_address(n).is_some_and(|address| address == mac)
    };
    let vlan_of = |attribute: &NeighbourAttribute| match attribute {
        NeighbourAttribute::Vlan(id) => Some(*id),
        _ => None,
    };
    let place = |n: &NeighbourMessage| (n.attributes.iter().find_map(vlan_of), n.header.ifindex);
    let known: Vec<(Option<u16>, u32)> = entries.iter().filter(is_its).map(place).collect();
    let exact = known.iter().find(|(of, _)| *of == vlan);
    let (_, port) = exact.or_else(|| known.first().filter(|(_, port)| known.iter().all(|(_, other)| other == port)))?;
    Some(*port)
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
    fn a_bridges_port_is_that_of_the_address_in_the_vlan() {
        const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
        let entry = |port, bridge, mac: [u8; 6], vlan: Option<u16>| {
            let mut n = NeighbourMessage::default();
            n.header.ifindex = port;
            n.attributes =
                vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec()), NeighbourAttribute::Controller(bridge)];
            n.attributes.extend(vlan.map(NeighbourAttribute::Vlan));
            n
        };
        let entries = [
            entry(5, 3, [2, 0, 0, 0, 0, 8], Some(100)),
            entry(6, 4, MAC, Some(100)),
            entry(3, 3, MAC, Some(100)),
            entry(7, 3, MAC, Some(1)),
            entry(8, 3, MAC, Some(100)),
        ];
        let behind = |entries: &[NeighbourMessage], vlan| port_behind(entries, 3, &MAC, vlan);
        let found = [Some(1), Some(100), Some(7), None].map(|vlan| behind(&entries, vlan));
        assert_eq!(found, [Some(7), Some(8), None, None]);
        assert_eq!(behind(&entries[..4], Some(100)), Some(7), "the only port that it was ever seen behind");
        assert_eq!(behind(&[entry(9, 3, MAC, None)], None), Some(9));
        assert_eq!(behind(&[], None), None);
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
