//! Even at both ends: where streams leave is computed, where they arrive is told by the receiver, and streams that crowd one of its
//! slaves are replaced, one at a time, by others of the same sending slave until the arrivals are even too.
//!
//! The switch's hash towards the receiver cannot be read. It can only be tried, with a stated number of tries.

use super::connect::{Connector, Lane};
use super::worker::Conns;
use crate::error::Error;
use crate::transfer::StreamId;
use std::time::{Duration, Instant};

/// Tries for each slave of the receiver: if the switch hashes on ports at all, missing a given one of N slaves 8 N times in a row has
/// a chance of (1 - 1/N)^(8N), below one in 2900.
const TRIES_PER_SLAVE: u16 = 8;
/// A try whose arrival is not told by then counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the search has got.
#[derive(Debug, Default)]
pub(super) struct Search {
    tries: u16,
    over: bool,
}

/// A stream opened to see where it arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// The stream that it would replace.
    pub(super) instead_of: StreamId,
    pub(super) since: Instant,
}

/// How many streams arrive on each slave of the receiver, and which of two slaves is too full and which too empty. Counts that differ by
/// one at most are even.
fn uneven(counts: &[u16]) -> Option<(usize, usize)> {
    let fullest = (0..counts.len()).max_by_key(|i| counts[*i])?;
    let emptiest = (0..counts.len()).min_by_key(|i| counts[*i])?;
    (counts[fullest] >= counts[emptiest] + 2).then_some((fullest, emptiest))
}

impl Connector {
    /// Takes one step, if there is one to take.
    pub(super) fn even_arrivals(&mut self, conns: &mut Conns) -> Result<(), Error> {
        if self.search.over || self.is_done() {
            return Ok(());
        }
        let Some(counts) = self.arrivals() else { return Ok(()) };
        if let Some(at) = self.lanes.iter().position(|lane| lane.probe.is_some()) {
            self.judge_probe(at, &counts, conns);
            return Ok(());
        }
        let Some((fullest, _)) = uneven(&counts) else { return Ok(()) };
        let slaves = u16::try_from(counts.len()).unwrap_or(u16::MAX);
        if self.search.tries >= TRIES_PER_SLAVE * slaves {
            self.give_up(&counts);
            return Ok(());
        }
        self.search.tries += 1;
        self.open_probe(fullest, conns)
    }

    /// Streams for each slave of the receiver; `None` unless the receiver has told of every stream.
    fn arrivals(&self) -> Option<Vec<u16>> {
        let hub = self.hub()?;
        let mut counts = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.probe.is_none()) {
            let seen = hub.observed(lane.stream?).filter(|seen| seen.slave < seen.slaves && seen.slaves > 1)?;
            counts.resize(usize::from(seen.slaves).max(counts.len()), 0);
            counts[usize::from(seen.slave)] += 1;
        }
        (counts.len() > 1).then_some(counts)
    }

    fn arrives_on(&self, id: StreamId) -> Option<usize> {
        self.hub()?.observed(id).map(|seen| usize::from(seen.slave))
    }

    /// Opens a stream from another port of the same slave as one that arrives on the fullest slave.
    fn open_probe(&mut self, fullest: usize, conns: &mut Conns) -> Result<(), Error> {
        let crowded = self.lanes.iter().find_map(|lane| {
            let id = lane.stream.filter(|id| self.arrives_on(*id) == Some(fullest))?;
            Some((id, lane.planned))
        });
        let Some((instead_of, planned)) = crowded else { return Ok(()) };
        let Some(planned) = self.planner.replace(&planned) else {
            self.search.over = true;
            return Ok(());
        };
        let mut lane = Lane::new(planned);
        lane.probe = Some(Probe { instead_of, since: Instant::now() });
        self.lanes.push(lane);
        self.open(self.lanes.len() - 1, conns)
    }

    /// Keeps the better one of a probe and the stream it was opened for.
    fn judge_probe(&mut self, at: usize, counts: &[u16], conns: &mut Conns) {
        let Some(Probe { instead_of, since }) = self.lanes[at].probe else { return };
        let there = self.lanes[at].stream.and_then(|id| self.arrives_on(id));
        let here = self.arrives_on(instead_of);
        let better = match (there, here) {
            (Some(there), Some(here)) => counts.get(there).is_some_and(|count| count + 2 <= counts[here]),
            _ if since.elapsed() < PATIENCE => return,
            _ => false,
        };
        let loser = if better { self.lanes.iter().position(|lane| lane.stream == Some(instead_of)) } else { Some(at) };
        self.lanes[at].probe = None;
        if let Some(loser) = loser {
            let lane = self.lanes.swap_remove(loser);
            self.close_lane(lane, conns);
        }
    }

    fn give_up(&mut self, counts: &[u16]) {
        self.search.over = true;
        let tries = self.search.tries;
        let used: Vec<String> = (0..counts.len()).filter(|i| counts[*i] > 0).map(|i| i.to_string()).collect();
        if let [only] = used.as_slice() {
            log::warn!(
                "every stream arrives on slave {only} of the receiver's {}, whatever its port ({tries} tried): the switch does \
                 not hash on ports; ask the network team for a port-based hash towards {} (src-dst-port, layer3+4)",
                counts.len(),
                self.target.ip(),
            );
        } else {
            log::warn!(
                "the streams arrive unevenly on the receiver's slaves ({counts:?}) and {tries} other ports did no better; a slow \
                 slave takes less, so this costs at most the difference"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_or_less_is_even() {
        assert_eq!(uneven(&[1, 1, 1, 1]), None);
        assert_eq!(uneven(&[2, 1, 1]), None);
        assert_eq!(uneven(&[1, 1, 0, 0]), None);
    }

    #[test]
    fn two_more_are_not() {
        assert_eq!(uneven(&[4, 0]), Some((0, 1)));
        assert_eq!(uneven(&[1, 0, 2]), Some((2, 1)));
        assert_eq!(uneven(&[]), None);
    }
}
