//! Signals: whether one is ignored (what `nohup`, and a shell that starts a job in the background, ask for), and one
//! kept from a thread.
//!
//! Must not know what they are for.

use std::ffi::c_int;
use std::mem::MaybeUninit;

/// Whether this process ignores the signal.
#[expect(unsafe_code, reason = "sigaction has no safe form")]
pub fn is_ignored(signal: c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action nothing changes, and the old one is written to a structure of its size
    // (sigaction(2)).
    let status = unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: the structure holds only integers and an optional function; zeroes are valid for all of them.
    let now = unsafe { now.assume_init() };
    status == 0 && now.sa_sigaction == libc::SIG_IGN
}

/// Keeps the signal from this thread, and from those that it starts. What the kernel does instead of a signal that is
/// blocked then happens: a write to a terminal from the background goes through.
#[expect(unsafe_code, reason = "pthread_sigmask has no safe form")]
pub fn block(signal: c_int) {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset makes a set of what it is given; the calls after it get that set and no other memory
    // (sigsetops(3)). They fail only for a number that is no signal, and then leave the mask as it was.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_run_time_ignores_is_seen() {
        // Rust ignores SIGPIPE before main, and leaves SIGTERM alone.
        assert!(is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGTERM));
    }
}
