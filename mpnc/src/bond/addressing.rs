//! Addresses as a planning variable: under layer2 and layer2+3 a bond does not look at ports, but at addresses, the
//! Ethernet type (so the family) among them. Two hosts with several addresses then reach several slaves, unprivileged.
//!
//! The source port says which pair of addresses a stream takes, so that planner and path manager go on choosing ports
//! and nothing else. Must not know how pairs were found, nor whether a filter lets them through.

use super::kernel::KernelHash;
use super::outlook::{Axis, FlowBase, Hashing, PortClass};
use super::sway::{Stacking, Sway};
use super::{Bond, ByteOrder, Era, Mode, Policy};
use mpnc_ebpf::hash::{self, Ether, index};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Ports of this many in a row take the same pair: so the lane code (bits 1 to 5) is free for every pair.
const PORTS_EACH: u16 = 64;

/// An address of each host, and the Ethernet header between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// This host's.
    pub src: IpAddr,
    /// The peer's, with the port and, if it is link-local, the zone.
    pub dst: SocketAddr,
    /// As this host sends it: to the next hop.
    pub ether: Ether,
}

/// A bond whose hash takes addresses, not ports: what else it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressHash {
    policy: Policy,
    kernel: KernelHash,
    order: ByteOrder,
    /// Relative capacity of each usable slave, by index. Its length is the hash's modulus.
    weights: Vec<u32>,
}

impl AddressHash {
    /// `None` where addresses do not choose, or ports do. Of `vlan+srcmac` nothing varies between two hosts, of layer2
    /// before 5.15 nothing that matters to two slaves.
    pub fn of_settings(
        (mode, policy, dynamic_lb): (Mode, Policy, bool),
        stacking: Stacking,
        (kernel, order): (KernelHash, ByteOrder),
        weights: Vec<u32>,
    ) -> Option<Self> {
        let by_address = matches!(policy, Policy::Layer2 | Policy::Layer23 | Policy::Encap23);
        // What the hash decides where it takes ports, it decides where it takes addresses.
        let by_hash = Sway::of_settings(mode, Policy::Layer34, dynamic_lb, stacking) == Sway::Exact;
        let hash = (by_address && by_hash && weights.len() > 1).then_some(Self { policy, kernel, order, weights })?;
        (!hash.is_by_family() || hash.tells_families_apart()).then_some(hash)
    }

    /// Whether the families of any pair of hosts take different slaves. (Only the last bytes of the hardware addresses
    /// matter, and only what one of them differs from the other in.)
    fn tells_families_apart(&self) -> bool {
        let slave = |ip: IpAddr, last: u8| {
            let ether = Ether { src: [last; 6], dst: [0; 6], vlan: None };
            self.slave(&Pair { src: ip, dst: SocketAddr::new(ip, 0), ether })
        };
        (0..=u8::MAX).any(|last| slave(Ipv4Addr::LOCALHOST.into(), last) != slave(Ipv6Addr::LOCALHOST.into(), last))
    }

    /// Of this host's own bond, of which `hashing` has what is not its policy's affair.
    pub fn of_bond(bond: &Bond, stacking: Stacking, hashing: &Hashing) -> Option<Self> {
        let settings = (bond.mode, bond.policy?, bond.dynamic_lb);
        Self::of_settings(settings, stacking, (hashing.kernel, hashing.order), hashing.weights.clone())
    }

    /// Which slave carries what goes between these addresses, whichever way: the hash is the same in both directions.
    pub fn slave(&self, pair: &Pair) -> Option<u16> {
        let flow = FlowBase::new(pair.src, pair.dst).flow(0)?;
        let hash = hash::hash(self.policy, self.kernel.era, self.order, &flow, &pair.ether);
        let slaves = u32::try_from(self.weights.len()).ok()?;
        index(hash, slaves).and_then(|slave| u16::try_from(slave).ok())
    }

    /// Whether only the family makes a difference.
    pub fn is_by_family(&self) -> bool {
        self.policy == Policy::Layer2
    }
}

/// Pairs of addresses that were seen to get through, and which ports take which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// The first is the one that the session began with.
    pairs: Vec<Pair>,
    /// Ports that were in use before there was a choice.
    ordinary: BTreeSet<u16>,
}

impl Addressing {
    /// `None` where there is nothing to choose. `in_use`: ports of streams between the first pair.
    pub fn new(pairs: &[Pair], in_use: impl IntoIterator<Item = u16>) -> Option<Arc<Self>> {
        let some = Self { pairs: pairs.to_vec(), ordinary: in_use.into_iter().collect() };
        (pairs.len() > 1).then(|| Arc::new(some))
    }

    /// What there is to choose from.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The pair that a stream from this port takes.
    pub fn of(&self, port: u16) -> Option<&Pair> {
        let turn = if self.ordinary.contains(&port) { 0 } else { usize::from(port / PORTS_EACH) % self.pairs.len() };
        self.pairs.get(turn)
    }

    /// Whether a stream from this port goes between the addresses that the session began with.
    pub fn is_ordinary(&self, port: u16) -> bool {
        self.of(port) == self.pairs.first()
    }

    /// The addresses of a stream from this port.
    pub fn base(&self, port: u16) -> Option<FlowBase> {
        self.of(port).map(|pair| FlowBase::new(pair.src, pair.dst))
    }

    /// Over which of the peer's slaves a switch sends what streams bring, if it hashes as Linux does by layer3+4. That
    /// cannot be read, but it is the best guess, and costs nothing.
    pub fn arriving(self: &Arc<Self>, slaves: u16) -> Axis {
        self.by_ports(&Hashing::alike(slaves, KernelHash::certain(Era::V5_18)))
    }

    /// Where a bond whose hash takes ports sends a stream, between the addresses that its port stands for.
    pub fn by_ports(self: &Arc<Self>, hashing: &Hashing) -> Axis {
        let of = Arc::clone(self);
        hashing.way_out_by(move |port| of.base(port))
    }

    /// How these pairs spread over the slaves of a bond; `None` where all lead to one.
    pub fn spread(self: &Arc<Self>, hash: &AddressHash) -> Option<Spread> {
        let reached: BTreeSet<u16> = self.pairs.iter().filter_map(|pair| hash.slave(pair)).collect();
        let weight = |(slave, weight): (u16, &u32)| if reached.contains(&slave) { *weight } else { 0 };
        let weights = (0..).zip(&hash.weights).map(weight).collect();
        let (of, by) = (Arc::clone(self), hash.clone());
        let class_of = PortClass::new(move |port| by.slave(of.of(port)?));
        let reached = u16::try_from(reached.len()).ok().filter(|reached| *reached > 1)?;
        Some(Spread { weights, class_of, reached })
    }
}

/// How pairs of addresses spread over the slaves of a bond.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Relative capacity of each slave; 0 where no pair leads.
    pub weights: Vec<u32>,
    /// Which slave a source port leads to, by the pair that it stands for.
    pub class_of: PortClass,
    /// Slaves that some pair leads to, two at least.
    pub reached: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bond::{Outlook, Planner, PortPool};

    fn pair(src: &str, dst: &str, last: u8) -> Pair {
        let ether = Ether { src: [2, 0, 0, 0, 0, last], dst: [2, 0, 0, 0, 0, 0x11], vlan: None };
        Pair { src: src.parse().unwrap(), dst: SocketAddr::new(dst.parse().unwrap(), 31337), ether }
    }

    fn both_families(last: u8) -> Vec<Pair> {
        vec![pair("10.1.2.3", "10.1.2.77", last), pair("fe80::3", "fe80::77", last)]
    }

    fn settings(policy: Policy, era: Era, slaves: usize) -> Option<AddressHash> {
        let (mode, certain) = (Mode::Ieee8023ad, (KernelHash::certain(era), ByteOrder::Little));
        AddressHash::of_settings((mode, policy, true), Stacking::Plain, certain, vec![1; slaves])
    }

    fn hash(policy: Policy, era: Era, slaves: usize) -> AddressHash {
        settings(policy, era, slaves).unwrap()
    }

    /// Of 256 pairs of hardware addresses, in how many the two families take different slaves (shared facts, section
    /// 11: measured shares).
    fn differing(era: Era, slaves: usize) -> usize {
        let hash = hash(Policy::Layer2, era, slaves);
        let differs = |last: &u8| {
            let [v4, v6] = both_families(*last)[..] else { return false };
            hash.slave(&v4) != hash.slave(&v6)
        };
        (0..=255).filter(differs).count()
    }

    #[test]
    fn the_families_take_different_slaves_as_kernels_were_seen_to() {
        for slaves in [2, 4, 6, 8] {
            assert_eq!(differing(Era::V5_18, slaves), 256, "{slaves} slaves");
        }
        assert!((64..70).contains(&(differing(Era::V5_18, 3) * 100 / 256)));
        assert!(settings(Policy::Layer2, Era::V4_14, 2).is_none(), "before 5.15 the types' parity is the same");
        assert!(settings(Policy::Layer23, Era::V4_14, 2).is_some(), "addresses differ in more");
        assert_eq!(differing(Era::V4_14, 4), 256);
    }

    #[test]
    fn several_addresses_reach_several_slaves_under_layer23() {
        let pairs: Vec<Pair> = (1..=4).map(|n| pair(&format!("10.1.2.{n}"), "10.1.2.77", 0x2c)).collect();
        let addressing = Addressing::new(&pairs, []).unwrap();
        let reached = |policy| addressing.spread(&hash(policy, Era::V5_18, 4)).map(|spread| spread.reached);
        assert_eq!(reached(Policy::Layer23), Some(4), "four addresses in a row differ in their last bits");
        assert_eq!(reached(Policy::Layer2), None, "layer2 does not see them");
    }

    #[test]
    fn a_plan_is_even_over_the_slaves_that_are_reached_and_uses_no_other() {
        let addressing = Addressing::new(&both_families(0x2c), [20_000]).unwrap();
        let hash = hash(Policy::Layer2, Era::V5_18, 4);
        let Spread { weights, class_of, reached } = addressing.spread(&hash).unwrap();
        assert_eq!((reached, weights.iter().sum::<u32>()), (2, 2));
        let outlook = Outlook::Asked { weights, class_of };
        let base = FlowBase { src: "10.1.2.3".parse().unwrap(), dst: "10.1.2.77".parse().unwrap(), dport: 31337 };
        let mut planner = Planner::new(base, outlook, PortPool::stated(20_000, 30_000).unwrap(), 7);
        let plan = planner.plan(4, &[]).unwrap();
        let mut counts = [0; 4];
        for planned in &plan {
            let pair = addressing.of(planned.port.unwrap()).unwrap();
            assert_eq!(hash.slave(pair), planned.slave);
            counts[usize::from(planned.slave.unwrap())] += 1;
        }
        counts.sort_unstable();
        assert_eq!(counts, [0, 0, 2, 2]);
    }

    #[test]
    fn streams_from_before_keep_their_addresses() {
        let pairs = both_families(0x2c);
        let addressing = Addressing::new(&pairs, [20_032]).unwrap();
        let other = (20_000..20_200).find(|port| !addressing.is_ordinary(*port)).unwrap();
        let before = Addressing::new(&pairs, [other]).unwrap();
        assert!(before.is_ordinary(other) && before.of(other) == pairs.first());
        assert_eq!(Addressing::new(&pairs[..1], []), None, "one pair is no choice");
    }

    #[test]
    fn nothing_to_choose_where_ports_do_or_the_hash_does_not() {
        let of = |mode, policy, stacking| {
            let kernel = (KernelHash::certain(Era::V5_18), ByteOrder::Little);
            AddressHash::of_settings((mode, policy, true), stacking, kernel, vec![1; 4])
        };
        assert!(of(Mode::Xor, Policy::Layer2, Stacking::Plain).is_some());
        for (mode, policy, stacking) in [
            (Mode::Ieee8023ad, Policy::Layer34, Stacking::Plain),
            (Mode::Ieee8023ad, Policy::VlanSrcmac, Stacking::Plain),
            (Mode::Ieee8023ad, Policy::Encap34, Stacking::Plain),
            (Mode::ActiveBackup, Policy::Layer2, Stacking::Plain),
            (Mode::RoundRobin, Policy::Layer2, Stacking::Plain),
            (Mode::Tlb, Policy::Layer2, Stacking::Plain),
            (Mode::Ieee8023ad, Policy::Layer2, Stacking::DoubleVlan),
            (Mode::Ieee8023ad, Policy::Layer23, Stacking::OneFlow),
        ] {
            assert_eq!(of(mode, policy, stacking), None, "{mode:?} {policy:?} {stacking:?}");
        }
    }
}
