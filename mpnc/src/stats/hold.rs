//! What a direction waits for at a moment, and how long it has waited for each thing.

use std::collections::BTreeMap;
use std::time::Duration;

/// What keeps a direction from going faster at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Hold {
    /// Nothing to be said: no stream is up, or it is over.
    #[default]
    Nothing,
    /// All that was read is handed out, and there is room for more.
    Input,
    /// The receiver holds the data and has yet to write it.
    Output,
    /// The window is full of blocks that are under way.
    Window,
    /// There are blocks to be sent, and every stream's socket is full.
    Links,
    /// The stated rate.
    Rate,
    /// On the receiving side: what comes in is written at once.
    Arrival,
}

/// Number of kinds of [`Hold`].
const KINDS: usize = 7;

/// Time by what was waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spent {
    by_hold: [Duration; KINDS],
    /// Of [`Hold::Window`]: by the number of the stream that carried the oldest block.
    gated: BTreeMap<u32, Duration>,
}

impl Spent {
    /// Time spent waiting for this.
    #[must_use]
    pub fn on(&self, hold: Hold) -> Duration {
        self.by_hold[hold as usize]
    }

    /// Time in which something can be said at all.
    #[must_use]
    pub fn known(&self) -> Duration {
        self.by_hold.iter().skip(1).sum()
    }

    /// What was waited for longest; `None` if nothing is known.
    #[must_use]
    pub fn dominant(&self) -> Option<Hold> {
        const ALL: [Hold; KINDS - 1] =
            [Hold::Input, Hold::Output, Hold::Window, Hold::Links, Hold::Rate, Hold::Arrival];
        ALL.into_iter().max_by_key(|hold| self.on(*hold)).filter(|hold| !self.on(*hold).is_zero())
    }

    /// How long the oldest block of a full window was on each stream.
    pub fn gated(&self) -> impl Iterator<Item = (u32, Duration)> {
        self.gated.iter().map(|(stream, span)| (*stream, *span))
    }

    /// What has been added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut spent = self.clone();
        for (span, before) in spent.by_hold.iter_mut().zip(earlier.by_hold) {
            *span = span.saturating_sub(before);
        }
        for (stream, span) in &mut spent.gated {
            *span = span.saturating_sub(earlier.gated.get(stream).copied().unwrap_or_default());
        }
        spent
    }

    fn add(&mut self, hold: Hold, gate: Option<u32>, span: Duration) {
        self.by_hold[hold as usize] += span;
        if let Some(stream) = gate {
            *self.gated.entry(stream).or_default() += span;
        }
    }
}

/// Keeps the time of one direction: told of every change, it adds up.
#[derive(Debug, Clone, Default)]
pub struct Account {
    spent: Spent,
    hold: Hold,
    gate: Option<u32>,
    since: Duration,
}

impl Account {
    /// From `now` on it is this that is waited for; `gate` is the stream with the oldest block of a full window.
    pub fn enter(&mut self, hold: Hold, gate: Option<u32>, now: Duration) {
        self.spent.add(self.hold, self.gate, now.saturating_sub(self.since));
        (self.hold, self.gate, self.since) = (hold, gate, now.max(self.since));
    }

    /// The times up to `now`.
    #[must_use]
    pub fn spent(&self, now: Duration) -> Spent {
        let mut spent = self.spent.clone();
        spent.add(self.hold, self.gate, now.saturating_sub(self.since));
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_moment_is_counted_once() {
        let mut account = Account::default();
        account.enter(Hold::Input, None, ms(10));
        account.enter(Hold::Window, Some(3), ms(30));
        account.enter(Hold::Input, None, ms(35));
        let spent = account.spent(ms(100));
        assert_eq!((spent.on(Hold::Input), spent.on(Hold::Window)), (ms(85), ms(5)));
        assert_eq!((spent.known(), spent.dominant()), (ms(90), Some(Hold::Input)));
        assert_eq!(spent.gated().collect::<Vec<_>>(), [(3, ms(5))]);
    }

    #[test]
    fn a_part_of_the_time_can_be_looked_at_alone() {
        let mut account = Account::default();
        account.enter(Hold::Links, None, ms(0));
        let before = account.spent(ms(100));
        account.enter(Hold::Output, None, ms(100));
        let part = account.spent(ms(120)).since(&before);
        assert_eq!((part.known(), part.dominant()), (ms(20), Some(Hold::Output)));
    }

    #[test]
    fn nothing_known_has_no_dominant_part() {
        assert_eq!(Account::default().spent(ms(100)).dominant(), None);
    }
}
