//! What is wanted: how many streams, over what they are to be even, by what is known of this host's bond and of the
//! peer's.
//!
//! The way back: where the listener sends, its bond spreads the same streams by its own count of slaves and the swapped
//! addresses, and the ports that the connector chose decide there too. The listener's greeting says what its bond is;
//! this makes one plan for both ways. With data both ways: even over our slaves first, and over the peer's as a second
//! axis. Where only the listener sends, its slaves are what the streams must be even over; our own, where they arrive,
//! are the second axis.
//!
//! Must not know which streams there are.

use super::{Gauge, MAX_STREAMS, Way};
use crate::bond::{
    Addressing, Axis, Era, FlowBase, Hashing, KernelHash, Mode, Outlook, Spread, Sway, is_even, placing,
};
use crate::wire::BondFacts;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// See the module documentation.
pub(super) struct Wish {
    /// The way out, as our own host knows it.
    pub(super) own: Way,
    /// Most streams that it has been worth so far.
    most: u16,
    target: SocketAddr,
    /// Whether this side sends, receives.
    pub(super) sends: bool,
    pub(super) receives: bool,
    /// A person has said how many streams there are to be.
    stated: bool,
    /// The plan does not hold, whatever the way is.
    doubted: bool,
    /// This host's address, where the peer sees another than its own.
    translated: Option<IpAddr>,
    /// Pairs of addresses to choose from, where there are several.
    addressing: Option<Arc<Addressing>>,
    /// The peer's bond, as it told last, and how it sees this host.
    told: Option<(BondFacts, IpAddr)>,
    /// It sees the ports as they are.
    untouched: bool,
    peer: Option<Peer>,
}

/// What a plan is to be.
pub(super) struct Wanted {
    pub(super) streams: u16,
    pub(super) outlook: Outlook,
    pub(super) second: Option<Axis>,
    /// Names of the outlook's classes, by index.
    pub(super) slaves: Vec<String>,
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
    /// It places what it sends.
    placed: bool,
}

impl Peer {
    /// `None` where its bond has nothing to choose among.
    fn new(facts: BondFacts, base: FlowBase, addressing: Option<&Arc<Addressing>>) -> Option<Self> {
        let (sway, slaves) = (facts.sway()?, facts.slaves.count());
        if let Some(spread) = addressing.zip(facts.address_hash()).and_then(|(by, hash)| by.spread(&hash)) {
            let axis = Axis { classes: slaves.into(), class_of: spread.class_of };
            return Some(Self {
                streams: spread.reached,
                axis: Some(axis),
                base,
                weights: spread.weights,
                placed: false,
            });
        }
        if u16::from(slaves) < 2 || matches!(sway, Sway::Nothing | Sway::Everywhere) {
            return None;
        }
        let axis = facts.hashing().map(|hashing| way_back(&hashing, base, addressing));
        Some(Self {
            streams: sway.streams(slaves.into()).min(MAX_STREAMS),
            axis,
            base,
            weights: facts.slaves.weights(),
            placed: facts.placed,
        })
    }
}

/// Where such a bond sends what comes back, between the addresses of `base` or those that a port stands for.
fn way_back(hashing: &Hashing, base: FlowBase, addressing: Option<&Arc<Addressing>>) -> Axis {
    match addressing.map(Arc::clone) {
        Some(by) => hashing.way_back_by(move |port| by.base(port)),
        None => hashing.way_back(base),
    }
}

/// Streams to open towards a receiver of so many links: as many, and the same number on each of the sender's.
fn streams_for(sender: usize, receiver: usize) -> u16 {
    let sender = sender.max(1);
    u16::try_from(receiver.div_ceil(sender) * sender).unwrap_or(u16::MAX).min(MAX_STREAMS)
}

/// The mode of a bond whose links are no group to the switch, so that it sends everything for its host over one of
/// them.
pub(super) fn ungrouped(bond: BondFacts) -> Option<Mode> {
    bond.mode.filter(|mode| matches!(mode, Mode::ActiveBackup | Mode::Tlb | Mode::Alb))
}

impl Wish {
    pub(super) fn new(own: Way, target: SocketAddr, (sends, receives): (bool, bool), stated: bool) -> Self {
        let (translated, addressing, told, peer) = (None, None, None, None);
        let (doubted, untouched, most) = (false, true, own.streams);
        Self { own, most, target, sends, receives, stated, doubted, translated, addressing, told, untouched, peer }
    }

    /// Takes in what the peer says of its bond, and of this host's address. `untouched`: it sees the ports as they are;
    /// those that are translated on the way are not what its bond hashes.
    pub(super) fn hear(&mut self, facts: BondFacts, src: IpAddr, untouched: bool) {
        self.told = Some((facts, src));
        self.untouched = untouched;
        let base = FlowBase::new(src, self.target);
        self.peer = Peer::new(facts, base, self.addressing.as_ref()).filter(|_| untouched);
    }

    /// The way out is that now, with these addresses to choose from.
    pub(super) fn set_way(&mut self, own: Way, addressing: Option<Arc<Addressing>>) {
        self.most = self.most.max(own.streams);
        (self.own, self.addressing) = (own, addressing);
        if let Some((facts, src)) = self.told {
            self.hear(facts, src, self.untouched);
        }
    }

    /// How addresses spread what leaves over our slaves, if they do.
    fn spread(&self) -> Option<Spread> {
        self.addressing.as_ref()?.spread(self.own.by_address.hash.as_ref()?)
    }

    /// Whether the peer has said just that before.
    pub(super) fn has_heard(&self, word: (BondFacts, IpAddr)) -> bool {
        self.told == Some(word)
    }

    /// The peer's bond, as it told last.
    pub(super) fn peer_bond(&self) -> Option<BondFacts> {
        self.told.map(|(bond, _)| bond)
    }

    pub(super) fn target(&self) -> SocketAddr {
        self.target
    }

    /// What is computed does not hold.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// The peer sees this host by another address than its own. If it is this host that translates it, the bond hashes
    /// that one, and if another does, this host's own: ports are to be even for both. Answers whether these are not.
    /// Only the first word on it counts.
    pub(super) fn translate(&mut self, seen: IpAddr, ports: &[Option<u16>]) -> bool {
        let is_news = self.translated.is_none();
        let seen = *self.translated.get_or_insert(seen);
        is_news && self.as_if_from(seen).is_some_and(|axis| !are_even(&axis, ports))
    }

    /// Our slaves, as the ports would choose them from another address of this host. `None` where that is no other
    /// plan: over a power of two of equal slaves it only permutes them. A formula in doubt matters more.
    fn as_if_from(&self, src: IpAddr) -> Option<Axis> {
        let Outlook::Hashed(hashing) = &self.own.outlook else { return None };
        let base = FlowBase::new(src, self.target);
        let is_other = self.sends && !hashing.is_plain_power() && hashing.kernel.or.is_none();
        (is_other && src.is_ipv4() == base.dst.to_canonical().is_ipv4()).then(|| hashing.way_out(base))
    }

    /// The gauge, if this side sends and so has something to see.
    pub(super) fn gauge(&self) -> Option<&Gauge> {
        self.own.gauge.as_ref().filter(|_| self.sends)
    }

    /// Whether by which slave a stream leaves is to be measured, not computed.
    pub(super) fn is_measured(&self) -> bool {
        self.gauge().is_some_and(|gauge| gauge.doubted || self.doubted)
    }

    /// Streams wanted of a search that measures.
    pub(super) fn measured_streams(&self) -> u16 {
        let asked = self.gauge().map_or(0, |gauge| gauge.streams);
        asked.max(self.towards_receiver())
    }

    /// Streams that the receiver's links ask for: one fast card here may face several slow ones there.
    fn towards_receiver(&self) -> u16 {
        let Some(bond) = self.peer_bond().filter(|_| self.sends && !self.receives && !self.stated) else { return 0 };
        // To every link of a broadcasting bond goes everything anyway.
        let useless = bond.mode == Some(Mode::Broadcast) || ungrouped(bond).is_some();
        let (ours, theirs) = (self.own.slaves.len(), usize::from(bond.slaves.count()));
        // Placed streams stay when the slave of another goes. One that joined them on theirs would get little of it,
        // and hold up the order of all (0.85 to 0.88 of the links that were left: place-carrier, 6.12 and 7.3).
        let enough = if self.own.placed { self.most } else { self.own.streams };
        if useless || theirs <= enough.into() { 0 } else { streams_for(ours, theirs) }
    }

    /// The bond that the streams arrive on, as far as it is known.
    pub(super) fn receiving_bond(&self) -> Option<BondFacts> {
        if self.sends { self.peer_bond() } else { self.own.bond }
    }

    /// What to plan by.
    pub(super) fn plan(&self) -> Wanted {
        let own = &self.own;
        let streams = own.streams.max(self.towards_receiver());
        let mut wanted = Wanted { streams, outlook: own.outlook.clone(), second: None, slaves: own.slaves.clone() };
        if let (Some(by), Outlook::Hashed(hashing)) = (&self.addressing, &own.outlook) {
            // Ports decide here, but between which addresses a stream goes they say as well.
            wanted.outlook =
                Outlook::Asked { weights: hashing.weights.clone(), class_of: by.by_ports(hashing).class_of };
        }
        if let Some(Spread { weights, class_of, reached }) = self.spread() {
            wanted.outlook = Outlook::Asked { weights, class_of };
            // Of our links only these carry anything: so many of the receiver's are enough.
            wanted.streams = if self.stated { own.streams } else { own.streams.max(reached) };
            wanted.second = self.arriving_there();
        }
        if own.placed {
            let theirs = self.peer_bond().map(|bond| u16::from(bond.slaves.count())).filter(|slaves| *slaves > 1);
            wanted.second = theirs.zip(self.own_pair()).map(|(slaves, base)| placing::arriving(slaves, base));
        }
        if self.is_measured() {
            // Which of them are kept is the survey's to say.
            wanted.outlook = Outlook::Unknown;
            wanted.streams = wanted.streams.max(self.measured_streams());
        } else {
            wanted.second = wanted.second.or_else(|| self.as_if_from(self.translated?));
        }
        let Some(peer) = self.peer.as_ref().filter(|_| self.receives) else { return wanted };
        if !self.stated && !self.is_measured() {
            let ours = if self.sends { wanted.streams } else { streams_for(peer.streams.into(), self.to_fill_ours()) };
            wanted.streams = ours.max(peer.streams).min(MAX_STREAMS);
        }
        match &peer.axis {
            Some(axis) if !self.sends => {
                wanted.outlook = Outlook::Asked { weights: peer.weights.clone(), class_of: axis.class_of.clone() };
                wanted.slaves = (0..axis.classes).map(|slave| format!("slave {slave} of the peer")).collect();
                wanted.second = self.arriving(peer);
            }
            Some(axis) => wanted.second = Some(axis.clone()),
            // By which of its slaves a stream comes is its affair; where it arrives, the ports'.
            None if !self.sends && peer.placed => wanted.second = self.arriving_by_ports(peer),
            None => {}
        }
        wanted
    }

    /// Streams that it takes to fill our slaves, where streams arrive there one by one.
    fn to_fill_ours(&self) -> usize {
        match &self.own.outlook {
            Outlook::Hashed(hashing) if !self.stated => hashing.weights.len().max(self.own.streams.into()),
            other => other.weights().len(),
        }
    }

    /// The session's own pair of addresses.
    fn own_pair(&self) -> Option<FlowBase> {
        self.own.source.map(|source| FlowBase::new(source, self.target))
    }

    /// Over which of the peer's slaves it sends what goes between several pairs of addresses. (What ports alone spread
    /// here, such a switch spreads there as well.)
    fn arriving_there(&self) -> Option<Axis> {
        let slaves = self.peer_bond().map(|bond| u16::from(bond.slaves.count())).filter(|slaves| *slaves > 1)?;
        Some(self.addressing.as_ref()?.arriving(slaves))
    }

    /// Over which of our slaves the switch sends what comes back. That cannot be read; a switch that hashes as our own
    /// bond does is the best guess, and costs nothing.
    fn arriving(&self, peer: &Peer) -> Option<Axis> {
        match &self.own.outlook {
            Outlook::Hashed(hashing) => Some(way_back(hashing, peer.base, self.addressing.as_ref())),
            Outlook::Asked { .. } | Outlook::Unknown => None,
        }
    }

    /// The same, where our own bond does not go by ports: a switch that does is the best guess then.
    fn arriving_by_ports(&self, peer: &Peer) -> Option<Axis> {
        let slaves = self.own.bond.map(|bond| u16::from(bond.slaves.count())).filter(|slaves| *slaves > 1)?;
        Some(Hashing::alike(slaves, KernelHash::certain(Era::V5_18)).way_back(peer.base))
    }

    /// Whether streams from these ports already are what [`plan`](Self::plan) asks for: then the peer's word changes
    /// nothing.
    pub(super) fn is_served(&self, ports: &[Option<u16>]) -> bool {
        let axis = self.peer.as_ref().filter(|_| self.receives).and_then(|peer| peer.axis.as_ref());
        let counts = ports.len() == usize::from(self.plan().streams);
        counts && axis.is_none_or(|axis| are_even(axis, ports)) && (self.sends || axis.is_none())
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

#[cfg(test)]
mod tests {
    use super::super::ByAddress;
    use super::*;
    use crate::bond::{ByteOrder, Mode, Planner, Policy, PortPool, Stacking};
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
            placed: false,
        }
    }

    fn lacp(slaves: usize) -> BondFacts {
        facts(slaves, Mode::Ieee8023ad, Policy::Layer34)
    }

    /// Who sends: this side alone, the listener alone, both.
    const SEND: (bool, bool) = (true, false);
    const RECEIVE: (bool, bool) = (false, true);
    const BOTH: (bool, bool) = (true, true);

    /// Our own bond of so many slaves (0: none), towards a peer.
    fn wish(slaves: u16, peer: BondFacts, stated: Option<u16>, directions: (bool, bool)) -> Wish {
        let hashing = Hashing::alike(slaves, KernelHash::certain(Era::V5_18));
        let outlook = if slaves == 0 { Outlook::Unknown } else { Outlook::Hashed(hashing) };
        let own = Way {
            source: None,
            outlook,
            slaves: Vec::new(),
            streams: stated.unwrap_or_else(|| slaves.max(1)),
            gauge: None,
            bond: None,
            by_address: ByAddress::default(),
            placed: false,
        };
        let mut wish = Wish::new(own, SocketAddr::new(BASE.dst, BASE.dport), directions, stated.is_some());
        wish.hear(peer, BASE.src, true);
        wish
    }

    /// The ports of the streams, as planned.
    fn ports(wish: &Wish) -> Vec<Option<u16>> {
        let Wanted { streams, outlook, second, .. } = wish.plan();
        let mut planner = Planner::new(BASE, outlook, PortPool::stated(20_000, 30_000).unwrap(), 7);
        planner.set_second(second);
        planner.plan(streams, &[]).unwrap().iter().map(|planned| planned.port).collect()
    }

    /// Streams for each of our slaves and for each of the peer's, as planned.
    fn counts(wish: &Wish) -> (Vec<u16>, Vec<u16>) {
        let ports: Vec<u16> = ports(wish).into_iter().flatten().collect();
        let axis = wish.peer.as_ref().unwrap().axis.clone().unwrap();
        let count = |classes: usize, class_of: &dyn Fn(u16) -> Option<u16>| {
            let mut counts = vec![0; classes];
            ports.iter().filter_map(|port| class_of(*port)).for_each(|class| counts[usize::from(class)] += 1);
            counts
        };
        let own = &wish.own.outlook;
        let ours = count(own.weights().len(), &|port| own.class_of(&BASE, port));
        (ours, count(axis.classes.into(), &|port| axis.class_of.of(port)))
    }

    #[test]
    fn both_ways_are_even_at_once_where_they_differ() {
        for (ours, theirs) in [(3, 3), (5, 5), (6, 7), (4, 4), (2, 4)] {
            let streams = ours.max(theirs);
            let (out, back) = counts(&wish(ours, lacp(theirs.into()), None, BOTH));
            for (counts, slaves) in [(&out, ours), (&back, theirs)] {
                let fair = (streams / slaves)..=streams.div_ceil(slaves);
                assert!(counts.iter().all(|n| fair.contains(n)), "{ours} and {theirs}: {out:?} {back:?}");
            }
        }
    }

    #[test]
    fn where_the_listener_sends_its_slaves_are_even_and_each_of_ours_has_a_stream() {
        for ours in [0, 2, 3, 4] {
            let (_, back) = counts(&wish(ours, lacp(4), None, RECEIVE));
            assert_eq!(back, [1; 4], "{ours} slaves here");
        }
        let (_, back) = counts(&wish(8, lacp(3), None, RECEIVE));
        assert_eq!(back, [3; 3], "nine streams: theirs are even, and none of ours is without");
    }

    #[test]
    fn what_the_listener_sends_arrives_evenly_if_the_switch_hashes_as_we_do() {
        for (ours, theirs) in [(4, 3), (4, 4), (3, 3), (5, 2), (8, 6)] {
            let back = wish(ours, lacp(theirs), None, RECEIVE);
            let axis = back.plan().second.unwrap();
            let ports = ports(&back);
            assert!(ports.len() >= usize::from(ours).max(theirs), "a stream for each link");
            assert!(are_even(&axis, &ports), "{} streams from {theirs} slaves over {ours}", ports.len());
        }
    }

    #[test]
    fn what_a_person_states_stays() {
        for directions in [SEND, RECEIVE, BOTH] {
            assert_eq!(wish(2, lacp(4), Some(2), directions).plan().streams, 2);
        }
    }

    #[test]
    fn a_receiver_with_more_links_gets_as_many_streams_and_each_of_ours_the_same() {
        for (ours, theirs, streams) in [(1, 4, 4), (2, 3, 4), (3, 8, 9), (4, 200, 64), (4, 2, 4), (0, 3, 3)] {
            let mut wish = wish(ours, lacp(theirs), None, SEND);
            wish.own.slaves = vec![String::new(); ours.into()];
            let wanted = wish.plan();
            assert_eq!((wanted.streams, wanted.second.is_none()), (streams, true), "{ours} and {theirs}");
        }
        for mode in [Mode::ActiveBackup, Mode::Broadcast] {
            assert_eq!(wish(1, facts(4, mode, Policy::Layer34), None, SEND).plan().streams, 1, "{mode:?}");
        }
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
            let wanted = wish(2, facts(3, mode, policy), None, BOTH).plan();
            assert_eq!((wanted.streams, wanted.second.is_none()), (streams, true), "{mode:?} {policy:?}");
        }
    }

    #[test]
    fn what_is_unknown_here_is_not_planned_for() {
        let (mode, policy) = (BondFacts { mode: None, ..lacp(3) }, BondFacts { policy: None, ..lacp(3) });
        assert!(Peer::new(mode, BASE, None).is_none() && Peer::new(policy, BASE, None).is_none());
        assert!(Peer::new(BondFacts { kernel: None, ..lacp(3) }, BASE, None).is_some_and(|peer| peer.axis.is_none()));
        assert!(Peer::new(lacp(1), BASE, None).is_none());
        assert_eq!(Peer::new(lacp(255), BASE, None).unwrap().streams, MAX_STREAMS);
    }

    #[test]
    fn what_lies_above_the_peers_bond_and_how_it_balances_counts() {
        let tunnel = BondFacts { stacking: Some(Stacking::UdpTunnel), ..lacp(3) };
        assert!(Peer::new(tunnel, BASE, None).is_some_and(|peer| peer.axis.is_none() && peer.streams == 12));
        assert!(Peer::new(BondFacts { stacking: Some(Stacking::OneFlow), ..lacp(3) }, BASE, None).is_none());
        let by_hash = BondFacts { dynamic_lb: false, ..facts(3, Mode::Tlb, Policy::Layer34) };
        assert!(Peer::new(by_hash, BASE, None).is_some_and(|peer| peer.axis.is_some() && peer.streams == 3));
    }

    #[test]
    fn fast_slaves_keep_their_streams_where_the_listener_sends() {
        let mut back = wish(2, lacp(3), None, RECEIVE);
        back.own.streams = 8;
        assert_eq!(back.plan().streams, 9, "as many as ours take, the same for each of theirs");
    }

    #[test]
    fn where_a_slave_has_gone_placed_streams_are_not_joined_by_others() {
        let mut placed = wish(4, lacp(4), None, SEND);
        placed.own.placed = true;
        let less = Way { outlook: Outlook::Unknown, slaves: vec![String::new(); 3], streams: 3, ..placed.own.clone() };
        placed.set_way(less.clone(), None);
        assert_eq!(placed.plan().streams, 3);
        let mut by_ports = wish(4, lacp(4), None, SEND);
        by_ports.set_way(Way { placed: false, ..less }, None);
        assert_eq!(by_ports.plan().streams, 6, "fresh ones, all of them");
    }

    #[test]
    fn what_a_peer_places_arrives_evenly_if_the_switch_goes_by_ports() {
        let theirs = BondFacts { placed: true, ..facts(4, Mode::Ieee8023ad, Policy::Layer2) };
        let mut back = wish(0, theirs, None, RECEIVE);
        back.own.bond = Some(facts(4, Mode::Ieee8023ad, Policy::Layer2));
        let wanted = back.plan();
        assert_eq!(wanted.streams, 4);
        assert!(are_even(&wanted.second.unwrap(), &ports(&back)));
        back.own.bond = None;
        assert!(back.plan().second.is_none());
    }

    #[test]
    fn faster_slaves_of_the_peer_get_more_of_the_streams() {
        let unlike = BondFacts { slaves: Slaves::of_speeds(&[10_000, 20_000, 10_000]).unwrap(), ..lacp(3) };
        let (_, back) = counts(&wish(4, unlike, Some(4), RECEIVE));
        assert_eq!(back, [1, 2, 1]);
    }

    #[test]
    fn streams_that_are_even_already_are_left_alone() {
        let back = wish(4, lacp(4), None, BOTH);
        let mut planner = Planner::new(BASE, back.own.outlook.clone(), PortPool::stated(20_000, 30_000).unwrap(), 7);
        let ports: Vec<Option<u16>> = planner.plan(4, &[]).unwrap().iter().map(|planned| planned.port).collect();
        assert!(back.is_served(&ports));
        assert!(!back.is_served(&ports[..3]));
        assert!(!back.is_served(&[ports[0]; 4]));
        assert!(!back.is_served(&[None; 4]));
    }
}
