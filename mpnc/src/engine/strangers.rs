//! Lines about those who were not let in: one a second at most, whatever their number and kind, with a count of those
//! not told of.
//!
//! A port scan, a monitor, a peer that is refused again and again must not flood the terminal or the journal. Must not
//! know what they did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines.
const SPAN: Duration = Duration::from_secs(1);

/// How much of what happens is told of. Time is handed in, since any moment.
#[derive(Debug, Default)]
struct Seldom {
    told: Option<Duration>,
    /// What happened since, and was not told of.
    untold: u64,
}

impl Seldom {
    /// Something has happened: if it may be told of, how much was not since the last time.
    fn happen(&mut self, now: Duration) -> Option<u64> {
        if self.told.is_some_and(|told| now < told.saturating_add(SPAN)) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    /// When there is something to be told of although nothing more may happen.
    fn due(&self) -> Option<Duration> {
        self.told.filter(|_| self.untold > 0).map(|told| told.saturating_add(SPAN))
    }

    /// What is to be told of now, if it is due.
    fn settle(&mut self, now: Duration) -> Option<u64> {
        self.due().filter(|due| *due <= now)?;
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Those of all workers of a listener.
pub(super) struct Strangers {
    start: Instant,
    seldom: Mutex<Seldom>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self { start: Instant::now(), seldom: Mutex::default() }
    }
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, Seldom> {
        self.seldom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line about one of them.
    pub(super) fn tell(&self, line: &str) {
        let untold = self.lock().happen(self.start.elapsed());
        match untold {
            None => log::debug!("{line}"),
            Some(0) => log::warn!("{line}"),
            Some(untold) => log::warn!("{line}; before it {untold} more that nobody was told of"),
        }
    }

    /// Tells of those that nobody was told of, a second later or, with `all`, at once.
    pub(super) fn settle(&self, all: bool) {
        let now = if all { Duration::MAX } else { self.start.elapsed() };
        if let Some(untold) = self.lock().settle(now) {
            log::warn!("{untold} more connections were turned away or failed (-vv tells of each)");
        }
    }

    /// How long until [`Strangers::settle`] has something to say.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        self.lock().due().map(|due| due.saturating_sub(self.start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_told_of_and_the_others_are_counted() {
        let mut seldom = Seldom::default();
        let at = Duration::from_millis;
        let told: Vec<u64> = (0..=2500).filter_map(|ms| seldom.happen(at(ms))).collect();
        assert_eq!(told, [0, 999, 999]);
        assert_eq!(seldom.due(), Some(at(3000)));
        assert_eq!(seldom.settle(at(2999)), None);
        assert_eq!(seldom.settle(at(3000)), Some(500));
        // That was a line too.
        assert_eq!((seldom.due(), seldom.happen(at(3500)), seldom.happen(at(4000))), (None, None, Some(1)));
        assert_eq!((seldom.due(), seldom.settle(Duration::MAX)), (None, None));
    }
}
