//! A computed plan held against what is seen: streams that leave by other slaves than their ports say, whatever the
//! reason (a formula that is not this kernel's, a person's word, an address translated on the way to the bond).
//!
//! Must not know what follows.

use super::burst::BURST;
use super::looks::Looks;
use super::{ByPort, Counted, Reading, Stamp};
use crate::transfer::{StreamId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a computed plan is held against what is seen.
const AUDIT_EVERY: Duration = Duration::from_secs(2);
/// Less than this on a slave says nothing about the plan: bytes.
const TELLING: u64 = 8 << 20;

/// A stream that is up, as it leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    pub(super) id: StreamId,
    pub(super) port: u16,
    /// The port that the peer sees.
    pub(super) seen: u16,
    /// By which slave it is planned to.
    pub(super) slave: Option<u16>,
}

impl Leaving {
    /// The slave by which it has sent most since `before`, and how much. A NAT of this host's own has changed its port
    /// by then.
    pub(super) fn by(&self, now: &ByPort, before: &ByPort) -> Option<(u16, u64)> {
        most(now, before, self.port).or_else(|| most(now, before, self.seen))
    }
}

/// The slave by which a port has sent most since `before`, and how much.
fn most(now: &ByPort, before: &ByPort, port: u16) -> Option<(u16, u64)> {
    let since =
        |(key, bytes): (&(u16, u16), &u64)| (key.1, bytes.saturating_sub(before.get(key).copied().unwrap_or(0)));
    now.range((port, 0)..=(port, u16::MAX)).map(since).filter(|(_, bytes)| *bytes > 0).max_by_key(|(_, bytes)| *bytes)
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Audit {
    next: Time,
    asked: Option<Stamp>,
    /// The slaves' counters at the start of this plan, or what the observer had counted at the last look.
    slaves: Vec<u64>,
    counted: Option<ByPort>,
    /// Bytes acknowledged of each stream at the last look, and in all of the streams planned for each slave.
    acked: BTreeMap<StreamId, u64>,
    expected: Vec<u64>,
    /// It did not hold at the last look: once may be a counter that lags behind.
    failed: bool,
}

impl Audit {
    /// Looks, if it is time to.
    pub(super) fn step(&mut self, now: Time, looks: &mut Looks<'_>) {
        if self.next <= now {
            self.next = now + AUDIT_EVERY;
            self.asked = Some(looks.look());
        }
    }

    pub(super) fn poll_timeout(&self) -> Time {
        self.next
    }

    /// Whether the plan has failed, now and the time before.
    pub(super) fn judge(&mut self, reading: &Reading, streams: &[Leaving]) -> bool {
        if self.asked != Some(reading.stamp) {
            return false;
        }
        let failed = match &reading.counted {
            Some(Counted::Streams(counted)) => self.do_streams_stray(counted, streams),
            Some(Counted::Slaves(counters)) => self.do_slaves_lack(counters, &reading.acked, streams),
            None => false,
        };
        let again = std::mem::replace(&mut self.failed, failed);
        failed && again
    }

    /// By the observer: a stream that sent most since the last look by another slave than planned.
    fn do_streams_stray(&mut self, now: &ByPort, streams: &[Leaving]) -> bool {
        let Some(before) = self.counted.replace(now.clone()) else { return false };
        let strays = |stream: &Leaving| {
            stream
                .by(now, &before)
                .is_some_and(|(slave, bytes)| bytes >= BURST && stream.slave.is_some_and(|planned| planned != slave))
        };
        streams.iter().any(strays)
    }

    /// By the counters: a slave that has sent less than half of what was acknowledged of the streams planned for it.
    fn do_slaves_lack(&mut self, counters: &[u64], acked: &[(StreamId, u64)], streams: &[Leaving]) -> bool {
        if self.slaves.len() != counters.len() {
            (self.slaves, self.expected) = (counters.to_vec(), vec![0; counters.len()]);
            self.acked.clear();
        }
        self.acked.retain(|id, _| streams.iter().any(|stream| stream.id == *id));
        for stream in streams {
            let Some(slave) = stream.slave else { continue };
            let acked = acked.iter().find(|(id, _)| *id == stream.id).map_or(0, |(_, acked)| *acked);
            let before = self.acked.insert(stream.id, acked).unwrap_or(acked);
            if let Some(expected) = self.expected.get_mut(usize::from(slave)) {
                *expected += acked.saturating_sub(before);
            }
        }
        lacks(counters, &self.slaves, &self.expected)
    }
}

/// Whether some slave has sent much less since `before` than it must have if the plan held.
fn lacks(now: &[u64], before: &[u64], expected: &[u64]) -> bool {
    let sent = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
    sent.zip(expected).any(|(sent, expected)| *expected >= TELLING && sent < expected / 2)
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

    #[test]
    fn the_slave_of_a_port_is_where_it_sent_most_since() {
        let before = ByPort::from([((7, 0), 1000), ((7, 1), 10), ((8, 0), 5)]);
        let now = ByPort::from([((7, 0), 1010), ((7, 1), 500), ((8, 0), 5), ((9, 2), 60)]);
        assert_eq!(most(&now, &before, 7), Some((1, 490)));
        assert_eq!(most(&now, &before, 8), None);
        assert_eq!(most(&now, &before, 9), Some((2, 60)));
    }
}
