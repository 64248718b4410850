//! When a lane may connect again after its stream was lost or could not be had: the bound on connects a minute.
//! Pure: knows times, not connections.

use std::time::{Duration, Instant};

/// Pause before a lost stream is opened again: doubled from the first to the last with every loss ...
const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(3);
/// ... and the first again after this long without trouble. A stream that comes up only to be lost is no success.
const LIVED: Duration = Duration::from_secs(10);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    /// The last stream came up, or was lost.
    last: Option<Instant>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST, last: None }
    }

    /// A stream is up.
    pub(super) fn up(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// It is lost or suspect, or could not be had: how long to wait before the next.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        if self.last.replace(now).is_some_and(|last| now.saturating_duration_since(last) >= LIVED) {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(LAST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects in a minute when every stream comes up at once and lives for `life`.
    fn connects(life: Duration) -> u32 {
        let (begin, mut backoff, mut count) = (Instant::now(), Backoff::new(), 0);
        let mut now = begin;
        while now < begin + Duration::from_mins(1) {
            count += 1;
            backoff.up(now);
            now += life;
            now += backoff.pause(now);
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
        let (mut backoff, now) = (Backoff::new(), Instant::now());
        assert_eq!([(); 8].map(|()| backoff.pause(now)).last(), Some(&LAST));
        backoff.up(now);
        assert_eq!(backoff.pause(now + LIVED), FIRST);
    }
}
