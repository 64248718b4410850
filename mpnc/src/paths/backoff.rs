//! How long to wait before something is done again: each time twice as long, and from the beginning after a time
//! without trouble. Knows times only.

use crate::transfer::Time;
use std::time::Duration;

/// How a pause grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    first: Duration,
    last: Duration,
    /// After so long without trouble the first again. A stream that comes up only to be lost is no success.
    lived: Duration,
}

/// Before a lost stream is opened again.
pub(super) const OF_STREAMS: Pauses =
    Pauses { first: Duration::from_millis(50), last: Duration::from_secs(3), lived: Duration::from_secs(10) };

/// Before what a peer says of its bond is acted on again: it may flap, or lie.
pub(super) const OF_WORDS: Pauses =
    Pauses { first: Duration::from_secs(1), last: Duration::from_secs(8), lived: Duration::from_secs(20) };

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Backoff {
    pauses: Pauses,
    next: Duration,
    /// The last time that it went well, or did not.
    last: Option<Time>,
}

impl Backoff {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { pauses, next: pauses.first, last: None }
    }

    /// A stream is up.
    pub(super) fn up(&mut self, now: Time) {
        self.last = Some(now);
    }

    /// It is lost or suspect, or could not be had: how long to wait before the next.
    pub(super) fn pause(&mut self, now: Time) -> Duration {
        if self.last.replace(now).is_some_and(|last| now.since(last) >= self.pauses.lived) {
            self.next = self.pauses.first;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(self.pauses.last);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects in a minute when every stream comes up at once and lives for `life`.
    fn connects(life: Duration) -> u32 {
        let (mut backoff, mut count) = (Backoff::new(OF_STREAMS), 0);
        let mut now = Time::default();
        while now < Time(Duration::from_mins(1)) {
            count += 1;
            backoff.up(now);
            now = now + life;
            now = now + backoff.pause(now);
        }
        count
    }

    #[test]
    fn a_stream_that_never_lives_is_opened_25_times_a_minute_at_most() {
        let most = (0..12_000).step_by(100).map(|life| connects(Duration::from_millis(life))).max();
        assert_eq!(most, Some(25));
    }

    #[test]
    fn after_a_life_the_first_pause_is_short_again() {
        let (mut backoff, now) = (Backoff::new(OF_STREAMS), Time::default());
        assert_eq!([(); 8].map(|()| backoff.pause(now)).last(), Some(&OF_STREAMS.last));
        backoff.up(now);
        assert_eq!(backoff.pause(now + OF_STREAMS.lived), OF_STREAMS.first);
    }
}
