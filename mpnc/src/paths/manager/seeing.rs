//! What is done about what is seen: of where streams leave, of where they arrive, of whether full segments get through.
//!
//! Must not judge: that is the parts' own.

use super::{Paths, Phase};
use crate::bond::Planned;
use crate::paths::audit::Leaving;
use crate::paths::evening::{self, Evening, Receiver, Seat};
use crate::paths::looks::Looks;
use crate::paths::search::Search;
use crate::paths::slots::Purpose;
use crate::paths::surveying::{Outcome, Surveying, Verdict, View};
use crate::paths::wish::ungrouped;
use crate::paths::{Finding, Order, Reading, SlotId};
use crate::transfer::{Passage, StreamId, Time};
use std::time::Duration;

/// A stream that was opened because nothing moves is given this long to carry a full segment before the next is opened.
pub(super) const STUCK_AGAIN: Duration = Duration::from_secs(2);

impl Paths {
    // --- what is seen ------------------------------------------------------------------------------------------------

    /// There is a new plan, or another receiver: what was found before is past. What did not hold of the old plan is
    /// not trusted of this one either.
    pub(super) fn search_anew(&mut self, now: Time) {
        if matches!(self.search, Search::Surveying(_) | Search::Surveyed(_)) {
            self.wish.doubt();
        }
        self.search = Search::computed();
        // What is on its way to be looked at was chosen by what is past.
        self.epoch.0 += 1;
        self.drop_unplanned();
        if self.phase == Phase::Session {
            self.survey_first(now);
        }
    }

    pub(super) fn begin_survey(&mut self, now: Time) {
        let Some(gauge) = self.wish.gauge().cloned() else { return };
        self.out.say(Finding::Measuring { slaves: gauge.slaves.len() });
        // Any port is as good as another from now on.
        let wanted = self.wish.plan();
        self.slots.planner.set_outlook(wanted.outlook);
        self.slots.planner.set_second(wanted.second);
        self.drop_unplanned();
        let streams = self.wish.measured_streams();
        self.search = Search::Surveying(Box::new(Surveying::new(&gauge, streams, now)));
    }

    /// Lets go of what is there only to be looked at.
    pub(super) fn drop_unplanned(&mut self) {
        let probes = self.slots.iter().filter(|(_, slot)| slot.purpose != Purpose::Planned);
        let probes: Vec<SlotId> = probes.map(|(id, _)| id).collect();
        for slot in probes {
            self.slots.remove(slot, &mut self.out);
        }
    }

    fn leaving(&self) -> Vec<Leaving> {
        let leaving = self.slots.live().map(|(_, slot, live)| Leaving {
            id: live.id,
            port: live.port,
            seen: live.seen,
            // One that awaits its successor still leaves by where the last plan had it.
            slave: slot.planned.slave.filter(|_| slot.lies_right()),
        });
        leaving.collect()
    }

    pub(super) fn gauge_read(&mut self, reading: &Reading, now: Time) {
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

    /// Whether what is seen can be held against the plan.
    fn is_audited(&self) -> bool {
        self.wish.gauge().is_some_and(|gauge| gauge.slaves == self.names)
    }

    pub(super) fn search_due(&self, now: Time) -> [Option<Time>; 2] {
        match &self.search {
            Search::Computed { audit, .. } => {
                [self.is_audited().then(|| audit.poll_timeout()), Evening::poll_timeout(&self.seats())]
            }
            Search::Surveying(_) => [Some(Surveying::poll_timeout(now)), None],
            Search::Surveyed(_) | Search::Blind => [None, None],
        }
    }

    /// Whether some slot has no stream yet, or no more.
    fn are_coming(&self) -> bool {
        self.slots.iter().any(|(_, slot)| slot.live.is_none())
    }

    fn view(&self) -> View {
        let bond = self.wish.peer_bond();
        View {
            streams: self.leaving(),
            coming: self.are_coming(),
            arrivals: self.arrivals.clone(),
            tells: bond.is_some_and(|bond| u16::from(bond.slaves.count()) > 1),
            traffic: self.traffic,
        }
    }

    /// Takes a step of what is measured now.
    pub(super) fn measure(&mut self, now: Time) {
        match std::mem::replace(&mut self.search, Search::Blind) {
            Search::Computed { mut audit, mut evening } => {
                if self.is_audited() {
                    audit.step(now, &mut Looks::new(self.epoch, &mut self.looks, &mut self.out));
                }
                self.even(&mut evening, now);
                self.search = Search::Computed { audit, evening };
            }
            Search::Surveying(surveying) => self.survey(surveying, now),
            Search::Surveyed(mut surveying) => {
                let up = self.slots.live().map(|(_, _, live)| live.id.0).collect();
                let goes_on = surveying.goes_on(up, self.are_coming(), now);
                self.search = if goes_on { Search::Surveying(surveying) } else { Search::Surveyed(surveying) };
            }
            Search::Blind => {}
        }
    }

    fn survey(&mut self, mut surveying: Box<Surveying>, now: Time) {
        let mut view = self.view();
        // What was under way before the last order was carried out says nothing of it.
        view.traffic = view.traffic.filter(|_| surveying.access() == self.access);
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
                let is_kept = |new: &Planned| right.iter().any(|old| (old.port, old.lane) == (new.port, new.lane));
                let is_new = |planned: &Planned| !is_kept(planned);
                let mut fresh = plan.into_iter().filter(is_new);
                for planned in fresh.by_ref().take(more.into()) {
                    self.slots.add(planned, Purpose::Candidate, &mut self.out);
                }
                for port in fresh.filter_map(|planned| planned.port) {
                    self.slots.planner.give_back(port);
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

    // --- where streams arrive ----------------------------------------------------------------------------------------

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
                    if let Some(finding) = finding {
                        self.out.say(finding);
                    }
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
            let second = |port: Option<u16>| port.and_then(|port| self.slots.planner.second_of(port));
            if second(planned.port) != second(model.port) {
                // Even here and there is worth more than even where they arrive.
                planned.port.into_iter().for_each(|port| self.slots.planner.give_back(port));
                evening.end();
                break;
            }
            self.slots.add(planned, Purpose::Probe(now, self.epoch), &mut self.out);
            opened += 1;
        }
        self.budget.spend(opened);
        evening.opened(opened);
        opened > 0
    }

    // --- whether full segments get through ---------------------------------------------------------------------------

    /// Opens another stream where nothing moves on any: it shows whether it is so, and carries the word of it.
    pub(super) fn look_through(&mut self, now: Time) {
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
