//! The devices of this network namespace, as far as the way to a bond needs them: from netlink, or, where that is
//! refused, from sysfs.
//!
//! Must not know routes. A field is `None` where its source does not tell it.

use std::collections::BTreeMap;

use netlink_packet_route::link::{
    BondAdInfo, BondPortState, InfoBond, InfoBondPort, InfoBridge, InfoData, InfoPortData, InfoVlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, MiiStatus,
};

use super::gauge::counted;
use super::netlink::Netlink;
use super::tree::{Identity, Tree};
use crate::bond::{Mii, Mode, Policy, SlaveState, sysfs};

/// What a device is, as far as the way down depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A network card, or anything that has no device beneath it.
    Plain,
    /// lo.
    Loopback,
    /// A bond.
    Bond,
    /// A VLAN on another device.
    Vlan,
    /// macvlan, macvtap, ipvlan, ipvtap: on another device, same headers.
    Macvlan,
    /// A bridge: the way goes on behind one of its ports.
    Bridge,
    /// A routing domain: the way goes on behind its only member.
    Vrf,
    /// One end of a cable between namespaces.
    Veth,
    /// A team (teamd).
    Team,
    /// A port of Open vSwitch.
    Openvswitch,
    /// A tunnel in UDP whose port follows the connection (vxlan, geneve).
    UdpTunnel(String),
    /// A tunnel in the clear (gre, ipip, sit ...).
    PlainTunnel(String),
    /// A tunnel that makes one flow of everything (wireguard, tun, xfrm, vti, macsec).
    OneFlow(String),
}

impl Kind {
    /// The kernel's word for it, or ours.
    pub fn name(&self) -> &str {
        match self {
            Self::Plain => "device",
            Self::Loopback => "loopback",
            Self::Bond => "bond",
            Self::Vlan => "vlan",
            Self::Macvlan => "macvlan",
            Self::Bridge => "bridge",
            Self::Vrf => "vrf",
            Self::Veth => "veth",
            Self::Team => "team",
            Self::Openvswitch => "openvswitch",
            Self::UdpTunnel(name) | Self::PlainTunnel(name) | Self::OneFlow(name) => name,
        }
    }

    /// From `IFLA_INFO_KIND` or sysfs' `DEVTYPE`.
    fn named(name: &str) -> Self {
        match name {
            "bond" => Self::Bond,
            "vlan" => Self::Vlan,
            "macvlan" | "macvtap" | "ipvlan" | "ipvtap" => Self::Macvlan,
            "bridge" => Self::Bridge,
            "vrf" => Self::Vrf,
            "veth" | "netkit" => Self::Veth,
            "team" => Self::Team,
            "openvswitch" => Self::Openvswitch,
            "vxlan" | "geneve" | "bareudp" => Self::UdpTunnel(name.to_owned()),
            "gre" | "gretap" | "ip6gre" | "ip6gretap" | "erspan" | "ip6erspan" | "ipip" | "ip6tnl" | "sit" => {
                Self::PlainTunnel(name.to_owned())
            }
            "wireguard" | "tun" | "xfrm" | "vti" | "vti6" | "macsec" | "ppp" => Self::OneFlow(name.to_owned()),
            _ => Self::Plain,
        }
    }
}

/// A bond's own attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BondFacts {
    pub(super) mode: Option<Mode>,
    pub(super) policy: Option<Policy>,
    pub(super) dynamic_lb: Option<bool>,
    pub(super) aggregator: Option<u16>,
}

/// A slave's attributes in its bond.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlaveFacts {
    pub(super) state: Option<SlaveState>,
    pub(super) mii: Option<Mii>,
    pub(super) aggregator: Option<u16>,
    /// LACP port states, of this side and as heard from the partner.
    pub(super) lacp: (Option<u8>, Option<u8>),
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Hardware address; empty where it is not told.
    pub(super) address: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of an IP packet.
    pub(super) mtu: Option<u32>,
    /// The most that it takes of TCP over IPv6 at once, bytes.
    pub(super) gso_max: Option<u32>,
    /// How often its link went up or down.
    pub(super) carrier_changes: Option<u64>,
    /// The device beneath, by index.
    pub(super) lower: Option<u32>,
    /// The device beneath is in another network namespace.
    pub(super) lower_elsewhere: bool,
    /// The bond, bridge, team or vrf that it belongs to.
    pub(super) master: Option<u32>,
    /// The tag that a VLAN device puts on frames.
    pub(super) vlan: Option<u16>,
    /// Of a bridge that keeps VLANs apart: the one of frames without a tag, 0 for none.
    pub(super) untagged: Option<u16>,
    pub(super) carrier: Option<bool>,
    pub(super) bond: BondFacts,
    pub(super) slave: SlaveFacts,
}

impl Link {
    fn new(index: u32, name: String, kind: Kind) -> Self {
        Self {
            index,
            name,
            address: Vec::new(),
            kind,
            mtu: None,
            gso_max: None,
            carrier_changes: None,
            lower: None,
            lower_elsewhere: false,
            master: None,
            vlan: None,
            untagged: None,
            carrier: None,
            bond: BondFacts::default(),
            slave: SlaveFacts::default(),
        }
    }

    /// What its files in sysfs must agree with.
    pub(super) fn identity(&self) -> Identity<'_> {
        Identity { name: &self.name, index: self.index, address: &self.address }
    }
}

/// All devices, by interface index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Links(BTreeMap<u32, Link>);

impl Links {
    /// From netlink; from sysfs where netlink is refused and sysfs is seen to be about this network namespace.
    pub(super) fn read(tree: &Tree) -> Self {
        let told = Netlink::open().and_then(|mut netlink| netlink.links());
        told.map_or_else(|error| Self::without_netlink(tree, &error), |messages| Self::from_netlink(&messages))
    }

    /// As [`Links::read`], when netlink has refused.
    pub(super) fn without_netlink(tree: &Tree, error: &std::io::Error) -> Self {
        let (ours, shown) = (counted(tree), Self::from_tree(tree));
        let is_ours = !ours.is_empty() && ours.keys().eq(shown.names().iter());
        log::debug!(
            "netlink: links cannot be listed ({error}); sysfs is {}",
            if is_ours { "read" } else { "another's" }
        );
        if is_ours { shown } else { Self::default() }
    }

    fn names(&self) -> std::collections::BTreeSet<String> {
        self.0.values().map(|link| link.name.clone()).collect()
    }

    /// From a netlink dump.
    pub(super) fn from_netlink(messages: &[LinkMessage]) -> Self {
        Self(messages.iter().filter_map(read_message).map(|link| (link.index, link)).collect())
    }

    /// From `/sys/class/net` alone.
    pub(super) fn from_tree(tree: &Tree) -> Self {
        let index_of = |name: &str| -> Option<u32> { tree.attribute(name, "ifindex")?.trim().parse().ok() };
        let names = tree.list("sys/class/net");
        let links = names.iter().filter_map(|name| Some(read_tree(tree, name, index_of(name)?, &index_of)));
        Self(links.map(|link| (link.index, link)).collect())
    }

    pub(super) fn get(&self, index: u32) -> Option<&Link> {
        self.0.get(&index)
    }

    /// The index of the device of this printable name.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        self.0.values().find(|l| l.name == name).map(|l| l.index)
    }

    /// All of one kind.
    pub(super) fn of_kind(&self, kind: &Kind) -> impl Iterator<Item = &Link> {
        self.0.values().filter(move |l| l.kind == *kind)
    }

    /// Members of a bond, bridge, team or vrf, by interface index.
    pub(super) fn members(&self, master: u32) -> impl Iterator<Item = &Link> {
        self.0.values().filter(move |l| l.master == Some(master))
    }
}

fn read_message(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let loopback = message.header.flags.contains(LinkFlags::Loopback);
    let kind = if loopback { Kind::Loopback } else { Kind::Plain };
    let mut link = Link::new(message.header.index, name, kind);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(lower) if *lower != 0 && *lower != link.index => {
                link.lower = Some(*lower);
            }
            LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
            LinkAttribute::Controller(master) if *master != 0 => link.master = Some(*master),
            LinkAttribute::Carrier(up) => link.carrier = Some(*up != 0),
            LinkAttribute::Address(address) => link.address.clone_from(address),
            LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max = Some(*bytes),
            LinkAttribute::CarrierChanges(count) => link.carrier_changes = Some((*count).into()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    read_info(&mut link, info);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn read_info(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(kind) => link.kind = Kind::named(&kind.to_string()),
        LinkInfo::Data(InfoData::Vlan(attributes)) => {
            link.vlan = attributes.iter().find_map(|a| if let InfoVlan::Id(id) = a { Some(*id) } else { None });
        }
        LinkInfo::Data(InfoData::Bridge(attributes)) => link.untagged = untagged(attributes),
        LinkInfo::Data(InfoData::Bond(attributes)) => {
            for attribute in attributes {
                read_bond(&mut link.bond, attribute);
            }
        }
        LinkInfo::PortData(InfoPortData::BondPort(attributes)) => {
            for attribute in attributes {
                read_slave(&mut link.slave, attribute);
            }
        }
        _ => {}
    }
}

/// The VLAN of frames without a tag. A bridge's own ports may have others; its default is what most have.
fn untagged(bridge: &[InfoBridge]) -> Option<u16> {
    let filters = bridge.iter().any(|a| matches!(a, InfoBridge::VlanFiltering(true)));
    let default = bridge.iter().find_map(|a| if let InfoBridge::VlanDefaultPvid(id) = a { Some(*id) } else { None });
    filters.then(|| default.unwrap_or(0))
}

fn read_bond(facts: &mut BondFacts, attribute: &InfoBond) {
    match attribute {
        InfoBond::Mode(mode) => facts.mode = Mode::from_number(u8::from(*mode)),
        InfoBond::XmitHashPolicy(policy) => {
            facts.policy = Policy::from_u32(u32::from(u8::from(*policy)));
        }
        InfoBond::TlbDynamicLb(on) => facts.dynamic_lb = Some(*on),
        InfoBond::AdInfo(info) => {
            facts.aggregator = info.iter().find_map(|a| match a {
                BondAdInfo::Aggregator(id) => Some(*id),
                _ => None,
            });
        }
        _ => {}
    }
}

fn read_slave(facts: &mut SlaveFacts, attribute: &InfoBondPort) {
    match attribute {
        InfoBondPort::BondPortState(BondPortState::Active) => {
            facts.state = Some(SlaveState::Active);
        }
        InfoBondPort::BondPortState(_) => facts.state = Some(SlaveState::Backup),
        InfoBondPort::MiiStatus(status) => {
            facts.mii = Some(match status {
                MiiStatus::Up => Mii::Up,
                MiiStatus::GoingDown => Mii::GoingDown,
                MiiStatus::GoingBack => Mii::GoingBack,
                _ => Mii::Down,
            });
        }
        InfoBondPort::AdAggregatorId(id) => facts.aggregator = Some(*id),
        InfoBondPort::AdActorOperPortState(state) => facts.lacp.0 = Some(state.bits()),
        InfoBondPort::AdPartnerOperPortState(state) => facts.lacp.1 = Some(state.bits()),
        _ => {}
    }
}

fn read_tree(tree: &Tree, name: &str, index: u32, index_of: &dyn Fn(&str) -> Option<u32>) -> Link {
    let mut link = Link::new(index, name.to_owned(), tree_kind(tree, name));
    let lowers: Vec<String> =
        tree.list_device(name).into_iter().filter_map(|entry| Some(entry.strip_prefix("lower_")?.to_owned())).collect();
    // Bonds and bridges have a lower_ entry for each member; those are found by their master.
    if !matches!(link.kind, Kind::Bond | Kind::Bridge | Kind::Team | Kind::Vrf) {
        link.lower = lowers.first().and_then(|lower| index_of(lower));
        let iflink: Option<u32> = tree.attribute(name, "iflink").and_then(|s| s.trim().parse().ok());
        let on_another = matches!(link.kind, Kind::Vlan | Kind::Macvlan) && lowers.is_empty();
        link.lower_elsewhere = on_another && iflink.is_some_and(|i| i != index && i != 0);
    }
    link.master = tree.link_name(name, "master").and_then(|master| index_of(&master));
    link.carrier = tree.attribute(name, "carrier").and_then(|s| sysfs::flag(&s));
    link.mtu = tree.attribute(name, "mtu").and_then(|s| s.trim().parse().ok());
    link.carrier_changes = tree.attribute(name, "carrier_changes").and_then(|s| s.trim().parse().ok());
    let bonding = |attribute: &str| tree.attribute(name, &format!("bonding/{attribute}"));
    link.bond = BondFacts {
        mode: bonding("mode").and_then(|s| sysfs::mode(&s)),
        policy: bonding("xmit_hash_policy").and_then(|s| sysfs::policy(&s)),
        dynamic_lb: bonding("tlb_dynamic_lb").and_then(|s| sysfs::flag(&s)),
        aggregator: bonding("ad_aggregator").and_then(|s| sysfs::number(&s)),
    };
    link.slave = slave_of_tree(|attribute| tree.attribute(name, attribute));
    link
}

/// A slave's attributes as sysfs has them; `read` reads one of its files.
pub(super) fn slave_of_tree(read: impl Fn(&str) -> Option<String>) -> SlaveFacts {
    let slave = |attribute: &str| read(&format!("bonding_slave/{attribute}"));
    let lacp = |whose: &str| slave(&format!("ad_{whose}_oper_port_state"))?.trim().parse().ok();
    SlaveFacts {
        state: slave("state").and_then(|s| sysfs::state(&s)),
        mii: slave("mii_status").and_then(|s| sysfs::mii(&s)),
        aggregator: slave("ad_aggregator_id").and_then(|s| sysfs::number(&s)),
        lacp: (lacp("actor"), lacp("partner")),
    }
}

/// sysfs names the kind of some devices only (`DEVTYPE` in `uevent`); the directories of their drivers tell others.
fn tree_kind(tree: &Tree, name: &str) -> Kind {
    let uevent = tree.attribute(name, "uevent").unwrap_or_default();
    let devtype = uevent.lines().find_map(|l| l.strip_prefix("DEVTYPE="));
    if let Some(devtype) = devtype {
        return Kind::named(devtype);
    }
    if tree.attribute(name, "tun_flags").is_some() {
        return Kind::named("tun");
    }
    let loopback = tree.attribute(name, "type").is_some_and(|t| t.trim() == "772");
    if loopback { Kind::Loopback } else { Kind::Plain }
}
