//! Hosts with bonds, and the switch between them: by which link a packet really leaves and arrives, and what a host
//! reads of its own bond. Uses the library of hashes, not the planner. Must not know of sessions.

use super::super::{ByAddress, Gauge, Sees, Way};
use crate::bond::{ByteOrder, Era, Hashing, KernelHash, Mode, Outlook, Policy, Stacking, Sway};
use crate::transfer::sim::link::mix;
use crate::wire::{BondFacts, SlaveCount, Slaves};
use mpnc_ebpf::flow::Flow;
use mpnc_ebpf::hash::{self, Ether};
use std::net::IpAddr;

/// One link between a host and the switch.
#[derive(Debug)]
pub(super) struct Link {
    /// Whether it carries anything.
    pub(super) up: bool,
    /// Whether both ends believe so.
    pub(super) used: bool,
    /// Bytes a millisecond.
    pub(super) rate: u64,
}

/// What a person could set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    pub(super) policy: Policy,
    pub(super) dynamic_lb: bool,
    pub(super) era: Era,
    pub(super) order: ByteOrder,
}

impl Settings {
    pub(super) fn sway(self) -> Sway {
        Sway::of_settings(self.mode, self.policy, self.dynamic_lb, Stacking::Plain)
    }
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) addr: IpAddr,
    pub(super) mac: [u8; 6],
    pub(super) bond: Settings,
    pub(super) links: Vec<Link>,
}

impl Host {
    /// The links that are used, in order; where one alone is active, that one.
    pub(super) fn usable(&self) -> Vec<usize> {
        let most = if self.bond.mode == Mode::ActiveBackup { 1 } else { usize::MAX };
        (0..self.links.len()).filter(|link| self.links[*link].used).take(most).collect()
    }

    /// The link by which a packet leaves. `lot` is what the connection has drawn.
    pub(super) fn sends_by(&self, flow: &Flow, lot: u32, peer_mac: [u8; 6]) -> Option<usize> {
        let usable = self.usable();
        let n = u32::try_from(usable.len()).ok().filter(|n| *n > 0)?;
        let Settings { policy, era, order, .. } = self.bond;
        let hash = match self.bond.sway() {
            Sway::Drawn | Sway::Loaded | Sway::PerPacket => lot,
            Sway::Everywhere => 0,
            Sway::Nothing if matches!(self.bond.mode, Mode::ActiveBackup | Mode::Alb) => flow.dst[0] >> 3,
            Sway::Exact | Sway::Nothing => {
                hash::hash(policy, era, order, flow, &Ether { src: self.mac, dst: peer_mac, vlan: None })
            }
        };
        usable.get(usize::try_from(hash % n).ok()?).copied()
    }

    /// What it tells a peer: nothing while it has no link.
    pub(super) fn facts(&self) -> Option<BondFacts> {
        let Settings { mode, policy, era, order, .. } = self.bond;
        Some(BondFacts {
            slaves: Slaves::alike(SlaveCount::new(self.usable().len())?),
            mode: Some(mode),
            policy: Some(policy),
            stacking: Some(Stacking::Plain),
            dynamic_lb: true,
            kernel: Some(KernelHash::certain(era)),
            order,
            placed: false,
        })
    }
}

/// What a connector knows of its own bond, or has been told.
#[derive(Debug, Clone)]
pub(super) struct Knowledge {
    /// A person's word on the policy.
    pub(super) stated: Option<Policy>,
    /// The formula that its kernel is taken to have.
    pub(super) kernel: KernelHash,
    pub(super) sees: Option<Sees>,
    /// A person's word on the number of streams.
    pub(super) streams: Option<u16>,
}

impl Knowledge {
    /// Whether what is computed may be a guess; `None` where streams keep to no slave.
    fn is_doubted(&self, bond: Settings) -> Option<bool> {
        let stated = Settings { policy: self.stated.unwrap_or(bond.policy), ..bond }.sway();
        match (bond.sway(), stated) {
            (Sway::PerPacket | Sway::Everywhere | Sway::Loaded, _) => None,
            _ if bond.mode == Mode::ActiveBackup || bond.mode == Mode::Alb && bond.dynamic_lb => None,
            (Sway::Nothing, Sway::Nothing) => None,
            (Sway::Drawn, _) | (_, Sway::Drawn) => Some(true),
            _ => Some(self.stated.is_some_and(|policy| policy != bond.policy)),
        }
    }

    /// The way out of this host, as it is read.
    pub(super) fn way(&self, host: &Host) -> Way {
        let bond = host.bond;
        let usable = host.usable();
        let names: Vec<String> = usable.iter().map(|link| format!("e{link}")).collect();
        let count = u16::try_from(usable.len()).unwrap();
        let sway = Settings { policy: self.stated.unwrap_or(bond.policy), ..bond }.sway();
        let hashed = sway == Sway::Exact && count > 1;
        let weights = speeds(host, &usable);
        let gauge = |sees| {
            let doubted = self.is_doubted(bond)?;
            let streams = self.streams.unwrap_or(count);
            (count > 1).then(|| Gauge { slaves: names.clone(), weights: weights.clone(), streams, doubted, sees })
        };
        Way {
            source: Some(host.addr),
            outlook: if hashed {
                Outlook::Hashed(Hashing { kernel: self.kernel, order: ByteOrder::Little, weights: weights.clone() })
            } else {
                Outlook::Unknown
            },
            gauge: self.sees.and_then(gauge),
            slaves: if hashed { names } else { Vec::new() },
            streams: self.streams.unwrap_or_else(|| if count > 1 { sway.streams(count.into()) } else { 1 }),
            bond: host.facts(),
            by_address: ByAddress::default(),
            placed: false,
        }
    }
}

/// Relative capacities, as read.
pub(super) fn speeds(host: &Host, usable: &[usize]) -> Vec<u32> {
    usable.iter().map(|link| u32::try_from(host.links[*link].rate).unwrap()).collect()
}

/// How the switch chooses among the links towards a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spreads {
    /// By the ports, in a way of its own.
    Ports(u64),
    /// By addresses: everything on one.
    Addresses(u64),
    /// As Linux would.
    Linux,
}

impl Spreads {
    /// The link by which a packet arrives at `host`.
    pub(super) fn to(self, host: &Host, flow: &Flow) -> Option<usize> {
        let mut usable = host.usable();
        if matches!(host.bond.mode, Mode::Tlb | Mode::Alb) {
            usable.truncate(1);
        }
        let n = u64::try_from(usable.len()).ok().filter(|n| *n > 0)?;
        let hash = match self {
            Self::Ports(seed) => mix(seed ^ u64::from(flow.ports)) >> 20,
            Self::Addresses(seed) => seed >> 20,
            Self::Linux => hash::layer34(Era::V5_18, ByteOrder::Little, flow).into(),
        };
        usable.get(usize::try_from(hash % n).ok()?).copied()
    }
}
