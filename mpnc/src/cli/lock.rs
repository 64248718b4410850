//! Locks whose holder may have panicked: the process ends with a panic anyway, and until then others go on.
//!
//! Must not know what is locked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
