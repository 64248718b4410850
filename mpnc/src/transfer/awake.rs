//! Time as patience counts it: what goes by while this side itself does not run is not the other side's silence.
//!
//! Must not know what kept it from running (SIGSTOP, a suspended host, a paused virtual machine, a processor that
//! others have): it sees only that nobody looked.

use super::Time;
use std::time::Duration;

/// Whoever waits for anything must look at least this often, or part of the waiting does not count.
pub const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most that counts between two looks: more than a busy turn of a loop takes, and little beside the shortest timeout.
const GAP: Duration = Duration::from_millis(400);

/// See the module documentation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Awake {
    /// The real time of the last look.
    looked: Time,
    /// The time that counted until then.
    counted: Time,
}

impl Awake {
    /// The loop runs, at this real time.
    pub fn look(&mut self, real: Time) {
        *self = Self { looked: self.looked.max(real), counted: self.at(real) };
    }

    /// The time that counts, at this real time. It never runs backwards.
    #[must_use]
    pub fn at(&self, real: Time) -> Time {
        self.counted + real.since(self.looked).min(GAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Time {
        Time(Duration::from_millis(n))
    }

    #[test]
    fn all_time_counts_for_a_loop_that_looks_as_often_as_it_must() {
        let mut awake = Awake::default();
        let every = u64::try_from(LOOK_EVERY.as_millis()).unwrap();
        (1..=100).for_each(|n| awake.look(ms(n * every)));
        assert_eq!(awake.at(ms(100 * every + 7)), ms(100 * every + 7));
    }

    #[test]
    fn a_sleep_of_its_own_counts_as_a_moment() {
        let mut awake = Awake::default();
        awake.look(ms(100));
        assert_eq!(awake.at(ms(3_600_000)), ms(500));
        awake.look(ms(3_600_000));
        assert_eq!(awake.at(ms(3_600_100)), ms(600));
    }

    #[test]
    fn threads_that_look_out_of_turn_do_not_turn_time_back() {
        let mut awake = Awake::default();
        awake.look(ms(100));
        awake.look(ms(90));
        assert_eq!(awake.at(ms(90)), ms(100));
        assert_eq!(awake.at(ms(110)), ms(110));
    }
}
