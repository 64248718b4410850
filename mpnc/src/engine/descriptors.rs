//! How many descriptors connections may take, so that a session's ends, and whoever looks at the system, find theirs.
//! Must not know connections.

use crate::sys::descriptors::are_free;
use rustix::process::{Resource, getrlimit};

/// Connections that have not greeted, in all loops; the oldest makes room for the next.
const MOST_STRANGERS: u64 = 128;
/// Kept free for others: a command with its two pipes and its watch takes seven, a look at the bond two.
const MOST_RESERVED: u64 = 12;

/// See the module documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// RLIMIT_NOFILE.
    pub(super) limit: u64,
    /// Connections of one loop that may be there without having greeted.
    pub(super) strangers: usize,
    /// To be left free when a connection is taken.
    reserved: usize,
}

impl Descriptors {
    /// For each of so many loops of this process.
    pub(super) fn of_process(workers: usize) -> Self {
        Self::within(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), workers)
    }

    /// A quarter for strangers, nearly an eighth in reserve: with 16 in all, of which this process has 12 for itself,
    /// there is still a session.
    fn within(limit: u64, workers: usize) -> Self {
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let strangers = count((limit / 4).clamp(1, MOST_STRANGERS)).div_ceil(workers.max(1));
        Self { limit, strangers, reserved: count((limit / 8).saturating_sub(1).clamp(1, MOST_RESERVED)) }
    }

    /// Whether a connection can be taken without going into the reserve.
    pub(super) fn are_left(&self) -> bool {
        are_free(self.reserved + 1, self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_never_have_more_than_a_quarter_and_others_find_some() {
        let shares = |limit, workers| {
            let all = Descriptors::within(limit, workers);
            (all.strangers * workers, all.reserved)
        };
        assert_eq!(shares(16, 1), (4, 1));
        assert_eq!(shares(64, 1), (16, 7));
        assert_eq!(shares(64, 4), (16, 7));
        assert_eq!(shares(1024, 1), (128, 12));
        assert_eq!(shares(u64::MAX, 4), (128, 12));
    }
}
