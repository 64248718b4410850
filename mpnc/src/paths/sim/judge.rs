//! What must hold of a world at rest. Judged by where packets really go, not by what the path manager believes.

use super::host::speeds;
use super::net::Nat;
use super::script::Peer;
use super::world::World;
use crate::bond::quota::by_weight;
use crate::bond::{Mode, Sway, is_even};
use crate::paths::budget::A_MINUTE;
use crate::paths::search::Search;
use crate::paths::slots::Purpose;
use crate::paths::wish::ungrouped;
use crate::paths::{Access, Finding, MAX_STREAMS};
use crate::transfer::StreamId;
use std::time::Duration;

/// How a world came to rest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// Worlds that were judged, and those in which each kind of evenness could be had.
    pub(super) worlds: u64,
    pub(super) leaving: u64,
    pub(super) arriving: u64,
    pub(super) back: u64,
    /// Of these, those in which it was not had, and that was said.
    pub(super) leaving_excused: u64,
    pub(super) arriving_excused: u64,
    pub(super) measured: u64,
    pub(super) blind: u64,
    pub(super) steps: u64,
    pub(super) millis: u64,
    pub(super) opens: u64,
}

impl Found {
    fn all(&mut self) -> [&mut u64; 11] {
        [
            &mut self.worlds,
            &mut self.leaving,
            &mut self.arriving,
            &mut self.back,
            &mut self.leaving_excused,
            &mut self.arriving_excused,
            &mut self.measured,
            &mut self.blind,
            &mut self.steps,
            &mut self.millis,
            &mut self.opens,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, more) in self.all().into_iter().zip(other.all()) {
            *sum += *more;
        }
    }
}

impl World {
    /// Streams of the plan, for each usable link of host `end` in the direction towards side `to`.
    pub(super) fn counts(&self, end: usize, to: usize) -> Vec<u16> {
        let usable = self.net.hosts[end].usable();
        let mut counts = vec![0; usable.len()];
        for (_, _, live) in self.paths.slots().live() {
            let route = self.net.conns.get(&live.id).and_then(|conn| conn.pipes[to].route);
            let link = route.map(|(out, into)| if end == to { into } else { out });
            if let Some(index) = link.and_then(|link| usable.iter().position(|usable| *usable == link)) {
                counts[index] += 1;
            }
        }
        counts
    }

    fn has_said(&self, is: impl Fn(&Finding) -> bool) -> bool {
        self.books.said.iter().any(is)
    }

    /// See the module documentation.
    pub(super) fn judge(&self, found: &mut Found) {
        found.worlds += 1;
        found.opens += self.books.opens.len() as u64;
        self.nothing_is_paused();
        self.slots_and_streams_are_one_to_one();
        self.opens_are_bounded();
        match self.paths.search() {
            Search::Computed { .. } => self.lanes_are_exact(),
            Search::Surveyed(_) => found.measured += 1,
            Search::Blind => found.blind += 1,
            Search::Surveying(_) => panic!("a survey at rest"),
        }
        if self.ways.0 {
            self.leaving_is_even(found);
        }
        if self.ways.1 {
            self.way_back_is_even(found);
        }
        self.arrivals_are_even(found);
    }

    fn nothing_is_paused(&self) {
        assert!(
            self.books.access.is_none_or(|access| access == Access::All),
            "paused at rest: {:?}",
            self.books.access
        );
    }

    /// Every slot is planned and has a stream, every stream has a slot, no port is held by nobody.
    fn slots_and_streams_are_one_to_one(&self) {
        let slots = self.paths.slots();
        for (id, slot) in slots.iter() {
            assert!(slot.purpose == Purpose::Planned && slot.live.is_some(), "{id:?} at rest: {slot:?}");
        }
        let mut slotted: Vec<StreamId> = slots.live().map(|(_, _, live)| live.id).collect();
        slotted.sort();
        let up: Vec<StreamId> = self.sides[0].session.streams().collect();
        assert_eq!(up, slotted, "streams of the session, streams of the slots");
        let wanted = self.paths.wish().plan().streams;
        let planless = self.has_said(|finding| matches!(finding, Finding::NoPlan(_)));
        if matches!(self.paths.search(), Search::Computed { .. }) && !planless {
            assert_eq!(slots.len(), wanted, "streams wanted, {:?}", self.books.all_said);
        }
    }

    /// Lanes are numbers from 0, each once, so that steering by the source port is exact.
    fn lanes_are_exact(&self) {
        if self.has_said(|finding| matches!(finding, Finding::NoPlan(_))) {
            return;
        }
        let mut lanes: Vec<u16> = self.paths.slots().iter().map(|(_, slot)| slot.planned.lane).collect();
        lanes.sort_unstable();
        assert!(lanes.windows(2).all(|two| two[0] < two[1]), "lanes twice: {lanes:?}");
        if self.books.all_said.iter().any(|finding| matches!(finding, Finding::Measuring { .. })) {
            return;
        }
        // What was there before the plan shrank keeps its lane.
        let most = self.books.widest;
        assert!(lanes.iter().all(|lane| *lane < most), "lanes of at most {most} streams: {lanes:?}");
        if self.books.widest == self.paths.slots().len() {
            assert_eq!(lanes, (0..most).collect::<Vec<u16>>(), "lanes");
        }
    }

    /// Whatever was lost may be had again, plans of our own ways are opened, and beside these there is the budget.
    pub(super) fn opens_are_bounded(&self) {
        let minutes = usize::try_from(self.now.0.as_secs() / 60).unwrap() + 1;
        let budget = usize::from(A_MINUTE) * (1 + minutes) + usize::from(MAX_STREAMS);
        let allowed = self.books.planned + self.books.losses.len();
        let opens = self.books.opens.len();
        assert!(
            opens <= allowed + budget,
            "{opens} connections in {minutes} minutes, of which {allowed} are plans of our own and losses"
        );
    }

    /// By which of our own slaves streams leave.
    fn leaving_is_even(&self, found: &mut Found) {
        let host = &self.net.hosts[0];
        let usable = host.usable();
        let exact = host.bond.sway() == Sway::Exact;
        let drawn = host.bond.sway() == Sway::Drawn && self.paths.wish().gauge().is_some();
        if usable.len() < 2 || !exact && !drawn {
            return;
        }
        found.leaving += 1;
        let counts = self.counts(0, 1);
        let streams: u16 = counts.iter().sum();
        let weights = speeds(host, &usable);
        let equal = weights.windows(2).all(|w| w[0] == w[1]);
        let every = counts.iter().all(|count| *count > 0) || usize::from(streams) < usable.len();
        let even = if equal { is_even(&counts) } else { counts == by_weight(streams, &weights) };
        // Where a NAT has changed ports nobody can tell which side of the bond it is on.
        let certain = exact && self.knows_its_bond() && self.nat() != Nat::Beyond;
        let excuse = |finding: &Finding| {
            matches!(finding, Finding::NoPlan(_))
                || !certain && matches!(finding, Finding::Missed { .. } | Finding::Unmeasurable { .. })
        };
        let blind = !certain && matches!(self.paths.search(), Search::Blind);
        if blind || self.has_said(excuse) {
            found.leaving_excused += u64::from(!even);
            return;
        }
        if !certain && self.knowledge.sees.is_none() || drawn && self.net.redrawn {
            return;
        }
        assert!(every, "no stream leaves by some slave: {counts:?}, {:?}", self.books.all_said);
        // A doubt is planned for as well, but not by weight.
        let weighed = equal || self.knowledge.kernel.or.is_none();
        if certain && weighed || matches!(self.paths.search(), Search::Surveyed(_)) {
            assert!(even, "streams leave unevenly: {counts:?} {weights:?}, {:?}", self.books.all_said);
        }
    }

    /// Whether what it computes from is what is so.
    pub(super) fn knows_its_bond(&self) -> bool {
        let bond = self.net.hosts[0].bond;
        // A doubt is planned for, unless there is the peer's bond to be even over as well.
        let doubt = self.knowledge.kernel.or.filter(|_| !self.ways.1);
        let right = self.knowledge.kernel.era == bond.era || doubt == Some(bond.era);
        let stated = self.knowledge.stated.is_none_or(|policy| policy == bond.policy);
        right && stated && self.nat() != Nat::Host
    }

    /// By which of its slaves the listener sends.
    fn way_back_is_even(&self, found: &mut Found) {
        let host = &self.net.hosts[1];
        let usable = host.usable();
        let ports_lie = matches!(self.nat(), Nat::Beyond | Nat::Host);
        let told = matches!(self.peer, Peer::Honest(..));
        // Whether a balancing bond goes by its hash is not told.
        let exact = host.bond.sway() == Sway::Exact && !matches!(host.bond.mode, Mode::Tlb | Mode::Alb);
        if usable.len() < 2 || !exact || ports_lie || !told || self.ways.0 && self.paths.wish().is_measured() {
            return;
        }
        if self.has_said(|finding| matches!(finding, Finding::NoPlan(_)))
            || self.knowledge.streams.is_some() && self.ways.0
        {
            return;
        }
        // Our own slaves come first, by their speeds: then not every slave of the peer need be within reach.
        let own = speeds(&self.net.hosts[0], &self.net.hosts[0].usable());
        if self.ways.0 && own.windows(2).any(|pair| pair[0] != pair[1]) {
            return;
        }
        found.back += 1;
        let counts = self.counts(1, 0);
        let streams = usize::from(counts.iter().sum::<u16>());
        assert!(
            streams < usable.len() || counts.iter().all(|count| *count > 0),
            "the peer sends nothing by some slave: {counts:?}, {:?}",
            self.books.all_said
        );
        assert!(is_even(&counts), "the peer sends unevenly: {counts:?}, {:?}", self.books.all_said);
    }

    /// On which of its slaves the receiver gets them.
    fn arrivals_are_even(&self, found: &mut Found) {
        let receiver = usize::from(self.ways.0);
        let host = &self.net.hosts[receiver];
        let honest = matches!(self.peer, Peer::Honest(..));
        let told = honest || receiver == 0;
        let lied = self.books.lied;
        if host.usable().len() < 2 || !told || lied || host.facts().is_none_or(|facts| ungrouped(facts).is_some()) {
            return;
        }
        let counts = self.counts(receiver, receiver);
        if !self.is_told(u16::try_from(counts.len()).unwrap()) {
            // By counters not every stream is told apart; and some sights are slow.
            return;
        }
        found.arriving += 1;
        if is_even(&counts) {
            return;
        }
        found.arriving_excused += 1;
        let excuse = |finding: &Finding| {
            matches!(
                finding,
                Finding::ArriveOnOne { .. } | Finding::ArriveUnevenly { .. } | Finding::ArrivalsUntold { .. }
            )
        };
        let computed = matches!(self.paths.search(), Search::Computed { .. });
        assert!(!computed || self.has_said(excuse), "streams arrive unevenly: {counts:?}, {:?}", self.books.all_said);
    }
}

/// For how long nothing may have happened before a world counts as at rest.
pub(super) const REST: Duration = Duration::from_millis(2600);
