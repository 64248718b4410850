//! Wakes a thread that is blocked in a call to the system, by a signal that does nothing.
//!
//! A blocked read(2), write(2), open(2) or poll(2) of that thread returns: with EINTR, or with what it has done so far.
//! A signal that comes just before the call is lost, so whoever wants the thread to stop sends it again and again until
//! the thread is seen to have stopped. Must not know why.
#![expect(unsafe_code, reason = "sigaction and pthread_kill have no safe form")]

use std::io;
use std::os::unix::thread::{JoinHandleExt, RawPthread};
use std::sync::Once;
use std::thread::JoinHandle;

/// Ignored by default (signal(7)), and nothing else of mpnc's uses it: a stray one does no harm.
const SIGNAL: libc::c_int = libc::SIGURG;

extern "C" fn nothing(_: libc::c_int) {}

/// Makes the signal interrupt a call instead of being ignored. Whatever the process runs later starts with it ignored
/// again (execve(2)).
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: zeroes are a valid sigaction: no flags, so no SA_RESTART, and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // SAFETY: the action is whole, its handler does nothing and so is safe in any state; the old action is not
        // asked for.
        let status = unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
        if status != 0 {
            log::debug!("cannot catch signal {SIGNAL}: {}", io::Error::last_os_error());
        }
    });
}

/// Interrupts what the thread does in the kernel now, if anything.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    install();
    let id: RawPthread = thread.as_pthread_t();
    // SAFETY: the thread has not been joined, as its handle is here, so its id is valid even if it has ended
    // (pthread_kill(3)).
    unsafe { libc::pthread_kill(id, SIGNAL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn a_blocked_read_returns() {
        let (mut reader, writer) = io::pipe().unwrap();
        let blocked = std::thread::spawn(move || reader.read(&mut [0]).map_err(|error| error.kind()));
        while !blocked.is_finished() {
            interrupt(&blocked);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(blocked.join().unwrap(), Err(io::ErrorKind::Interrupted));
        drop(writer);
    }
}
