//! Other source ports, where those of the plan get no answer: a filter on the way may let answers in to the kernel's
//! own range alone.
//!
//! Must not know how streams are opened.

use super::finding::Unanswered;
use super::{Failure, Finding};
use crate::bond::PortPool;
use crate::transfer::Time;
use std::time::Duration;

/// Without an answer for this long, other ports are tried: the kernel has asked twice by then (its first repetition is
/// after a second).
const NO_ANSWER: Duration = Duration::from_secs(2);

/// The ports in reserve.
#[derive(Debug)]
pub(super) struct Spare {
    ports: PortPool,
    /// The ports that got no answer, once others are tried.
    tried: Option<String>,
    due: Time,
}

/// How long no stream may get an answer, of the time that a connection may take.
fn patience(limit: Duration) -> Duration {
    NO_ANSWER.min(limit / 2)
}

impl Spare {
    /// `limit` is how long a connection may take.
    pub(super) fn new(ports: PortPool, limit: Duration, now: Time) -> Self {
        Self { ports, tried: None, due: now + patience(limit) }
    }

    /// When others are to be tried if nothing has been answered by then.
    pub(super) fn due(&self) -> Option<Time> {
        self.tried.is_none().then_some(self.due)
    }

    /// Whether a filter that goes by the source port may be behind a failure.
    pub(super) fn may_be_filtered(failure: Failure) -> bool {
        matches!(failure, Failure::NoAnswer | Failure::NoRoute | Failure::Forbidden)
    }

    /// Whether some of these are ports that the kernel would not have chosen.
    fn differ(&self, mut planned: impl Iterator<Item = Option<u16>>) -> bool {
        planned.any(|port| port.is_some_and(|port| !self.ports.contains(port)))
    }

    /// Other ports to try in place of these, if the kernel would not have chosen them and nobody has asked for them.
    pub(super) fn instead(&self, pool: &PortPool, planned: impl Iterator<Item = Option<u16>>) -> Option<PortPool> {
        (self.differ(planned) && self.tried.is_none() && !pool.is_stated()).then(|| self.ports.clone())
    }

    /// What is to be said of a silence beside a closed port.
    pub(super) fn unanswered(&self, pool: &PortPool, planned: impl Iterator<Item = Option<u16>>) -> Option<Unanswered> {
        let ports = self.ports.clone();
        if let Some(tried) = self.tried.clone() {
            return Some(Unanswered::Both { tried, ports });
        }
        self.differ(planned).then(|| Unanswered::Planned { asked: pool.to_string(), ports })
    }

    /// They are being tried.
    pub(super) fn try_instead(&mut self, of: &PortPool) -> Finding {
        let tried = of.to_string();
        self.tried = Some(tried.clone());
        Finding::SparePorts { tried, ports: self.ports.clone() }
    }

    /// A stream is up: if it is so from other ports than planned, that is worth a word.
    pub(super) fn answered(&self) -> Option<Finding> {
        self.tried.clone().map(|tried| Finding::SpareAnswered { tried, ports: self.ports.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_timeout_leaves_time_for_the_second_try() {
        assert_eq!(patience(Duration::from_secs(10)), NO_ANSWER);
        assert_eq!(patience(Duration::from_secs(1)), Duration::from_millis(500));
    }

    #[test]
    fn a_closed_port_is_no_filters_work() {
        assert!(!Spare::may_be_filtered(Failure::PortClosed));
        assert!(Spare::may_be_filtered(Failure::NoAnswer));
    }

    #[test]
    fn only_ports_that_the_kernel_would_not_choose_are_left() {
        let spare = Spare::new(PortPool::of_kernel((32768, 60999), &[]), NO_ANSWER, Time::default());
        let pool = PortPool::of_system(1024, (32768, 60999), &[]);
        assert!(spare.instead(&pool, [None, Some(40_000)].into_iter()).is_none());
        assert!(spare.instead(&pool, [Some(40_000), Some(20_000)].into_iter()).is_some());
        let stated = PortPool::stated(20_000, 20_010).unwrap();
        assert!(spare.instead(&stated, [Some(20_000)].into_iter()).is_none());
    }
}
