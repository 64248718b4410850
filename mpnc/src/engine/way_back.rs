//! The way back: where the listener sends, its bond spreads the same streams by its own count of slaves and the swapped addresses, and the
//! ports that the connector chose decide there too. The listener's greeting says what its bond is; this makes one plan for both ways.
//!
//! With data both ways: even over our slaves first, and over the peer's as a second axis. Where only the listener sends, its slaves are
//! what the streams must be even over; our own, where they arrive, are the second axis.

use super::Connect;
use super::arrivals::streams_for;
use super::connect::{Connector, Lane};
use super::conns::Conns;
use super::options::MAX_STREAMS;
use super::replan::Way;
use crate::bond::{Axis, FlowBase, Outlook, Planned, Sway, is_even};
use crate::error::Error;
use crate::wire::{BondFacts, Directions};
use std::net::IpAddr;

/// What the listener has said: its bond, and the address that it knows us by.
pub(super) type Told = (BondFacts, IpAddr);

/// What there is to plan by.
pub(super) struct WayBack {
    /// The way out, as our own host knows it.
    pub(super) own: Way,
    /// A person has said how many streams there are to be.
    stated: bool,
    told: Option<Told>,
    peer: Option<Peer>,
}

/// The peer's bond, as the planner sees it.
struct Peer {
    /// Streams that it takes to use all of it.
    streams: u16,
    /// Where the source port chooses its slave: which.
    axis: Option<Axis>,
    /// Relative capacity of its slaves.
    weights: Vec<u32>,
    /// The streams' addresses, as it sees them.
    base: FlowBase,
}

impl Peer {
    /// `None` where its bond has nothing to choose among.
    fn new(facts: BondFacts, base: FlowBase) -> Option<Self> {
        let (sway, slaves) = (facts.sway()?, facts.slaves.count());
        if u16::from(slaves) < 2 || matches!(sway, Sway::Nothing | Sway::Everywhere) {
            return None;
        }
        let axis = facts.hashing().map(|hashing| hashing.way_back(base));
        Some(Self {
            streams: sway.streams(slaves.into()).min(MAX_STREAMS),
            axis,
            base,
            weights: facts.slaves.weights(),
        })
    }
}

impl WayBack {
    /// Before the listener has said anything: our own way, as planned.
    pub(super) fn of(how: &Connect) -> Self {
        let streams = u16::try_from(how.plan.len()).unwrap_or(u16::MAX);
        let (outlook, slaves, gauge) = (how.planner.outlook().clone(), how.slaves.clone(), how.gauge.clone());
        Self::new(Way { source: how.source, outlook, slaves, streams, gauge }, !how.may_grow)
    }

    fn new(own: Way, stated: bool) -> Self {
        Self { own, stated, told: None, peer: None }
    }

    /// What to plan by: the way as a whole, and what to be even over beside it.
    pub(super) fn both(&self, directions: Directions) -> (Way, Option<Axis>) {
        let mut way = self.own.clone();
        let Some(peer) = self.peer.as_ref().filter(|_| directions.listener_sends()) else { return (way, None) };
        if !self.stated {
            let ours = if directions.connector_sends() {
                way.streams
            } else {
                streams_for(peer.streams.into(), way.outlook.weights().len())
            };
            way.streams = ours.max(peer.streams).min(MAX_STREAMS);
        }
        match &peer.axis {
            Some(axis) if !directions.connector_sends() => {
                way.outlook = Outlook::Asked { weights: peer.weights.clone(), class_of: axis.class_of.clone() };
                way.slaves = (0..axis.classes).map(|slave| format!("slave {slave} of the peer")).collect();
                (way, self.arriving(peer))
            }
            axis => (way, axis.clone()),
        }
    }

    /// Over which of our slaves the switch sends what comes back. That cannot be read; a switch that hashes as our own bond does is the
    /// best guess, and costs nothing.
    fn arriving(&self, peer: &Peer) -> Option<Axis> {
        match &self.own.outlook {
            Outlook::Hashed(hashing) => Some(hashing.way_back(peer.base)),
            Outlook::Asked { .. } | Outlook::Unknown => None,
        }
    }

    /// Whether streams from these ports already are what [`both`](Self::both) asks for.
    fn is_served(&self, directions: Directions, ports: &[Option<u16>]) -> bool {
        let classes = self.peer.as_ref().and_then(|peer| peer.axis.as_ref());
        ports.len() == usize::from(self.both(directions).0.streams) && classes.is_none_or(|axis| are_even(axis, ports))
    }
}

/// Whether the counts of ports that lead to each class differ by one at most.
fn are_even(axis: &Axis, ports: &[Option<u16>]) -> bool {
    let mut counts = vec![0; usize::from(axis.classes)];
    for port in ports {
        match port.and_then(|port| axis.class_of.of(port)) {
            Some(class) => counts[usize::from(class)] += 1,
            None => return false,
        }
    }
    is_even(&counts)
}

impl Connector {
    /// Takes in what the listener says of its bond in the course of a session.
    pub(super) fn hear_bond(&mut self, conns: &mut Conns) -> Result<(), Error> {
        let told = self.hub().and_then(|hub| hub.peer_bond());
        let Some(bond) = told.filter(|bond| !self.is_done() && Some(*bond) != self.peer_bond) else { return Ok(()) };
        log::info!("the peer's bond has {} usable slaves now", bond.slaves.count());
        self.peer_bond = Some(bond);
        if self.options().directions.listener_sends() {
            return match self.way_back.told {
                Some((_, seen)) => self.learn_way_back((bond, seen), conns),
                None => Ok(()),
            };
        }
        self.arrivals_change();
        self.match_receiver(bond, conns)
    }

    /// Takes in what the listener says of the way back: its bond, and this host's address as it sees it.
    pub(super) fn learn_way_back(&mut self, told: Told, conns: &mut Conns) -> Result<(), Error> {
        let directions = self.options().directions;
        if self.is_done() || Some(told) == self.way_back.told {
            return Ok(());
        }
        self.way_back.told = Some(told);
        let (facts, src) = told;
        self.way_back.peer = Peer::new(facts, FlowBase { src, dst: self.target.ip(), dport: self.target.port() });
        let ports: Vec<Option<u16>> = self.lanes.iter().map(|lane| lane.planned.port).collect();
        let (way, second) = self.way_back.both(directions);
        // Where our own slave is found by measuring, ports do not choose it, and the streams are that search's to open.
        let measured = self.gauge.as_ref().is_some_and(|gauge| gauge.doubted) || self.measuring.is_some();
        if self.sends() && (measured || self.way_back.is_served(directions, &ports)) {
            self.planner.set_second(second);
            return Ok(());
        }
        log::info!("the way back: the peer has {} slaves, so {} streams", facts.slaves.count(), way.streams);
        self.replan(conns)
    }

    /// Whether a lane's stream, or the connection that will be one, is where a new plan wants one.
    pub(super) fn lies_right(&self, lane: &Lane, planned: &Planned) -> bool {
        let cell = |port: u16| (self.planner.slave_of(port), self.planner.second_of(port));
        let alive = lane.stream.is_some() || lane.attempt.is_some();
        alive && lane.planned.port.zip(planned.port).is_some_and(|(is, wanted)| cell(is) == cell(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bond::{ByteOrder, Era, Hashing, KernelHash, Mode, Planner, Policy, PortPool, Stacking};
    use crate::wire::Slaves;

    const BASE: FlowBase = FlowBase {
        src: IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 1)),
        dst: IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2)),
        dport: 31337,
    };

    fn facts(slaves: usize, mode: Mode, policy: Policy) -> BondFacts {
        BondFacts {
            slaves: Slaves::of_speeds(&vec![1000; slaves]).unwrap(),
            mode: Some(mode),
            policy: Some(policy),
            stacking: Some(Stacking::Plain),
            dynamic_lb: true,
            kernel: Some(KernelHash::certain(Era::V5_18)),
            order: ByteOrder::Little,
        }
    }

    fn lacp(slaves: usize) -> BondFacts {
        facts(slaves, Mode::Ieee8023ad, Policy::Layer34)
    }

    /// Our own bond of so many slaves (0: none), towards a peer.
    fn way_back(slaves: u16, peer: BondFacts, stated: Option<u16>) -> WayBack {
        let hashing = Hashing::alike(slaves, KernelHash::certain(Era::V5_18));
        let outlook = if slaves == 0 { Outlook::Unknown } else { Outlook::Hashed(hashing) };
        let own = Way {
            source: None,
            outlook,
            slaves: Vec::new(),
            streams: stated.unwrap_or_else(|| slaves.max(1)),
            gauge: None,
        };
        WayBack { peer: Peer::new(peer, BASE), ..WayBack::new(own, stated.is_some()) }
    }

    /// The ports of the streams, as planned.
    fn ports(way_back: &WayBack, directions: Directions) -> Vec<Option<u16>> {
        let (way, second) = way_back.both(directions);
        let mut planner = Planner::new(BASE, way.outlook, PortPool::stated(20_000, 30_000).unwrap(), 7);
        planner.set_second(second);
        planner.plan(way.streams).unwrap().iter().map(|planned| planned.port).collect()
    }

    /// Streams for each of our slaves and for each of the peer's, as planned.
    fn counts(way_back: &WayBack, directions: Directions) -> (Vec<u16>, Vec<u16>) {
        let ports: Vec<u16> = ports(way_back, directions).into_iter().flatten().collect();
        let axis = way_back.peer.as_ref().unwrap().axis.clone().unwrap();
        let count = |classes: usize, class_of: &dyn Fn(u16) -> Option<u16>| {
            let mut counts = vec![0; classes];
            ports.iter().filter_map(|port| class_of(*port)).for_each(|class| counts[usize::from(class)] += 1);
            counts
        };
        let own = &way_back.own.outlook;
        let ours = count(own.weights().len(), &|port| own.class_of(&BASE, port));
        (ours, count(axis.classes.into(), &|port| axis.class_of.of(port)))
    }

    #[test]
    fn both_ways_are_even_at_once_where_they_differ() {
        for (ours, theirs) in [(3, 3), (5, 5), (6, 7), (4, 4), (2, 4)] {
            let streams = ours.max(theirs);
            let (out, back) = counts(&way_back(ours, lacp(theirs.into()), None), Directions::Both);
            for (counts, slaves) in [(&out, ours), (&back, theirs)] {
                let fair = (streams / slaves)..=streams.div_ceil(slaves);
                assert!(counts.iter().all(|n| fair.contains(n)), "{ours} and {theirs}: {out:?} {back:?}");
            }
        }
    }

    #[test]
    fn where_the_listener_sends_its_slaves_are_even_and_each_of_ours_has_a_stream() {
        for ours in [0, 2, 3, 4] {
            let (_, back) = counts(&way_back(ours, lacp(4), None), Directions::Receive);
            assert_eq!(back, [1; 4], "{ours} slaves here");
        }
        let (_, back) = counts(&way_back(8, lacp(3), None), Directions::Receive);
        assert_eq!(back, [3; 3], "nine streams: theirs are even, and none of ours is without");
    }

    #[test]
    fn what_the_listener_sends_arrives_evenly_if_the_switch_hashes_as_we_do() {
        for (ours, theirs) in [(4, 3), (4, 4), (3, 3), (5, 2), (8, 6)] {
            let back = way_back(ours, lacp(theirs), None);
            let axis = back.both(Directions::Receive).1.unwrap();
            let ports = ports(&back, Directions::Receive);
            assert!(ports.len() >= usize::from(ours).max(theirs), "a stream for each link");
            assert!(are_even(&axis, &ports), "{} streams from {theirs} slaves over {ours}", ports.len());
        }
    }

    #[test]
    fn what_a_person_states_stays() {
        let (way, _) = way_back(2, lacp(4), Some(2)).both(Directions::Both);
        assert_eq!(way.streams, 2);
        let (way, second) = way_back(2, lacp(4), None).both(Directions::Send);
        assert_eq!((way.streams, second.is_none()), (2, true));
    }

    #[test]
    fn a_peer_whose_bond_ports_cannot_choose_changes_at_most_the_number() {
        for (mode, policy, streams) in [
            (Mode::ActiveBackup, Policy::Layer34, 2),
            (Mode::Ieee8023ad, Policy::Layer2, 2),
            (Mode::Ieee8023ad, Policy::Encap34, 12),
            (Mode::Tlb, Policy::Layer34, 12),
            (Mode::RoundRobin, Policy::Layer34, 3),
        ] {
            let (way, second) = way_back(2, facts(3, mode, policy), None).both(Directions::Both);
            assert_eq!((way.streams, second.is_none()), (streams, true), "{mode:?} {policy:?}");
        }
    }

    #[test]
    fn what_is_unknown_here_is_not_planned_for() {
        let (mode, policy) = (BondFacts { mode: None, ..lacp(3) }, BondFacts { policy: None, ..lacp(3) });
        assert!(Peer::new(mode, BASE).is_none() && Peer::new(policy, BASE).is_none());
        assert!(Peer::new(BondFacts { kernel: None, ..lacp(3) }, BASE).is_some_and(|peer| peer.axis.is_none()));
        assert!(Peer::new(lacp(1), BASE).is_none());
        assert_eq!(Peer::new(lacp(255), BASE).unwrap().streams, MAX_STREAMS);
    }

    #[test]
    fn what_lies_above_the_peers_bond_and_how_it_balances_counts() {
        let tunnel = BondFacts { stacking: Some(Stacking::UdpTunnel), ..lacp(3) };
        assert!(Peer::new(tunnel, BASE).is_some_and(|peer| peer.axis.is_none() && peer.streams == 12));
        assert!(Peer::new(BondFacts { stacking: Some(Stacking::OneFlow), ..lacp(3) }, BASE).is_none());
        let by_hash = BondFacts { dynamic_lb: false, ..facts(3, Mode::Tlb, Policy::Layer34) };
        assert!(Peer::new(by_hash, BASE).is_some_and(|peer| peer.axis.is_some() && peer.streams == 3));
    }

    #[test]
    fn faster_slaves_of_the_peer_get_more_of_the_streams() {
        let unlike = BondFacts { slaves: Slaves::of_speeds(&[10_000, 20_000, 10_000]).unwrap(), ..lacp(3) };
        let (_, back) = counts(&way_back(4, unlike, Some(4)), Directions::Receive);
        assert_eq!(back, [1, 2, 1]);
    }

    #[test]
    fn streams_that_are_even_already_are_left_alone() {
        let back = way_back(4, lacp(4), None);
        let mut planner = Planner::new(BASE, back.own.outlook.clone(), PortPool::stated(20_000, 30_000).unwrap(), 7);
        let ports: Vec<Option<u16>> = planner.plan(4).unwrap().iter().map(|planned| planned.port).collect();
        assert!(back.is_served(Directions::Both, &ports));
        assert!(!back.is_served(Directions::Both, &ports[..3]));
        assert!(!back.is_served(Directions::Both, &[ports[0]; 4]));
        assert!(!back.is_served(Directions::Both, &[None; 4]));
    }
}
