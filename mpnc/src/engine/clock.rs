//! The clock of everything that waits for another host: it counts the time in which this process runs ([`Awake`]
//! decides what that is).
//!
//! One for the process, because it is the process that is stopped. Must not know who waits, or for what.

use crate::transfer::{Awake, Time};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

static CLOCK: LazyLock<(Instant, Mutex<Awake>)> = LazyLock::new(|| (Instant::now(), Mutex::default()));

/// The time that counts, since the first call.
pub(super) fn now() -> Time {
    let (start, awake) = &*CLOCK;
    awake.lock().unwrap_or_else(PoisonError::into_inner).at(Time(start.elapsed()))
}

/// To be called by every loop, whenever it wakes. Answers the time that counts.
pub(super) fn look() -> Time {
    let (start, awake) = &*CLOCK;
    let mut awake = awake.lock().unwrap_or_else(PoisonError::into_inner);
    let real = Time(start.elapsed());
    awake.look(real);
    awake.at(real)
}
