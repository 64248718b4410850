//! One stream shown by the slaves' counters: while all others pause it carries a burst of the transfer's own data, and
//! the slave whose counter grows by it is the stream's. Nothing is sent for the sake of measuring.
//!
//! Must not know why the stream is looked at.

use super::looks::Looks;
use super::{Access, Counted, Reading, Stamp};
use crate::transfer::{StreamId, Time, Traffic};
use std::time::Duration;

/// Bytes of a burst: one block of the usual size, so that a look costs as little as it can ...
pub(super) const BURST: u64 = 256 << 10;
/// ... and four times as many each time that it did not stand out from what else the slaves sent, up to this.
const LARGEST_BURST: u64 = 16 << 20;
/// The slave that sent this part of all that was sent during a burst carries the stream: percent.
const DOMINANT: u64 = 70;
/// Counters that do not show a burst by then are read from the card now and then: too slow to tell one burst from the
/// next.
const COUNTER_LAG: Duration = Duration::from_millis(300);
/// A burst that takes longer is held up somewhere: the stream counts as unseen.
const BURST_LIMIT: Duration = Duration::from_secs(5);
/// How soon the counters are read again that do not show a burst yet.
const AGAIN: Duration = Duration::from_millis(10);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Burst {
    pub(super) stream: StreamId,
    len: u64,
    since: Time,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// What others have under way is awaited.
    Drain,
    /// The counters before it are being read.
    Before(Stamp),
    /// It is under way, and this is what the counters were.
    Sent(Vec<u64>),
    /// All of it is acknowledged since `done`; the counters are read until they show it.
    After { before: Vec<u64>, done: Time, asked: Option<Stamp>, next: Time },
}

/// What a burst has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing yet.
    Pending,
    /// Nothing, because the input has no more for now.
    Starved,
    /// The slave.
    Slave(u16),
    /// Too much else was sent meanwhile.
    Blurred,
    /// The stream could not go on.
    Lost,
    /// The counters do not follow.
    TooSlow,
}

impl Burst {
    /// Nothing new for anybody, until what is under way has arrived.
    pub(super) fn new(stream: StreamId, now: Time) -> Self {
        Self { stream, len: BURST, since: now, stage: Stage::Drain }
    }

    /// The same stream again with a longer burst, if there may be a longer one.
    pub(super) fn longer(&self, now: Time) -> Option<Self> {
        let len = self.len * 4;
        (len <= LARGEST_BURST).then_some(Self { stream: self.stream, len, since: now, stage: Stage::Drain })
    }

    /// Who may take data meanwhile.
    pub(super) fn access(&self) -> Access {
        match self.stage {
            Stage::Drain | Stage::Before(_) => Access::Nobody,
            Stage::Sent(_) | Stage::After { .. } => Access::Only(self.stream, self.len),
        }
    }

    /// Nothing kept it up but an empty input.
    pub(super) fn excuse(&mut self, now: Time) {
        self.since = now;
    }

    /// Goes on, as far as what is under way lets it.
    pub(super) fn step(&mut self, traffic: Option<Traffic>, now: Time, looks: &mut Looks<'_>) -> Shown {
        let idle = traffic.is_some_and(|traffic| traffic.idle);
        match &mut self.stage {
            Stage::Drain if idle => (self.stage, self.since) = (Stage::Before(looks.look()), now),
            Stage::Sent(before) => {
                let Some(traffic) = traffic else { return Shown::Pending };
                match (traffic.left, idle) {
                    (None, _) => return Shown::Lost,
                    (Some(0), true) => {
                        let before = std::mem::take(before);
                        self.stage = Stage::After { before, done: now, asked: Some(looks.look()), next: now };
                    }
                    (_, true) if !traffic.backlog => return Shown::Starved,
                    _ => {}
                }
            }
            Stage::After { asked, next, .. } if asked.is_none() && *next <= now => *asked = Some(looks.look()),
            Stage::Drain | Stage::Before(_) | Stage::After { .. } => {}
        }
        let late = !matches!(self.stage, Stage::Drain) && now.since(self.since) >= BURST_LIMIT;
        if late { Shown::Lost } else { Shown::Pending }
    }

    /// The counters have been read.
    pub(super) fn read(&mut self, reading: &Reading, now: Time) -> Shown {
        let counters = match &reading.counted {
            Some(Counted::Slaves(counters)) => Some(counters),
            _ => None,
        };
        match (&mut self.stage, counters) {
            (Stage::Before(stamp), Some(counters)) if *stamp == reading.stamp => {
                self.stage = Stage::Sent(counters.clone());
                Shown::Pending
            }
            (Stage::After { before, done, asked, next }, Some(counters)) if *asked == Some(reading.stamp) => {
                (*asked, *next) = (None, now + AGAIN);
                match dominant(counters, before, self.len) {
                    _ if counters.len() != before.len() => Shown::Lost,
                    Some(shown) => shown,
                    None if now.since(*done) < COUNTER_LAG => Shown::Pending,
                    None => Shown::TooSlow,
                }
            }
            (Stage::Before(stamp) | Stage::After { asked: Some(stamp), .. }, None) if *stamp == reading.stamp => {
                Shown::Lost
            }
            _ => Shown::Pending,
        }
    }
}

/// What the counters show of a burst of `len` bytes; `None` if they do not show it at all.
fn dominant(now: &[u64], before: &[u64], len: u64) -> Option<Shown> {
    let moved: Vec<u64> = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect();
    let most = (0..moved.len()).max_by_key(|slave| moved[*slave]).filter(|most| moved[*most] >= len)?;
    let is_clear = moved[most].saturating_mul(100) / DOMINANT >= moved.iter().sum::<u64>();
    Some(if is_clear { u16::try_from(most).map_or(Shown::Lost, Shown::Slave) } else { Shown::Blurred })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shows_its_slave_if_little_else_is_sent() {
        assert_eq!(dominant(&[10, 700, 0], &[0, 0, 0], 600), Some(Shown::Slave(1)));
        assert_eq!(dominant(&[500, 700, 0], &[0, 0, 0], 600), Some(Shown::Blurred));
        assert_eq!(dominant(&[100, 500], &[0, 0], 600), None);
    }
}
