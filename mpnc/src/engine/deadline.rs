//! How long each phase of a connection may last: what `-w` means before and after a session, in one place. (Within one
//! it is `transfer::session::patience`, with the same meaning: so long without a sign of life.)
//!
//! | phase | may last |
//! |---|---|
//! | a listener's wait for its first connection | for ever, as with nc |
//! | the TCP handshake | `-w`; the kernel gives up by itself after some two minutes (net.ipv4.tcp_syn_retries) |
//! | the other side's greeting, on both sides | `-w` in all, however it dribbles |
//! | both, for a further stream of a session | [`ATTEMPT`] at most: then it is tried anew, from another port |
//! | the session | until nothing has been heard for `-w` |
//! | the last words after it, and the other side's closing | [`LINGER`] without movement, [`LONGEST_FAREWELL`] in all |
//!
//! Must not know sockets, and not what becomes of a connection that is late.

use super::conn::Phase;
use crate::transfer::Time;
use std::time::Duration;

/// A handshake that began in an outage is repeated ever more rarely; a new one finds out sooner that the outage is
/// over.
const ATTEMPT: Duration = Duration::from_secs(10);
/// After its end a session waits this long for its streams to flush the last words.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// A peer that takes the last words ever so slowly is not waited for beyond this.
const LONGEST_FAREWELL: Duration = Duration::from_secs(10);

/// How long a connection may take to become a stream, with or without a session to join.
pub(super) fn of_attempts(timeout: Duration, in_session: bool) -> Duration {
    if in_session { timeout.min(ATTEMPT) } else { timeout }
}

/// Whether a connection is late that has been in its phase since `since` and last moved bytes at `moved`.
pub(super) fn is_late(phase: Phase, since: Time, moved: Time, now: Time, attempt: Duration) -> bool {
    match phase {
        Phase::Connecting | Phase::Greeting | Phase::Admitting => now.since(since) >= attempt,
        Phase::Open => false,
        Phase::Parting | Phase::Closing => {
            now.since(since.max(moved)) >= LINGER || now.since(since) >= LONGEST_FAREWELL
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a connection in this phase is late that last moved bytes after `moved` seconds, if ever.
    fn late_after(phase: Phase, moved: u64, timeout: u64) -> Option<u64> {
        let at = |secs| Time(Duration::from_secs(secs));
        let attempt = of_attempts(Duration::from_secs(timeout), false);
        (0..100_000).find(|now| is_late(phase, at(0), at(moved.min(*now)), at(*now), attempt))
    }

    #[test]
    fn before_a_session_patience_is_what_was_asked_for() {
        for phase in [Phase::Connecting, Phase::Greeting] {
            assert_eq!([1, 25, 86_400].map(|timeout| late_after(phase, 0, timeout)), [Some(1), Some(25), Some(86_400)]);
            assert_eq!(late_after(phase, 20, 25), Some(25), "dribbling is no greeting");
        }
    }

    #[test]
    fn a_further_stream_is_tried_anew_before_the_session_loses_patience() {
        let attempts = [3, 25, 86_400].map(|secs| of_attempts(Duration::from_secs(secs), true).as_secs());
        assert_eq!(attempts, [3, 10, 10]);
    }

    #[test]
    fn a_session_has_a_patience_of_its_own() {
        assert_eq!(late_after(Phase::Open, 0, 1), None);
    }

    #[test]
    fn after_a_session_only_movement_is_waited_for_and_not_for_ever() {
        for phase in [Phase::Parting, Phase::Closing] {
            assert_eq!([0, 3, 100].map(|moved| late_after(phase, moved, 86_400)), [Some(2), Some(5), Some(10)]);
        }
    }
}
