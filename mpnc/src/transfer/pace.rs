//! A rate that is kept: when the next block may go out.
//!
//! A virtual schedule (GCRA, ITU-T I.371): each block moves the earliest time of the next by its own duration. A sender
//! that was kept from sending may catch up a little, so that a coarse timer does not cost throughput, but never by more
//! than [`CATCH_UP`].

use super::Time;
use std::time::Duration;

/// How far behind its schedule a sender may catch up. Beyond, the time is lost: a pause must not be followed by a
/// flood.
const CATCH_UP: Duration = Duration::from_millis(100);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; not zero.
    rate: u64,
    /// When the next block may go out.
    next: Time,
}

impl Pace {
    /// `rate` in bytes a second; at least one.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Time::default() }
    }

    /// Whether a block may go out.
    pub(super) fn is_free(&self, now: Time) -> bool {
        self.next <= now
    }

    /// When the next one may.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// A block has gone out.
    pub(super) fn sent(&mut self, len: u32, now: Time) {
        let earliest = Time(now.0.saturating_sub(CATCH_UP));
        let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(earliest) + takes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every `tick` for half a minute, except during `pause`, and sends whatever may go; answers what went out
    /// and when.
    fn run(rate: u64, block: u32, tick: Duration, pause: Option<(Duration, Duration)>) -> Vec<(Duration, u64)> {
        let (mut pace, mut now, mut sent) = (Pace::new(rate), Duration::ZERO, Vec::new());
        while now < Duration::from_secs(30) {
            if pause.is_none_or(|(from, to)| now < from || now >= to) {
                while pace.is_free(Time(now)) {
                    pace.sent(block, Time(now));
                    sent.push((now, u64::from(block)));
                }
            }
            now += tick;
        }
        sent
    }

    /// Bytes within five seconds from `from` on.
    fn within(sent: &[(Duration, u64)], from: Duration) -> u64 {
        let to = from + Duration::from_secs(5);
        sent.iter().filter(|(at, _)| *at >= from && *at < to).map(|(_, len)| len).sum()
    }

    #[test]
    fn any_five_seconds_are_within_five_per_cent_whatever_the_timer() {
        for (rate, block) in [(100_000, 4096), (25_000_000, 262_144), (200 << 20, 262_144), (2_000_000_000, 1 << 20)] {
            for tick in [700, 3_000, 10_000, 23_000].map(Duration::from_micros) {
                let sent = run(rate, block, tick, None);
                for from in (0..25_000).step_by(330).map(Duration::from_millis) {
                    let (got, ideal) = (within(&sent, from), rate * 5);
                    let off = got.abs_diff(ideal);
                    assert!(off * 20 <= ideal, "{got} of {ideal} bytes from {from:?} on, block {block}, tick {tick:?}");
                }
            }
        }
    }

    #[test]
    fn a_pause_is_not_followed_by_a_flood() {
        let rate = 10_000_000;
        let pause = (Duration::from_secs(10), Duration::from_secs(14));
        let sent = run(rate, 65_536, Duration::from_millis(5), Some(pause));
        let after = within(&sent, Duration::from_secs(14));
        assert!(after * 20 <= rate * 5 * 21, "{after}");
    }
}
