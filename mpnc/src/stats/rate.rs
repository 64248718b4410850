//! A rate that is steady enough to be read and quick enough to be true. It is told the time; it has no clock.

use std::time::Duration;

/// After this long a change of pace shows by 63 %.
const SMOOTHING: Duration = Duration::from_secs(3);

/// An exponentially weighted average of the rate at which a counter grows.
#[derive(Debug, Clone, Default)]
pub struct Rate {
    /// Time and count of the last update.
    last: (Duration, u64),
    sum: f64,
    /// Sum of the weights: less than 1 in the beginning, when there is little to average.
    weight: f64,
}

impl Rate {
    /// The counter has reached `count` at `now` (time and count begin at zero). Answers the rate, in counts a second.
    pub fn update(&mut self, now: Duration, count: u64) -> f64 {
        let span = now.saturating_sub(self.last.0);
        if !span.is_zero() {
            let sample = average(count.saturating_sub(self.last.1), span);
            let keep = (-span.as_secs_f64() / SMOOTHING.as_secs_f64()).exp();
            self.sum = self.sum * keep + sample * (1.0 - keep);
            self.weight = self.weight * keep + (1.0 - keep);
            self.last = (now, count);
        }
        self.get()
    }

    /// The rate at the last update, in counts a second.
    #[must_use]
    pub fn get(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { 0.0 }
    }
}

/// `count` over `span`, in counts a second; zero over no time.
#[must_use]
pub fn average(count: u64, span: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than three digits")]
    let count = count as f64;
    if span.is_zero() { 0.0 } else { count / span.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a pace of `per_tick` every 100 ms, from `from` on; answers the last rate.
    fn run(rate: &mut Rate, from: u64, ticks: u64, start: u64, per_tick: u64) -> f64 {
        (1..=ticks).fold(0.0, |_, n| rate.update(Duration::from_millis((from + n) * 100), start + n * per_tick))
    }

    #[test]
    fn a_steady_pace_is_shown_from_the_first_moment() {
        let mut rate = Rate::default();
        assert!((run(&mut rate, 0, 1, 0, 500) - 5000.0).abs() < 1.0);
        assert!((run(&mut rate, 1, 50, 500, 500) - 5000.0).abs() < 1.0);
    }

    #[test]
    fn a_change_shows_within_seconds_and_a_hiccup_does_not() {
        let mut rate = Rate::default();
        run(&mut rate, 0, 100, 0, 100);
        let hiccup = run(&mut rate, 100, 2, 10_000, 0);
        assert!(hiccup > 900.0, "{hiccup}");
        let stopped = run(&mut rate, 102, 100, 10_000, 0);
        assert!(stopped < 50.0, "{stopped}");
    }

    #[test]
    fn updates_without_time_between_change_nothing() {
        let mut rate = Rate::default();
        assert!(rate.update(Duration::ZERO, 100).abs() < f64::EPSILON);
        let before = rate.update(Duration::from_secs(1), 100);
        assert!((rate.update(Duration::from_secs(1), 500) - before).abs() < f64::EPSILON);
    }
}
