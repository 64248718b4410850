//! Whether a signal is ignored: what `nohup`, and a shell that starts a job in the background, ask for.

use std::ffi::c_int;
use std::mem::MaybeUninit;

/// Whether this process ignores the signal.
#[expect(unsafe_code, reason = "sigaction has no safe form")]
pub fn is_ignored(signal: c_int) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action nothing changes, and the old one is written to a structure of its size (sigaction(2)).
    let status = unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: the structure holds only integers and an optional function; zeroes are valid for all of them.
    let now = unsafe { now.assume_init() };
    status == 0 && now.sa_sigaction == libc::SIG_IGN
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
