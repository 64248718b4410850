//! From the device that a route names down to the bond, and what lies between.
//!
//! Pure over [`Links`]; must not ask the kernel itself (who needs a bridge's port is given a function for it).

use super::links::{Kind, Link, Links};
use crate::bond::Stacking;

/// More devices than this on top of each other are a loop.
const DEEPEST: usize = 16;

/// One device on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Device name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// What it is.
    pub kind: Kind,
}

/// Where the way down ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a bond.
    Bond,
    /// At a device that is no bond and has none beneath it.
    NoBond,
    /// At a card that a hypervisor makes, or another card: what is beneath it is out of sight.
    Guest,
    /// At lo: the destination is this host.
    Loopback,
    /// At a device whose other side is in another network namespace.
    Elsewhere,
    /// At a team.
    Team,
    /// At a port of Open vSwitch.
    Openvswitch,
    /// At a tunnel that does not name the device beneath it.
    Tunnel,
    /// At a bridge or vrf with several members and no telling which one it is.
    Unclear,
}

/// The way down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// From the route's device to the last one, which is the bond for [`End::Bond`].
    pub(super) layers: Vec<Layer>,
    pub(super) stacking: Stacking,
    pub(super) end: End,
}

enum Step {
    Down(u32),
    Stop(End),
}

/// Tells behind which port of a bridge (by index) the next hop is, if that is known, for frames with this VLAN tag or
/// none.
pub(super) trait BridgePort: FnMut(u32, Option<u16>) -> Option<u32> {}
impl<F: FnMut(u32, Option<u16>) -> Option<u32>> BridgePort for F {}

/// Walks down from `device`.
pub(super) fn walk(links: &Links, device: u32, bridge_port: &mut impl BridgePort) -> Way {
    let mut way = Way { layers: Vec::new(), stacking: Stacking::Plain, end: End::NoBond };
    let (mut vlans, mut tag) = (0, None);
    let mut at = device;
    for _ in 0..DEEPEST {
        let Some(link) = links.get(at) else { break };
        way.layers.push(Layer { name: link.name.clone(), ifindex: link.index, kind: link.kind.clone() });
        vlans += u8::from(link.kind == Kind::Vlan);
        tag = link.vlan.or(tag);
        way.stacking = stacked(way.stacking, &link.kind, vlans);
        match step(links, link, tag, bridge_port) {
            Step::Down(next) => at = next,
            Step::Stop(end) => {
                way.end = end;
                break;
            }
        }
    }
    way
}

fn stacked(above: Stacking, kind: &Kind, vlans: u8) -> Stacking {
    match kind {
        Kind::OneFlow(_) => Stacking::OneFlow,
        _ if above != Stacking::Plain => above,
        Kind::UdpTunnel(_) => Stacking::UdpTunnel,
        Kind::PlainTunnel(_) => Stacking::PlainTunnel,
        Kind::Vlan if vlans > 1 => Stacking::DoubleVlan,
        _ => Stacking::Plain,
    }
}

fn step(links: &Links, link: &Link, tag: Option<u16>, bridge_port: &mut impl BridgePort) -> Step {
    match &link.kind {
        Kind::Bond => Step::Stop(End::Bond),
        Kind::Loopback => Step::Stop(End::Loopback),
        Kind::Team => Step::Stop(End::Team),
        Kind::Openvswitch => Step::Stop(End::Openvswitch),
        Kind::Veth => Step::Stop(End::Elsewhere),
        Kind::Plain => Step::Stop(End::NoBond),
        Kind::Vlan | Kind::Macvlan => lower(link).unwrap_or(Step::Stop(End::Elsewhere)),
        Kind::UdpTunnel(_) | Kind::PlainTunnel(_) | Kind::OneFlow(_) => lower(link).unwrap_or(Step::Stop(End::Tunnel)),
        Kind::Vrf => only(links.members(link.index)).map_or(Step::Stop(End::Unclear), Step::Down),
        Kind::Bridge => {
            let known = bridge_port(link.index, tag);
            let port = known.or_else(|| likely_port(links, link.index));
            port.map_or(Step::Stop(End::Unclear), Step::Down)
        }
    }
}

/// The device beneath, if it is here to be seen.
fn lower(link: &Link) -> Option<Step> {
    link.lower.filter(|_| !link.lower_elsewhere).map(Step::Down)
}

/// A bridge's only port, or its only port that has a bond under it.
fn likely_port(links: &Links, bridge: u32) -> Option<u32> {
    let has_bond = |link: &&Link| walk(links, link.index, &mut |_, _| None).end == End::Bond;
    only(links.members(bridge)).or_else(|| only(links.members(bridge).filter(has_bond)))
}

fn only<'a>(mut links: impl Iterator<Item = &'a Link>) -> Option<u32> {
    let first = links.next()?.index;
    links.next().is_none().then_some(first)
}
