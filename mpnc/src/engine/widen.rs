//! Where the plan cannot say which slave a stream takes (a policy that draws at random, a statement that may be wrong), the slaves'
//! own counters can: while one of them idles although there is more to send, another stream is opened, until all carry.
//!
//! No privilege, no knowledge of the hash; only the transmit counters of this host's slaves.

use super::connect::{Connector, Lane};
use super::worker::Conns;
use crate::error::Error;

/// Streams for each slave at most: one more draw misses a given one of N slaves with (1 - 1/N), so 6 N leave it idle once in 400.
const STREAMS_PER_SLAVE: usize = 6;
/// A slave that carries less than this part of an equal share is idle.
const IDLE: f64 = 0.5;
/// Too little moved between two looks to judge by: bytes over all slaves.
const MOVED: u64 = 1 << 20;

/// What the counters said before, and whether it was said that nothing helps.
#[derive(Debug, Default)]
pub(super) struct Widening {
    counters: Vec<u64>,
    over: bool,
}

/// The slave that idles, by its place in the list, given bytes carried by each since the last look.
fn idle(moved: &[u64]) -> Option<usize> {
    let total: u64 = moved.iter().sum();
    if moved.len() < 2 || total < MOVED {
        return None;
    }
    let least = (0..moved.len()).min_by_key(|i| moved[*i])?;
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a few digits")]
    let share = moved[least] as f64 * moved.len() as f64 / total as f64;
    (share < IDLE).then_some(least)
}

impl Connector {
    /// Takes in the slaves' transmit counters, in the order of the bond's list.
    pub(super) fn handle_load(&mut self, counters: Vec<u64>, conns: &mut Conns) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.widening.counters, counters);
        let counters = &self.widening.counters;
        if before.len() != counters.len() || self.widening.over || self.is_done() {
            return Ok(());
        }
        let moved: Vec<u64> = counters.iter().zip(&before).map(|(now, then)| now.saturating_sub(*then)).collect();
        // Only when there is more to send than the streams take does an idle slave tell anything.
        let Some(slave) = idle(&moved).filter(|_| self.hub().is_some_and(|hub| hub.has_backlog())) else {
            return Ok(());
        };
        if self.lanes.len() >= STREAMS_PER_SLAVE * moved.len() {
            self.widening.over = true;
            log::warn!("slave {slave} of {} stays idle, whatever the source port: {moved:?} bytes", moved.len());
            return Ok(());
        }
        log::info!("slave {slave} of {} idles ({moved:?} bytes): another stream", moved.len());
        // Each look doubles what was added: a handful of looks must do in a transfer of seconds.
        let more = (self.lanes.len() / 2).clamp(1, moved.len());
        let more = u16::try_from(more).unwrap_or(1);
        match self.planner.plan(more) {
            Ok(plan) => plan.into_iter().try_for_each(|planned| {
                self.lanes.push(Lane::new(planned));
                self.open(self.lanes.len() - 1, conns)
            }),
            Err(error) => {
                self.widening.over = true;
                log::warn!("cannot open more streams: {error}");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slave_far_below_its_share_is_idle() {
        assert_eq!(idle(&[9 << 20, 0, 9 << 20, 9 << 20]), Some(1));
        assert_eq!(idle(&[9 << 20, 8 << 20, 9 << 20, 9 << 20]), None);
    }

    #[test]
    fn too_little_to_judge_by_is_no_verdict() {
        assert_eq!(idle(&[1000, 0]), None);
        assert_eq!(idle(&[9 << 20]), None);
    }
}
