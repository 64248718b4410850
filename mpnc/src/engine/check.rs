//! A computed plan held against what is seen: streams that leave by other slaves than their ports say, whatever the reason (a formula that
//! is not this kernel's, a person's word, an address translated on the way to the bond).
//!
//! Must not know what follows: [`super::survey`] measures then.

use super::connect::{Connector, Lane};
use super::conns::Conns;
use super::hub::Hub;
use super::survey::{BURST, ByPort, Gauge, Leaving, leaves_by};
use crate::transfer::StreamId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a computed plan is held against what is seen.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Less than this on a slave says nothing about the plan: bytes.
const TELLING: u64 = 8 << 20;

/// What a computed plan is held against.
#[derive(Default)]
pub(super) struct Check {
    at: Option<Instant>,
    /// The slaves' counters at the start of this plan, or what the observer had counted at the last look.
    slaves: Vec<u64>,
    counted: ByPort,
    /// Bytes acknowledged of each stream at the last look, and in all of the streams planned for each slave.
    acked: BTreeMap<StreamId, u64>,
    expected: Vec<u64>,
    /// It did not hold at the last look: once may be a counter that lags behind.
    failed: bool,
}

impl Connector {
    /// Whether streams are seen to leave by other slaves than was computed.
    pub(super) fn plan_fails(&mut self, gauge: &Gauge, conns: &Conns) -> bool {
        let due = self.check.at.is_none_or(|at| at.elapsed() >= CHECK_EVERY);
        if !due || gauge.slaves != self.slaves {
            return false;
        }
        self.check.at = Some(Instant::now());
        let failed = match &gauge.leaving {
            Leaving::Streams(read) => self.streams_stray(read()),
            Leaving::Slaves(read) => read().is_some_and(|counters| self.slaves_lack(&counters, conns)),
        };
        let again = std::mem::replace(&mut self.check.failed, failed);
        if failed && again {
            log::warn!("streams leave by other slaves than their ports say: measuring instead");
        }
        failed && again
    }

    /// By the observer: a stream that sent most since the last look by another slave than planned.
    fn streams_stray(&mut self, now: ByPort) -> bool {
        let before = std::mem::replace(&mut self.check.counted, now);
        let strays = |lane: &Lane| {
            let opened = self.opened.iter().rev().find(|opened| Some(opened.id) == lane.stream);
            let seen = opened.and_then(|opened| leaves_by(&self.check.counted, &before, opened));
            seen.is_some_and(|(slave, bytes)| {
                bytes >= BURST && lane.planned.slave.is_some_and(|planned| planned != slave)
            })
        };
        !before.is_empty() && self.lanes.iter().any(strays)
    }

    /// By the counters: a slave that has sent less than half of what was acknowledged of the streams planned for it.
    fn slaves_lack(&mut self, counters: &[u64], conns: &Conns) -> bool {
        let Some(hub) = self.hub().cloned() else { return false };
        let check = &mut self.check;
        if check.slaves.len() != counters.len() {
            (check.slaves, check.expected) = (counters.to_vec(), vec![0; counters.len()]);
            check.acked.clear();
        }
        check.acked.retain(|id, _| self.lanes.iter().any(|lane| lane.stream == Some(*id)));
        for lane in &self.lanes {
            let (Some(id), Some(slave)) = (lane.stream, lane.planned.slave) else { continue };
            let acked = conns.acked(&hub, id);
            let before = check.acked.insert(id, acked).unwrap_or(acked);
            if let Some(expected) = check.expected.get_mut(usize::from(slave)) {
                *expected += acked.saturating_sub(before);
            }
        }
        lacks(counters, &check.slaves, &check.expected)
    }
}

/// Whether some slave has sent much less since `before` than it must have if the plan held.
fn lacks(now: &[u64], before: &[u64], expected: &[u64]) -> bool {
    let sent = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
    sent.zip(expected).any(|(sent, expected)| *expected >= TELLING && sent < expected / 2)
}

impl Conns {
    /// Bytes of the stream that the peer's TCP had acknowledged when it was last looked at.
    fn acked(&self, hub: &Arc<Hub>, id: StreamId) -> u64 {
        self.iter().find(|conn| conn.is_member(hub, id)).map_or(0, |conn| conn.acked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_fails_when_a_slave_sent_less_than_was_acknowledged_of_its_streams() {
        let expected = [20 << 20, 20 << 20];
        assert!(!lacks(&[21 << 20, 21 << 20], &[0, 0], &expected));
        assert!(lacks(&[42 << 20, 1 << 20], &[0, 0], &expected));
        assert!(!lacks(&[2 << 20, 0], &[0, 0], &[1 << 20, 1 << 20]), "too little to tell");
    }
}
