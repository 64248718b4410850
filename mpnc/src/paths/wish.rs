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
use crate::bond::{Axis, FlowBase, Mode, Outlook, Sway, is_even};
use crate::wire::BondFacts;
use std::net::{IpAddr, SocketAddr};

/// See the module documentation.
pub(super) struct Wish {
    /// The way out, as our own host knows it.
    pub(super) own: Way,
    target: SocketAddr,
    /// Whether this side sends, receives.
    pub(super) sends: bool,
    pub(super) receives: bool,
    /// A person has said how many streams there are to be.
    stated: bool,
    /// The plan does not hold, whatever the way is.
    doubted: bool,
    /// The peer's bond, as it told last.
    told: Option<(BondFacts, IpAddr)>,
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
        Self { own, target, sends, receives, stated, doubted: false, told: None, peer: None }
    }

    /// Takes in what the peer says of its bond, and of this host's address.
    pub(super) fn hear(&mut self, facts: BondFacts, src: IpAddr) {
        self.told = Some((facts, src));
        self.peer = Peer::new(facts, FlowBase { src, dst: self.target.ip(), dport: self.target.port() });
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
        if useless || theirs <= self.own.streams.into() { 0 } else { streams_for(ours, theirs) }
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
        if self.is_measured() {
            (wanted.outlook, wanted.streams) = (Outlook::Unknown, self.measured_streams());
            return wanted;
        }
        let Some(peer) = self.peer.as_ref().filter(|_| self.receives) else { return wanted };
        if !self.stated {
            let ours =
                if self.sends { own.streams } else { streams_for(peer.streams.into(), own.outlook.weights().len()) };
            wanted.streams = ours.max(peer.streams).min(MAX_STREAMS);
        }
        match &peer.axis {
            Some(axis) if !self.sends => {
                wanted.outlook = Outlook::Asked { weights: peer.weights.clone(), class_of: axis.class_of.clone() };
                wanted.slaves = (0..axis.classes).map(|slave| format!("slave {slave} of the peer")).collect();
                wanted.second = self.arriving(peer);
            }
            axis => wanted.second.clone_from(axis),
        }
        wanted
    }

    /// Over which of our slaves the switch sends what comes back. That cannot be read; a switch that hashes as our own
    /// bond does is the best guess, and costs nothing.
    fn arriving(&self, peer: &Peer) -> Option<Axis> {
        match &self.own.outlook {
            Outlook::Hashed(hashing) => Some(hashing.way_back(peer.base)),
            Outlook::Asked { .. } | Outlook::Unknown => None,
        }
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
