//! [`Paths`]: takes facts in, lets each part decide what is its own, puts orders out.
//!
//! Must not decide anything that one part can decide alone.

mod seeing;

use super::backoff::{Backoff, OF_WORDS};
use super::budget::Budget;
use super::evening::Arrivals;
use super::finding::Unanswered;
use super::order::{Access, Order, Orders};
use super::reconcile::reconcile;
use super::search::Search;
use super::slots::{Purpose, Slots};
use super::spare::Spare;
use super::wish::{Wish, ungrouped};
use super::{Epoch, Fact, Failure, Finding, MAX_STREAMS, SlotId, Up, Way};
use crate::bond::{Planned, Planner, PortPool};
use crate::transfer::{Passage, StreamId, Time, Traffic};
use crate::wire::BondFacts;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What the path manager begins with.
pub struct Setup {
    /// The listener.
    pub target: SocketAddr,
    /// The way out, which the plan goes by.
    pub way: Way,
    /// The source of further ports.
    pub planner: Planner,
    /// One entry for each stream.
    pub plan: Vec<Planned>,
    /// The source ports that the kernel itself would choose from, for where the planned ones get no answer.
    pub spare: PortPool,
    /// Whether this side sends.
    pub sends: bool,
    /// Whether this side receives.
    pub receives: bool,
    /// Whether a person has said how many streams there are to be.
    pub stated: bool,
    /// How long a connection may take.
    pub timeout: Duration,
}

/// Where in its life it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No stream has been up yet.
    Before,
    Session,
    Over,
}

/// What the peer has said and nobody has acted on yet.
struct Words {
    pending: Option<BondFacts>,
    /// Not before then: a peer may flap, or lie.
    due: Time,
    backoff: Backoff,
    /// Streams that the last word asks for and the budget does not have yet.
    missing: u16,
}

/// See the module documentation.
pub struct Paths {
    wish: Wish,
    slots: Slots,
    search: Search,
    arrivals: Arrivals,
    words: Words,
    spare: Spare,
    budget: Budget,
    epoch: Epoch,
    /// Looks at the gauge so far.
    looks: u32,
    phase: Phase,
    /// This host's address, as the peer sees it.
    seen_as: Option<IpAddr>,
    /// Streams that are up, those that finish among them.
    up: BTreeSet<StreamId>,
    /// The most telling reason so far why there is no session.
    failure: Option<Failure>,
    traffic: Option<Traffic>,
    access: Access,
    /// Whether what is sent gets through, and when a stream was last opened to see.
    passage: Passage,
    stuck: Option<(Passage, Time)>,
    /// Names of the slaves that the plan is about, by index.
    names: Vec<String>,
    /// What has been said, and is not said again.
    said: Said,
    out: Orders,
}

#[derive(Default)]
struct Said {
    translated: bool,
    crowded: bool,
    ungrouped: bool,
}

impl Paths {
    /// Opens the planned streams.
    #[must_use]
    pub fn new(setup: Setup, now: Time) -> Self {
        let Setup { target, mut way, planner, plan, spare, sends, receives, stated, timeout } = setup;
        // What was planned is what is wanted, until the way is another.
        way.streams = u16::try_from(plan.len()).unwrap_or(u16::MAX);
        let mut paths = Self {
            slots: Slots::new(planner, way.source),
            names: way.slaves.clone(),
            wish: Wish::new(way, target, (sends, receives), stated),
            search: Search::computed(),
            arrivals: Arrivals::default(),
            words: Words { pending: None, due: now, backoff: Backoff::new(OF_WORDS), missing: 0 },
            spare: Spare::new(spare, timeout, now),
            budget: Budget::new(now),
            epoch: Epoch::default(),
            looks: 0,
            phase: Phase::Before,
            seen_as: None,
            up: BTreeSet::new(),
            failure: None,
            traffic: None,
            access: Access::All,
            passage: Passage::Free,
            stuck: None,
            said: Said::default(),
            out: Orders::default(),
        };
        for planned in plan {
            paths.slots.add(planned, Purpose::Planned, &mut paths.out);
        }
        paths
    }

    // --- in and out --------------------------------------------------------------------------------------------------

    /// Takes a fact in.
    pub fn handle(&mut self, fact: Fact, now: Time) {
        if self.phase == Phase::Over {
            return;
        }
        match fact {
            Fact::Way(way) => self.way_changed(way, now),
            Fact::PeerBond(facts) => self.words.pending = Some(facts),
            Fact::Answered(slot) => self.slots.answered(slot),
            Fact::Up(up) => self.stream_up(&up, now),
            Fact::Failed(slot, failure) => self.failed(slot, failure, now),
            Fact::Down(stream) => {
                self.up.remove(&stream);
                self.arrivals.forget(stream);
                self.slots.down(stream, now);
            }
            Fact::Suspect(stream) => self.slots.suspect(stream, now),
            Fact::Recovered(stream) => self.slots.recovered(stream),
            Fact::Arrival { stream, slave, slaves } => {
                if self.up.contains(&stream) {
                    self.arrivals.hear(stream, slave, slaves);
                }
            }
            Fact::Reading(reading) => self.gauge_read(&reading, now),
            Fact::Traffic(traffic) => self.traffic = Some(traffic),
            Fact::Passage(passage) => self.passage = passage,
            Fact::Over => {
                self.phase = Phase::Over;
                self.out.clear();
            }
        }
    }

    /// Does what is due, and what the facts since the last call ask for.
    pub fn handle_timeout(&mut self, now: Time) {
        match self.phase {
            Phase::Over => return,
            Phase::Before => self.try_spare(now),
            Phase::Session => {
                self.heed(now);
                self.slots.reopen(now, &mut self.out);
                self.look_through(now);
                self.measure(now);
            }
        }
        let access = self.search.access();
        if access != self.access {
            (self.access, self.traffic) = (access, None);
            self.out.push(Order::Access(access));
        }
    }

    /// The next thing to be done.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.out.pop()
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest, if nothing happens. What is due at
    /// `now` and was not done then waits for a fact.
    pub fn poll_timeout(&mut self, now: Time) -> Option<Time> {
        let word = self.words.pending.is_some().then(|| self.words_due(now));
        let rest = (self.words.missing > 0).then(|| self.budget.ready(self.words.missing, now));
        let word = word.or(rest);
        let stuck = self.stuck.filter(|_| self.passage != Passage::Free).map(|(_, at)| at + seeing::STUCK_AGAIN);
        let due = match self.phase {
            Phase::Over => return None,
            Phase::Before => [self.spare.due(), None, None, None, None],
            Phase::Session => {
                let [audit, probes] = self.search_due(now);
                [self.slots.poll_timeout(), word, stuck, audit, probes]
            }
        };
        due.into_iter().flatten().filter(|due| *due > now).min()
    }

    // --- streams -----------------------------------------------------------------------------------------------------

    fn stream_up(&mut self, up: &Up, now: Time) {
        if !self.slots.up(up, now, &mut self.out) {
            self.out.push(Order::Retire(up.id));
            return;
        }
        self.up.insert(up.id);
        if self.slots.is_ordinary(up.port) && self.seen_as.replace(up.seen.ip()) != Some(up.seen.ip()) {
            // What the peer's bond hashes is another address now.
            self.words.pending = self.words.pending.or_else(|| self.wish.peer_bond());
        }
        if self.phase == Phase::Before {
            self.phase = Phase::Session;
            self.spare.answered().into_iter().for_each(|finding| self.out.say(finding));
            self.survey_first(now);
        }
        if up.port != up.seen.port() && !std::mem::replace(&mut self.said.translated, true) {
            self.out.say(Finding::PortsTranslated { port: up.port, seen: up.seen.port() });
            self.wish.doubt();
            self.survey_first(now);
        }
        if self.slots.is_ordinary(up.port) {
            self.compare_address(up.seen.ip(), now);
        }
        let slave = self.slots.get(up.slot).and_then(|slot| slot.planned.slave);
        self.name(up.id, slave);
    }

    /// Where the peer sees this host by another address, the streams are made even for that one too.
    fn compare_address(&mut self, seen: IpAddr, now: Time) {
        let seen = seen.to_canonical();
        let Some(source) = self.slots.source.filter(|source| source.to_canonical() != seen) else { return };
        let ports = self.planned_ports();
        if !self.said.translated && self.wish.translate(seen, &ports) {
            self.out.say(Finding::AddressTranslated { source, seen });
            let opened = self.replan(true, MAX_STREAMS, now);
            self.budget.spend(opened);
        }
    }

    /// The source ports of the plan.
    fn planned_ports(&self) -> Vec<Option<u16>> {
        let planned = self.slots.iter().filter(|(_, slot)| slot.purpose == Purpose::Planned);
        planned.map(|(id, slot)| slot.held(id).planned.port).collect()
    }

    /// Where the plan is no more than a guess, measuring comes before the first block.
    fn survey_first(&mut self, now: Time) {
        if self.wish.is_measured() && !self.search.is_surveying() {
            self.begin_survey(now);
        }
    }

    fn failed(&mut self, slot: SlotId, failure: Failure, now: Time) {
        if self.slots.failed(slot, failure, now, &mut self.out) {
            return;
        }
        if self.phase == Phase::Before {
            self.failure = self.failure.max(Some(failure));
            let refused = matches!(failure, Failure::Refused | Failure::NoSession);
            if refused || !self.slots.are_dialling() && !self.go_over_to_spare(failure) {
                self.give_up(self.failure.unwrap_or(failure));
            }
            return;
        }
        if self.up.is_empty() && matches!(failure, Failure::PortClosed | Failure::NoSession) {
            self.give_up(failure);
            return;
        }
        self.doubt_ports(failure);
        if failure == Failure::NoRoom && !std::mem::replace(&mut self.said.crowded, true) {
            self.out.say(Finding::Crowded);
        }
        if self.slots.get(slot).is_some_and(|slot| slot.purpose != Purpose::Planned && slot.live.is_none()) {
            // It was to be looked at; others can be.
            self.slots.remove(slot, &mut self.out);
            if let (Failure::NoRoom, Search::Computed { evening, .. }) = (failure, &mut self.search) {
                evening.end();
            }
        }
    }

    fn give_up(&mut self, failure: Failure) {
        self.phase = Phase::Over;
        self.out.push(Order::GiveUp(failure));
    }

    /// For people: by which slave a stream leaves.
    fn name(&mut self, stream: StreamId, slave: Option<u16>) {
        let name = slave.and_then(|slave| self.names.get(usize::from(slave))).cloned();
        self.out.push(Order::Name(stream, name));
    }

    fn name_all(&mut self) {
        let right = self.slots.live().filter(|(_, slot, _)| slot.lies_right());
        let live: Vec<_> = right.map(|(_, slot, live)| (live.id, slot.planned.slave)).collect();
        for (stream, slave) in live {
            self.name(stream, slave);
        }
    }

    /// What is to be said of a silence beside a closed port: ports that nobody answers.
    #[must_use]
    pub fn unanswered(&self) -> Option<Unanswered> {
        let ports = self.slots.iter().map(|(_, slot)| slot.planned.port);
        self.spare.unanswered(self.slots.planner.pool(), ports)
    }

    // --- other ports -------------------------------------------------------------------------------------------------

    /// Goes over to the kernel's own range when the planned ports have waited in vain.
    fn try_spare(&mut self, now: Time) {
        let waited = self.spare.due().is_some_and(|due| due <= now);
        if waited && self.slots.is_unanswered() {
            self.go_over_to_spare(Failure::NoAnswer);
        }
    }

    /// Goes over to them where no stream that is up has one of the planned: the kernel chose those, and the filter
    /// shows only now.
    fn doubt_ports(&mut self, failure: Failure) {
        let pool = self.slots.planner.pool().clone();
        let served = self.slots.live().any(|(_, _, live)| pool.contains(live.port));
        let failed = self.slots.iter().filter(|(_, slot)| slot.live.is_none()).map(|(_, slot)| slot.planned.port);
        let instead = self.spare.instead(&pool, failed).filter(|_| !served && Spare::may_be_filtered(failure));
        if let Some(instead) = instead {
            let finding = self.spare.try_instead(&pool);
            self.out.say(finding);
            self.slots.planner.set_pool(instead);
        }
    }

    /// Whether there are others to try after this failure; then they are being tried.
    fn go_over_to_spare(&mut self, failure: Failure) -> bool {
        let planned = self.slots.planner.pool().clone();
        let ports = self.slots.iter().map(|(_, slot)| slot.planned.port);
        let instead = self.spare.instead(&planned, ports).filter(|_| Spare::may_be_filtered(failure));
        let Some(instead) = instead else { return false };
        let finding = self.spare.try_instead(&planned);
        self.slots.planner.set_pool(instead);
        let Ok(plan) = self.slots.planner.plan(self.slots.len(), &[]) else {
            // Too few of them: those that were planned may still be answered.
            self.slots.planner.set_pool(planned);
            return false;
        };
        self.out.say(finding);
        let old: Vec<SlotId> = self.slots.iter().map(|(id, _)| id).collect();
        for slot in old {
            self.slots.remove(slot, &mut self.out);
        }
        for planned in plan {
            self.slots.add(planned, Purpose::Planned, &mut self.out);
        }
        true
    }

    // --- plans -------------------------------------------------------------------------------------------------------

    fn way_changed(&mut self, way: Way, now: Time) {
        self.out.say(Finding::WayChanged { slaves: way.slaves.len(), streams: way.streams });
        let source = way.source.filter(|source| self.slots.source != Some(*source));
        if let Some(source) = source {
            // From another address no stream lies right: what is sent from the old one is no longer answered, or soon
            // will not be.
            self.out.say(Finding::SourceChanged { source });
            self.slots.source = Some(source);
            self.slots.planner.set_source(source);
        }
        let moved = !way.placed && way.slaves.len() < self.wish.own.slaves.len();
        self.slots.readdress(&way.by_address.pairs);
        self.wish.set_way(way, self.slots.addressing.clone());
        self.words.missing = 0;
        self.replan(source.is_none() && !moved, MAX_STREAMS, now);
    }

    /// When what the peer has said may be acted on.
    fn words_due(&mut self, now: Time) -> Time {
        self.words.due.max(self.budget.ready(self.wish.own.streams, now))
    }

    /// Acts on what the peer says of its bond, if it is time to.
    fn heed(&mut self, now: Time) {
        let Some((facts, seen)) = self.words.pending.zip(self.seen_as) else { return self.make_good(now) };
        if self.wish.has_heard((facts, seen)) {
            self.words.pending = None;
            return;
        }
        if self.words_due(now) > now {
            return;
        }
        self.words.pending = None;
        let is_first = self.wish.peer_bond().is_none();
        if !is_first {
            self.words.due = now + self.words.backoff.pause(now);
        }
        let known = self.wish.peer_bond().map(|bond| u16::from(bond.slaves.count()));
        let fewer = self.wish.receives && known.is_some_and(|known| u16::from(facts.slaves.count()) < known);
        self.wish.hear(facts, seen, !self.said.translated);
        self.plan_for_peer(facts, !fewer, now);
    }

    /// Opens what a word asked for, once the budget has it.
    fn make_good(&mut self, now: Time) {
        let missing = std::mem::take(&mut self.words.missing);
        if missing == 0 || self.budget.ready(missing, now) > now {
            self.words.missing = missing;
            return;
        }
        let opened = self.replan(true, MAX_STREAMS, now);
        self.budget.spend(opened);
    }

    fn plan_for_peer(&mut self, facts: BondFacts, keep: bool, now: Time) {
        if let Some(mode) = ungrouped(facts).filter(|_| self.wish.sends && !self.wish.receives && self.names.len() > 1)
            && !std::mem::replace(&mut self.said.ungrouped, true)
        {
            self.out.say(Finding::Ungrouped(mode));
        }
        let wanted = self.wish.plan();
        let ports = self.planned_ports();
        let measured = self.wish.is_measured();
        if measured || self.wish.is_served(&ports) {
            self.slots.planner.set_second(wanted.second);
            if let Search::Surveying(surveying) = &mut self.search {
                surveying.aim(self.wish.measured_streams());
            } else if self.wish.sends {
                self.search_anew(now);
            }
            return;
        }
        self.out.say(Finding::PeerBond { slaves: facts.slaves.count().into(), streams: wanted.streams });
        let most = self.slots.len().max(self.wish.own.streams).saturating_add(self.budget.left(now));
        let opened = self.replan(keep, most, now);
        self.budget.spend(opened);
        self.words.missing = wanted.streams.saturating_sub(most);
    }

    /// Makes the streams fit what is wanted now: those that still lie right stay (`keep`), the others get successors
    /// and then retire. Answers how many connections that takes.
    ///
    /// Where slaves have gone that the streams leave by, here or there, none is kept: every flow is on another slave
    /// then, some with the queue of a second; what their TCP has learnt is wrong, and takes seconds to learn anew. A
    /// fresh one takes a moment.
    fn replan(&mut self, keep: bool, most: u16, now: Time) -> u16 {
        let wanted = self.wish.plan();
        self.slots.planner.set_outlook(wanted.outlook);
        self.slots.planner.set_second(wanted.second);
        let mut held = self.slots.held();
        for held in &mut held {
            held.alive &= keep;
        }
        // A probe has the lane of the stream that it is to better: of the two only one is wanted.
        let mut lanes = BTreeSet::new();
        let right = held.iter().filter(|held| held.alive && lanes.insert(held.planned.lane));
        let right: Vec<Planned> = right.map(|held| held.planned).collect();
        let plan = match self.slots.planner.plan(wanted.streams.min(most), &right) {
            Ok(plan) => plan,
            Err(error) => {
                self.out.say(Finding::NoPlan(error));
                self.search_anew(now);
                return 0;
            }
        };
        self.names = wanted.slaves;
        let opened = self.slots.apply(reconcile(&held, &plan), &mut self.out);
        self.name_all();
        self.search_anew(now);
        opened
    }
}

#[cfg(test)]
impl Paths {
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(super) fn search(&self) -> &Search {
        &self.search
    }

    pub(super) fn wish(&self) -> &Wish {
        &self.wish
    }

    /// Whether nothing is on its way, and nothing due.
    pub(super) fn is_at_rest(&self) -> bool {
        let planned = |slot: &super::slots::Slot| slot.purpose == Purpose::Planned && slot.live.is_some();
        self.slots.iter().all(|(_, slot)| planned(slot))
            && self.slots.poll_timeout().is_none()
            && !self.slots.are_dialling()
            && !self.search.is_surveying()
            && self.words.pending.is_none()
            && self.words.missing == 0
    }
}
