//! That a kernel program is not there after all, or no longer, and what is to be done once that is known.
//!
//! Must not know which program, nor why.

use std::fmt;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module documentation. It comes once, and for good.
#[derive(Default)]
pub struct Loss(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    Possible,
    /// So is it, and this is to be done when it comes.
    Prepared(Box<dyn FnOnce() + Send>),
    Come,
    /// It will not come any more.
    RuledOut,
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loss").field(&self.has_come()).finish()
    }
}

impl Loss {
    /// It has come: what is to be done then is done now, by this thread.
    pub fn come(&self) {
        let before = mem::replace(&mut *self.lock(), State::Come);
        if let State::Prepared(then) = before {
            then();
        }
    }

    /// It will not come any more. What was to be done then is let go of, with all that it holds.
    pub fn rule_out(&self) {
        let before = mem::replace(&mut *self.lock(), State::RuledOut);
        drop(before);
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        matches!(*self.lock(), State::Come)
    }

    /// What to do when it comes; at once, if it has.
    pub fn then(&self, then: impl FnOnce() + Send + 'static) {
        let mut state = self.lock();
        match *state {
            State::Possible | State::Prepared(_) => *state = State::Prepared(Box::new(then)),
            State::RuledOut => {}
            State::Come => {
                drop(state);
                then();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn what_is_to_be_done_is_done_once_whether_it_is_said_before_or_after() {
        let done = Arc::new(AtomicU32::new(0));
        let count = || {
            let done = Arc::clone(&done);
            move || {
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        let loss = Loss::default();
        loss.then(count());
        assert!(!loss.has_come() && done.load(Ordering::Relaxed) == 0);
        loss.come();
        loss.come();
        assert!(loss.has_come() && done.load(Ordering::Relaxed) == 1);
        loss.then(count());
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_ruled_out_keeps_nothing_alive() {
        let held = Arc::new(());
        let hold = || {
            let held = Arc::clone(&held);
            move || drop(held)
        };
        let loss = Loss::default();
        loss.then(hold());
        loss.rule_out();
        loss.then(hold());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
