//! Even at both ends: where streams leave is computed, where they arrive is seen by the receiver, and streams that crowd one of its
//! slaves are replaced by others of the same sending slave until the arrivals are even too. The receiver is the listener, which tells,
//! or, where only the listener sends, this host itself.
//!
//! The switch's hash towards the receiver cannot be read. It can only be tried, with a stated number of tries, several at a time.

use super::connect::{Connector, Lane};
use super::conns::Conns;
use super::ledger::as_seen;
use super::options::MAX_STREAMS;
use crate::bond::survey::TRIES_PER_SLAVE;
use crate::bond::{Mode, is_even};
use crate::error::Error;
use crate::transfer::StreamId;
use crate::wire::BondFacts;
use std::time::{Duration, Instant};

/// How many of them are under way at a time.
const AT_ONCE_PER_SLAVE: u16 = 2;
/// A try whose arrival is not told by then has failed. A receiver that must go by counters takes two seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the search has got.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Streams opened to see where they arrive.
    tries: u16,
    /// Of these, those of which the receiver told.
    told: u16,
    over: bool,
}

/// A stream opened to see where it arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    since: Instant,
}

/// Streams to open towards a receiver of so many links: as many, and the same number on each of the sender's.
pub(super) fn streams_for(sender: usize, receiver: usize) -> u16 {
    let sender = sender.max(1);
    u16::try_from(receiver.div_ceil(sender) * sender).unwrap_or(u16::MAX).min(MAX_STREAMS)
}

/// The mode of a bond whose links are no group to the switch, so that it sends everything for this host over one of them.
fn ungrouped(bond: BondFacts) -> Option<Mode> {
    bond.mode.filter(|mode| matches!(mode, Mode::ActiveBackup | Mode::Tlb | Mode::Alb))
}

impl Connector {
    // --- as many streams as the receiver has links -------------------------------------------------------------------------------

    /// The receiver has told of its bond: if that has more links than there are streams, more are opened. One fast card here may face
    /// several slow ones there.
    pub(super) fn match_receiver(&mut self, bond: BondFacts, conns: &mut Conns) -> Result<(), Error> {
        if let Some(mode) = ungrouped(bond) {
            if self.slaves.len() > 1 {
                log::warn!(
                    "the receiver's bond is in mode {}: all of this arrives over one of its links; 802.3ad would use them all",
                    mode.name()
                );
            }
            return Ok(());
        }
        // To every link of a broadcasting bond goes everything anyway.
        let useless = bond.mode == Some(Mode::Broadcast);
        if !self.may_grow || useless || usize::from(bond.slaves.count()) <= self.lanes.len() {
            return Ok(());
        }
        self.least_streams = streams_for(self.slaves.len(), bond.slaves.count().into());
        let more = usize::from(self.least_streams).saturating_sub(self.lanes.len());
        log::info!("the receiver's bond has {} usable slaves: {more} more streams", bond.slaves.count());
        match self.planner.plan(u16::try_from(more).unwrap_or(0)) {
            Ok(plan) => plan.into_iter().try_for_each(|planned| {
                self.lanes.push(Lane::new(planned));
                self.open(self.lanes.len() - 1, conns)
            }),
            Err(error) => {
                log::info!("cannot open more streams: {error}");
                Ok(())
            }
        }
    }

    /// The receiver's slaves are others now: what was found of them is past.
    pub(super) fn arrivals_change(&mut self) {
        self.search = Search::default();
        self.measure_anew();
    }

    // --- the search --------------------------------------------------------------------------------------------------------------

    /// Takes one step, if there is one to take.
    pub(super) fn even_arrivals(&mut self, conns: &mut Conns) -> Result<(), Error> {
        if self.search.over || self.is_done() {
            return Ok(());
        }
        self.judge_probes(conns);
        let Some(counts) = self.arrivals().filter(|counts| !is_even(counts)) else { return Ok(()) };
        if self.lanes.iter().any(|lane| lane.probe.is_some()) {
            return Ok(());
        }
        // Where the links are no group, no port makes a difference.
        if self.receiving_bond().is_some_and(|bond| ungrouped(bond).is_some()) {
            self.search.over = true;
            return Ok(());
        }
        let slaves = u16::try_from(counts.len()).unwrap_or(u16::MAX);
        let left = (TRIES_PER_SLAVE * slaves).saturating_sub(self.search.tries);
        if left == 0 {
            self.give_up(&counts);
            return Ok(());
        }
        self.open_probes(&counts, left.min(AT_ONCE_PER_SLAVE * slaves), conns)
    }

    /// The bond that the streams arrive on, as far as it is known.
    fn receiving_bond(&self) -> Option<BondFacts> {
        if self.sends() { self.peer_bond } else { (self.options().bond)(self.target.ip()) }
    }

    /// Where a stream arrives: on which slave, of how many.
    fn place(&self, id: StreamId) -> Option<(u16, u16)> {
        let hub = self.hub()?;
        let seen = if self.sends() { hub.observed(id).map(as_seen) } else { hub.seen(id) }?;
        Some((seen.slave?, seen.slaves))
    }

    /// Streams for each slave of the receiver; `None` unless it is known of every stream.
    fn arrivals(&self) -> Option<Vec<u16>> {
        let mut counts = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.probe.is_none()) {
            let (slave, slaves) = self.place(lane.stream?).filter(|(_, slaves)| *slaves > 1)?;
            counts.resize(usize::from(slaves).max(counts.len()), 0);
            counts[usize::from(slave)] += 1;
        }
        (counts.len() > 1).then_some(counts)
    }

    fn arrives_on(&self, lane: &Lane) -> Option<usize> {
        self.stream_arrives_on(lane.stream?)
    }

    fn stream_arrives_on(&self, id: StreamId) -> Option<usize> {
        self.place(id).map(|(slave, _)| slave.into())
    }

    /// Opens streams from other ports of the same slaves as those that arrive where it is crowded.
    fn open_probes(&mut self, counts: &[u16], wanted: u16, conns: &mut Conns) -> Result<(), Error> {
        let least = counts.iter().min().copied().unwrap_or(0);
        let is_crowded = |lane: &&Lane| {
            let there = self.arrives_on(lane).and_then(|slave| counts.get(slave));
            there.is_some_and(|count| *count >= least + 2)
        };
        let crowded: Vec<_> = self.lanes.iter().filter(is_crowded).map(|lane| lane.planned).collect();
        for planned in crowded.iter().cycle().take(usize::from(wanted)) {
            let Some(planned) = self.planner.replace(planned) else {
                self.search.over = true;
                return Ok(());
            };
            self.search.tries += 1;
            let mut lane = Lane::new(planned);
            lane.probe = Some(Probe { since: Instant::now() });
            self.lanes.push(lane);
            self.open(self.lanes.len() - 1, conns)?;
        }
        Ok(())
    }

    /// Keeps each probe that arrives on an emptier slave than some stream of the same sending slave, instead of that; closes the others,
    /// and those of which nothing is told.
    fn judge_probes(&mut self, conns: &mut Conns) {
        let probes = self.lanes.iter().filter(|lane| lane.probe.is_some());
        let probes: Vec<StreamId> = probes.filter_map(|lane| lane.stream).collect();
        for id in probes {
            let (Some(there), Some(counts)) = (self.stream_arrives_on(id), self.arrivals()) else { continue };
            self.search.told += 1;
            let Some(at) = self.lanes.iter().position(|lane| lane.stream == Some(id)) else { continue };
            let loser = self.crowded_rival(at, there, &counts).unwrap_or(at);
            self.lanes[at].probe = None;
            let loser = self.lanes.swap_remove(loser);
            self.close_lane(loser, conns);
        }
        let untold = |lane: &Lane| lane.probe.is_some_and(|probe| probe.since.elapsed() >= PATIENCE);
        while let Some(at) = self.lanes.iter().position(untold) {
            let lane = self.lanes.swap_remove(at);
            self.close_lane(lane, conns);
        }
    }

    /// The lane that a probe on slave `there` had better replace: of the same sending slave, arriving where two more are.
    fn crowded_rival(&self, probe: usize, there: usize, counts: &[u16]) -> Option<usize> {
        let here = |lane: &Lane| self.arrives_on(lane).and_then(|slave| counts.get(slave)).copied().unwrap_or(0);
        let enough = counts.get(there)? + 2;
        let same = |lane: &Lane| lane.probe.is_none() && lane.planned.slave == self.lanes[probe].planned.slave;
        let rivals = (0..self.lanes.len()).filter(|at| same(&self.lanes[*at]) && here(&self.lanes[*at]) >= enough);
        rivals.max_by_key(|at| here(&self.lanes[*at]))
    }

    /// The receiver has no room for a probe: then the streams stay as they are.
    pub(super) fn probe_refused(&mut self, lane: usize) {
        self.lanes.swap_remove(lane);
        self.search.over = true;
    }

    fn give_up(&mut self, counts: &[u16]) {
        self.search.over = true;
        let Search { tries, told, .. } = self.search;
        if told < tries / 2 {
            log::info!("of {tries} streams tried, it could be told of {told} where they arrive: too few to judge by");
            return;
        }
        let (whose, towards) = if self.sends() {
            ("the receiver's", self.target.ip().to_string())
        } else {
            ("this host's", "this host".to_owned())
        };
        let used: Vec<String> = (0..counts.len()).filter(|i| counts[*i] > 0).map(|i| i.to_string()).collect();
        if let [only] = used.as_slice() {
            log::warn!(
                "every stream arrives on slave {only} of {whose} {}, whatever its port ({told} tried): the switch does \
                 not hash on ports; ask the network team for a port-based hash towards {towards} (src-dst-port, layer3+4)",
                counts.len(),
            );
        } else {
            log::warn!(
                "the streams arrive unevenly on {whose} slaves ({counts:?}) and {told} other ports did no better; a slow \
                 slave takes less, so this costs at most the difference"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_match_the_receiver_and_are_even_at_the_sender() {
        assert_eq!(streams_for(0, 3), 3, "no bond here");
        assert_eq!(streams_for(1, 4), 4);
        assert_eq!(streams_for(2, 3), 4);
        assert_eq!(streams_for(3, 8), 9);
        assert_eq!(streams_for(4, 200), 64);
    }
}
