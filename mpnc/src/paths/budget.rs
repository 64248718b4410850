//! The bound on connections that are opened only to see, or because of a peer's word: whatever is measured and whatever
//! a peer says, there are no more a minute, but for one plan at the most. Knows times only.

use crate::transfer::Time;
use std::time::Duration;

/// At once, and then as many again spread over a minute: enough for eight tries for each of eight slaves at both ends.
pub(super) const A_MINUTE: u16 = 128;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Budget {
    /// Less than none after a word that took more than there was: what it took is missing afterwards.
    left: i32,
    /// Up to when what is left is counted.
    at: Time,
}

impl Budget {
    pub(super) fn new(now: Time) -> Self {
        Self { left: A_MINUTE.into(), at: now }
    }

    /// How many may be opened now.
    pub(super) fn left(&mut self, now: Time) -> u16 {
        let each = Duration::from_mins(1) / u32::from(A_MINUTE);
        let more = u16::try_from(now.since(self.at).as_micros() / each.as_micros()).unwrap_or(u16::MAX);
        self.left = (self.left + i32::from(more)).min(A_MINUTE.into());
        self.at = if self.left == i32::from(A_MINUTE) { self.at.max(now) } else { self.at + each * u32::from(more) };
        u16::try_from(self.left).unwrap_or(0)
    }

    /// So many are opened.
    pub(super) fn spend(&mut self, opens: u16) {
        self.left -= i32::from(opens);
    }

    /// When so many may be opened.
    pub(super) fn ready(&mut self, wanted: u16, now: Time) -> Time {
        let each = Duration::from_mins(1) / u32::from(A_MINUTE);
        self.left(now);
        let missing = u32::try_from(i32::from(wanted.min(A_MINUTE)) - self.left).unwrap_or(0);
        self.at + each * missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_gives_as_much_as_it_says_and_hoards_nothing() {
        let mut budget = Budget::new(Time::default());
        let mut opened = 0;
        for ms in 0..600_000 {
            let now = Time(Duration::from_millis(ms));
            opened += u32::from(budget.left(now));
            let all = budget.left(now);
            budget.spend(all);
        }
        assert!((10 * 128..=11 * 128).contains(&opened), "{opened}");
        assert_eq!(budget.left(Time(Duration::from_hours(9))), A_MINUTE);
    }

    #[test]
    fn what_is_taken_beyond_it_is_missing_afterwards() {
        let (mut budget, now) = (Budget::new(Time::default()), Time::default());
        budget.spend(2 * A_MINUTE);
        assert_eq!(budget.left(now + Duration::from_secs(59)), 0);
        let ready = budget.ready(1, now);
        assert!(ready > now + Duration::from_mins(1) && budget.left(ready) >= 1);
    }

    #[test]
    fn what_is_missing_is_there_when_it_says() {
        let (mut budget, now) = (Budget::new(Time::default()), Time(Duration::from_secs(5)));
        budget.left(now);
        budget.spend(A_MINUTE);
        let ready = budget.ready(3, now);
        assert!(ready > now && budget.left(ready) >= 3);
    }
}
