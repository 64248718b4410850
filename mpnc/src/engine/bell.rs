//! Wakes a loop from any thread. Knows nothing of why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes one worker's loop, at most once until the worker has taken notice.
pub(super) struct Bell {
    waker: mio::Waker,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new(waker: mio::Waker) -> Arc<Self> {
        Arc::new(Self { waker, rung: AtomicBool::new(false) })
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// To be called before looking for work, so that what comes after rings again.
    pub(super) fn take(&self) {
        self.rung.store(false, Ordering::Release);
    }
}
