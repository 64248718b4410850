//! [`Paths`]: takes facts in, lets each part decide what is its own, puts orders out.
//!
//! Must not decide anything that one part can decide alone.

use super::audit::Leaving;
use super::backoff::{Backoff, OF_WORDS};
use super::budget::Budget;
use super::evening::{self, Arrivals, Evening, Receiver, Seat};
use super::order::{Access, Order, Orders};
use super::reconcile::reconcile;
use super::search::{Looks, Search, earliest};
use super::slots::{Purpose, Slots};
use super::spare::Spare;
use super::surveying::{Outcome, Surveying, Verdict, View};
use super::wish::{Wish, ungrouped};
use super::{Epoch, Fact, Failure, Finding, MAX_STREAMS, Reading, SlotId, Traffic, Up, Way};
use crate::bond::{Planned, Planner, PortPool};
use crate::transfer::{Passage, StreamId, Time};
use crate::wire::BondFacts;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A stream that was opened because nothing moves is given this long to carry a full segment, before the next is opened.
const STUCK_AGAIN: Duration = Duration::from_secs(2);

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
    pending: Option<(BondFacts, IpAddr)>,
    /// Not before then: a peer may flap, or lie.
    due: Time,
    backoff: Backoff,
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
        let Setup { target, way, planner, plan, spare, sends, receives, stated, timeout } = setup;
        let mut paths = Self {
            slots: Slots::new(planner, way.source),
            names: way.slaves.clone(),
            wish: Wish::new(way, target, (sends, receives), stated),
            search: Search::computed(),
            arrivals: Arrivals::default(),
            words: Words { pending: None, due: now, backoff: Backoff::new(OF_WORDS) },
            spare: Spare::new(spare, timeout, now),
            budget: Budget::new(now),
            epoch: Epoch::default(),
            looks: 0,
            phase: Phase::Before,
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

    // --- in and out --------------------------------------------------------------------------------------------------------------

    /// Takes a fact in.
    pub fn handle(&mut self, fact: Fact, now: Time) {
        if self.phase == Phase::Over {
            return;
        }
        match fact {
            Fact::Way(way) => self.way_changed(way, now),
            Fact::PeerBond(facts, seen) => self.words.pending = Some((facts, seen)),
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

    /// When [`handle_timeout`](Self::handle_timeout) must be called at the latest, if nothing happens.
    pub fn poll_timeout(&mut self, now: Time) -> Option<Time> {
        match self.phase {
            Phase::Over => None,
            Phase::Before => self.spare.due(),
            Phase::Session => {
                let word = self.words.pending.is_some().then(|| self.words_due(now));
                let stuck = self.stuck.filter(|_| self.passage != Passage::Free).map(|(_, at)| at + STUCK_AGAIN);
                earliest([self.slots.poll_timeout(), word, stuck, self.search_due(now)])
            }
        }
    }

    // --- streams -----------------------------------------------------------------------------------------------------------------

    fn stream_up(&mut self, up: &Up, now: Time) {
        if !self.slots.up(up, now, &mut self.out) {
            self.out.push(Order::Retire(up.id));
            return;
        }
        self.up.insert(up.id);
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
        let slave = self.slots.get(up.slot).and_then(|slot| slot.planned.slave);
        self.name(up.id, slave);
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
            if refused || !self.slots.are_dialling() && !self.go_over_to_spare(failure, now) {
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
        let live: Vec<_> = self.slots.live().map(|(_, slot, live)| (live.id, slot.planned.slave)).collect();
        live.into_iter().for_each(|(stream, slave)| self.name(stream, slave));
    }

    // --- other ports -------------------------------------------------------------------------------------------------------------

    /// Goes over to the kernel's own range when the planned ports have waited in vain.
    fn try_spare(&mut self, now: Time) {
        let waited = self.spare.due().is_some_and(|due| due <= now);
        if waited && self.slots.is_unanswered() {
            self.go_over_to_spare(Failure::NoAnswer, now);
        }
    }

    /// Goes over to them where no stream that is up has one of the planned: the kernel chose those, and the filter shows only now.
    fn doubt_ports(&mut self, failure: Failure) {
        let pool = self.slots.planner.pool().clone();
        let served = self.slots.live().any(|(_, _, live)| pool.contains(live.port));
        let failed: Vec<Option<u16>> =
            self.slots.iter().filter(|(_, slot)| slot.live.is_none()).map(|(_, slot)| slot.planned.port).collect();
        let instead =
            self.spare.instead(&pool, failed.into_iter()).filter(|_| !served && Spare::may_be_filtered(failure));
        if let Some(instead) = instead {
            let finding = self.spare.try_instead(&pool);
            self.out.say(finding);
            self.slots.planner.set_pool(instead);
        }
    }

    fn go_over_to_spare(&mut self, failure: Failure, _now: Time) -> bool {
        let planned = self.slots.planner.pool().clone();
        let ports = self.slots.iter().map(|(_, slot)| slot.planned.port).collect::<Vec<_>>().into_iter();
        let Some(instead) = Some(failure)
            .filter(|failure| Spare::may_be_filtered(*failure))
            .and_then(|_| self.spare.instead(&planned, ports))
        else {
            return false;
        };
        let finding = self.spare.try_instead(&planned);
        self.slots.planner.set_pool(instead);
        let Ok(plan) = self.slots.planner.plan(self.slots.len(), &[]) else {
            // Too few of them: those that were planned may still be answered.
            self.slots.planner.set_pool(planned);
            return false;
        };
        self.out.say(finding);
        let old: Vec<SlotId> = self.slots.iter().map(|(id, _)| id).collect();
        old.into_iter().for_each(|slot| self.slots.remove(slot, &mut self.out));
        for planned in plan {
            self.slots.add(planned, Purpose::Planned, &mut self.out);
        }
        true
    }

    // --- plans -------------------------------------------------------------------------------------------------------------------

    fn way_changed(&mut self, way: Way, now: Time) {
        self.out.say(Finding::WayChanged { slaves: way.slaves.len(), streams: way.streams });
        let source = way.source.filter(|source| self.slots.source != Some(*source));
        if let Some(source) = source {
            // From another address no stream lies right: what is sent from the old one is no longer answered, or soon will not be.
            self.out.say(Finding::SourceChanged { source });
            self.slots.source = Some(source);
            self.slots.planner.set_source(source);
        }
        self.wish.own = way;
        self.replan(source.is_none(), MAX_STREAMS, now);
    }

    /// When what the peer has said may be acted on.
    fn words_due(&mut self, now: Time) -> Time {
        self.words.due.max(self.budget.ready(self.wish.own.streams, now))
    }

    /// Acts on what the peer says of its bond, if it is time to.
    fn heed(&mut self, now: Time) {
        let Some((facts, seen)) = self.words.pending else { return };
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
        if self.wish.receives && self.said.translated {
            return; // A port that is translated on the way is not the one that the peer's bond hashes.
        }
        self.wish.hear(facts, seen);
        self.plan_for_peer(facts, is_first, now);
    }

    fn plan_for_peer(&mut self, facts: BondFacts, is_first: bool, now: Time) {
        if let Some(mode) = ungrouped(facts).filter(|_| self.wish.sends && !self.wish.receives && self.names.len() > 1)
            && !std::mem::replace(&mut self.said.ungrouped, true)
        {
            self.out.say(Finding::Ungrouped(mode));
        }
        let wanted = self.wish.plan();
        let ports: Vec<Option<u16>> = self.slots.held().iter().map(|held| held.planned.port).collect();
        if self.wish.is_served(&ports) || self.wish.is_measured() && self.wish.receives {
            self.slots.planner.set_second(wanted.second);
            if !is_first && self.wish.sends {
                self.search_anew(now);
            }
            return;
        }
        self.out.say(Finding::PeerBond { slaves: facts.slaves.into(), streams: wanted.streams });
        let most = self.slots.len().max(self.wish.own.streams).saturating_add(self.budget.left(now));
        let opened = self.replan(true, most, now);
        self.budget.spend(opened);
    }

    /// Makes the streams fit what is wanted now: those that still lie right stay (`keep`), the others get successors and then retire. Answers
    /// how many connections that takes.
    fn replan(&mut self, keep: bool, most: u16, now: Time) -> u16 {
        self.epoch.0 += 1;
        let wanted = self.wish.plan();
        self.slots.planner.set_outlook(wanted.outlook);
        self.slots.planner.set_second(wanted.second);
        let mut held = self.slots.held();
        held.iter_mut().for_each(|held| held.alive &= keep);
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

    // --- what is seen ------------------------------------------------------------------------------------------------------------

    /// There is a new plan, or another receiver: what was found before is past. What did not hold of the old plan is not trusted of this
    /// one either.
    fn search_anew(&mut self, now: Time) {
        if matches!(self.search, Search::Surveying(_) | Search::Surveyed(_)) {
            self.wish.doubt();
        }
        self.search = Search::computed();
        if self.phase == Phase::Session {
            self.survey_first(now);
        }
    }

    fn begin_survey(&mut self, now: Time) {
        let Some(gauge) = self.wish.gauge().cloned() else { return };
        self.out.say(Finding::Measuring { slaves: gauge.slaves.len() });
        // Any port is as good as another from now on.
        let wanted = self.wish.plan();
        self.slots.planner.set_outlook(wanted.outlook);
        self.slots.planner.set_second(None);
        self.drop_probes();
        self.search = Search::Surveying(Box::new(Surveying::new(&gauge, wanted.streams, now)));
    }

    fn drop_probes(&mut self) {
        let probes = self.slots.iter().filter(|(_, slot)| matches!(slot.purpose, Purpose::Probe(..)));
        let probes: Vec<SlotId> = probes.map(|(id, _)| id).collect();
        probes.into_iter().for_each(|slot| self.slots.remove(slot, &mut self.out));
    }

    fn leaving(&self) -> Vec<Leaving> {
        let leaving = self.slots.live().map(|(_, slot, live)| Leaving {
            id: live.id,
            port: live.port,
            seen: live.seen,
            slave: slot.planned.slave,
        });
        leaving.collect()
    }

    fn gauge_read(&mut self, reading: &Reading, now: Time) {
        if reading.stamp.epoch != self.epoch {
            return;
        }
        let streams = self.leaving();
        match &mut self.search {
            Search::Computed { audit, .. } => {
                if audit.judge(reading, &streams) {
                    self.out.say(Finding::Astray);
                    self.wish.doubt();
                    self.begin_survey(now);
                }
            }
            Search::Surveying(surveying) => surveying.read(reading, now, &mut self.out),
            Search::Surveyed(_) | Search::Blind => {}
        }
    }

    fn search_due(&mut self, now: Time) -> Option<Time> {
        let gauge = self.wish.gauge().is_some();
        match &self.search {
            Search::Computed { audit, .. } => {
                earliest([gauge.then(|| audit.poll_timeout()), Evening::poll_timeout(&self.seats())])
            }
            Search::Surveying(_) => Some(Surveying::poll_timeout(now)),
            Search::Surveyed(_) | Search::Blind => None,
        }
    }

    /// Takes a step of what is measured now.
    fn measure(&mut self, now: Time) {
        match std::mem::replace(&mut self.search, Search::Blind) {
            Search::Computed { mut audit, mut evening } => {
                if self.wish.gauge().is_some_and(|gauge| gauge.slaves == self.names) {
                    audit.step(now, &mut Looks::new(self.epoch, &mut self.looks, &mut self.out));
                }
                self.even(&mut evening, now);
                self.search = Search::Computed { audit, evening };
            }
            Search::Surveying(surveying) => self.survey(surveying, now),
            Search::Surveyed(mut surveying) => {
                let goes_on = surveying.goes_on(&self.view(&self.leaving()), now);
                self.search = if goes_on { Search::Surveying(surveying) } else { Search::Surveyed(surveying) };
            }
            Search::Blind => {}
        }
    }

    fn view<'a>(&'a self, streams: &'a [Leaving]) -> View<'a> {
        View {
            streams,
            coming: self.slots.iter().any(|(_, slot)| slot.live.is_none()),
            arrivals: &self.arrivals,
            tells: self.wish.peer_bond().is_some_and(|bond| bond.slaves > 1),
            traffic: self.traffic,
        }
    }

    fn survey(&mut self, mut surveying: Box<Surveying>, now: Time) {
        let streams = self.leaving();
        let view = View {
            streams: &streams,
            coming: self.slots.iter().any(|(_, slot)| slot.live.is_none()),
            arrivals: &self.arrivals,
            tells: self.wish.peer_bond().is_some_and(|bond| bond.slaves > 1),
            // What was under way before the last order was carried out says nothing of it.
            traffic: self.traffic.filter(|_| surveying.access() == self.access),
        };
        match surveying.step(&view, now, &mut Looks::new(self.epoch, &mut self.looks, &mut self.out)) {
            Verdict::Wait => self.search = Search::Surveying(surveying),
            Verdict::Open(more) => {
                self.open_candidates(more, &mut surveying, now);
                self.search = Search::Surveying(surveying);
            }
            Verdict::Settle(outcome, keep) => self.settle(surveying, &outcome, &keep),
        }
    }

    fn open_candidates(&mut self, more: u16, surveying: &mut Surveying, now: Time) {
        let more = more.min(self.budget.left(now));
        if more == 0 {
            surveying.wait();
            return;
        }
        let right: Vec<Planned> = self.slots.held().iter().map(|held| held.planned).collect();
        match self.slots.planner.plan(self.slots.len() + more, &right) {
            Ok(plan) => {
                self.budget.spend(more);
                surveying.opened(more, now);
                let is_new = |planned: &Planned| !right.contains(planned);
                for planned in plan.into_iter().filter(is_new) {
                    self.slots.add(planned, Purpose::Candidate(self.epoch), &mut self.out);
                }
            }
            Err(error) => {
                self.out.say(Finding::NoPlan(error));
                surveying.opened(u16::MAX, now);
            }
        }
    }

    /// The survey is over: keeps its choice, lets the others finish, and says what was found.
    fn settle(&mut self, surveying: Box<Surveying>, outcome: &Outcome, keep: &[StreamId]) {
        self.names = surveying.slaves().to_vec();
        let slots: Vec<SlotId> = self.slots.iter().map(|(id, _)| id).collect();
        for id in slots {
            let Some(slot) = self.slots.get_mut(id) else { continue };
            let stream = slot.live.map(|live| live.id).filter(|stream| keep.contains(stream));
            let awaited = *outcome == Outcome::Unknown && slot.live.is_none() && slot.purpose == Purpose::Planned;
            if let Some(stream) = stream {
                let slave = surveying.slave_of(stream);
                (slot.purpose, slot.planned.slave) = (Purpose::Planned, slave);
                self.name(stream, slave);
                self.out.push(Order::Pin(stream));
            } else if !awaited {
                self.slots.remove(id, &mut self.out);
            }
        }
        self.say_outcome(outcome);
        self.search = if *outcome == Outcome::Unknown { Search::Blind } else { Search::Surveyed(surveying) };
    }

    fn say_outcome(&mut self, outcome: &Outcome) {
        let (streams, slaves) = (self.slots.len(), self.names.len());
        self.out.say(match outcome {
            Outcome::Even => Finding::Measured { streams, slaves },
            Outcome::Missed(missed) if missed.len() < slaves => {
                let name = |slave: &u16| self.names.get(usize::from(*slave)).cloned();
                Finding::Missed { missed: missed.iter().filter_map(name).collect(), slaves }
            }
            Outcome::Missed(_) | Outcome::Unknown => Finding::Unmeasurable { streams, slaves },
        });
    }

    // --- where streams arrive ----------------------------------------------------------------------------------------------------

    fn seats(&self) -> Vec<Seat> {
        let probe = |purpose| {
            if let Purpose::Probe(since, epoch) = purpose { Some(since).filter(|_| epoch == self.epoch) } else { None }
        };
        let seats = self.slots.iter().map(|(id, slot)| Seat {
            slot: id,
            leaves: slot.planned.slave,
            lane: slot.planned.lane,
            arrives: slot.live.and_then(|live| self.arrivals.place(live.id)).map(|(slave, _)| slave),
            probe: probe(slot.purpose),
            up: slot.live.is_some(),
        });
        seats.collect()
    }

    fn receiver(&self) -> Receiver {
        let bond = self.wish.receiving_bond();
        Receiver {
            here: !self.wish.sends,
            at: self.wish.target().ip(),
            ungrouped: bond.is_some_and(|bond| ungrouped(bond).is_some()),
            slaves: self.arrivals.slaves(),
        }
    }

    /// Evens the arrivals, as far as one turn goes.
    fn even(&mut self, evening: &mut Evening, now: Time) {
        loop {
            match evening.step(&self.seats(), self.receiver(), now) {
                evening::Step::Wait => return,
                evening::Step::Replace(probe, rival) => {
                    if let Some(slot) = self.slots.get_mut(probe) {
                        slot.purpose = Purpose::Planned;
                    }
                    self.slots.remove(rival, &mut self.out);
                }
                evening::Step::Close(probe) => self.slots.remove(probe, &mut self.out),
                evening::Step::Open(models, finding) => {
                    if !self.open_probes(&models, evening, now) {
                        return;
                    }
                    self.out.say(finding);
                }
                evening::Step::Over(finding) => {
                    evening.end();
                    finding.into_iter().for_each(|finding| self.out.say(finding));
                }
            }
        }
    }

    /// Opens streams from other ports of the same slaves as these; false if none can be opened now.
    fn open_probes(&mut self, models: &[SlotId], evening: &mut Evening, now: Time) -> bool {
        let most = usize::from(self.budget.left(now));
        let mut opened = 0;
        for model in models.iter().take(most) {
            let Some(model) = self.slots.get(*model).map(|slot| slot.planned) else { continue };
            let Some(planned) = self.slots.planner.replace(&model) else {
                evening.end();
                break;
            };
            self.slots.add(planned, Purpose::Probe(now, self.epoch), &mut self.out);
            opened += 1;
        }
        self.budget.spend(opened);
        evening.opened(opened);
        opened > 0
    }

    // --- whether full segments get through ---------------------------------------------------------------------------------------

    /// Opens another stream where nothing moves on any: it shows whether it is so, and carries the word of it.
    fn look_through(&mut self, now: Time) {
        if self.passage == Passage::Free {
            self.stuck = None;
            return;
        }
        let due = self.stuck.is_none_or(|(then, at)| then != self.passage || now.since(at) >= STUCK_AGAIN);
        let free = self.slots.iter().find(|(_, slot)| !slot.is_dialling()).map(|(id, _)| id);
        if let Some(slot) = free.filter(|_| due) {
            self.stuck = Some((self.passage, now));
            self.out.say(Finding::Stuck);
            self.slots.open_next(slot, &mut self.out);
        }
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
    }
}
