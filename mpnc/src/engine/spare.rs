//! Other source ports, where those of the plan get no answer: a filter on the way may let answers in to the kernel's own range alone.
//!
//! Must not know how streams are opened; that is `connect`'s.

use super::connect::{Connector, Lane};
use super::conns::Conns;
use crate::bond::PortPool;
use crate::error::Error;
use std::io;
use std::time::{Duration, Instant};

/// Without an answer for this long, other ports are tried: the kernel has asked twice by then (its first repetition is after a second).
const NO_ANSWER: Duration = Duration::from_secs(2);

/// The ports in reserve.
pub(super) struct Spare {
    ports: PortPool,
    /// The ports that got no answer.
    tried: Option<String>,
    begun: Instant,
    /// What the first ports got in place of an answer.
    refused: bool,
}

/// How long no stream may get an answer, of the time that a connection may take.
fn patience(limit: Duration) -> Duration {
    NO_ANSWER.min(limit / 2)
}

/// Errors that a filter which goes by the source port may be behind.
fn is_filters(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::PermissionDenied
    )
}

impl Spare {
    pub(super) fn new(ports: PortPool) -> Self {
        Self { ports, tried: None, begun: Instant::now(), refused: false }
    }

    /// Whether `planned` are ports that the kernel would not have chosen.
    fn differs(&self, planned: &[Lane]) -> bool {
        let foreign = |lane: &Lane| lane.planned.port.is_some_and(|port| !self.ports.contains(port));
        planned.iter().any(foreign)
    }
}

impl Connector {
    /// Whether there are other ports to try, and nobody has asked for these.
    fn has_spare(&self) -> bool {
        self.hub().is_none()
            && self.spare.tried.is_none()
            && !self.planner.pool().is_stated()
            && self.spare.differs(&self.lanes)
    }

    /// All streams have failed: whether other ports may do better. They are tried at the loop's next turn.
    pub(super) fn asks_for_spare(&mut self, error: &io::Error) -> bool {
        self.spare.refused = self.has_spare() && is_filters(error);
        self.spare.refused
    }

    pub(super) fn is_spare_due(&self) -> bool {
        self.spare.refused
    }

    /// Goes over to the kernel's own range when the planned ports have waited in vain; `limit` is how long a connection may take.
    pub(super) fn try_spare(&mut self, limit: Duration, conns: &mut Conns) -> Result<(), Error> {
        let waited = self.spare.begun.elapsed() >= patience(limit) && self.is_unanswered(conns);
        if !(std::mem::take(&mut self.spare.refused) || waited) || !self.has_spare() {
            return Ok(());
        }
        let planned = self.planner.pool().clone();
        let tried = planned.to_string();
        log::info!("no answer to source ports {tried}: trying the kernel's own range, {}", self.spare.ports);
        self.spare.tried = Some(tried);
        self.planner.set_pool(self.spare.ports.clone());
        let streams = u16::try_from(self.lanes.len()).unwrap_or(u16::MAX);
        let Ok(plan) = self.planner.plan(streams, &[]) else {
            // Too few of them: those that were planned may still be answered.
            self.planner.set_pool(planned);
            return Ok(());
        };
        self.lanes.iter_mut().for_each(|lane| lane.give_up_attempt(conns));
        self.lanes = plan.into_iter().map(Lane::new).collect();
        self.begin(conns)
    }

    /// The first stream is up: if it is so from other ports than planned, that is worth a word.
    pub(super) fn tell_spare(&self) {
        if let Some(tried) = &self.spare.tried {
            log::warn!(
                "no answer to source ports {tried}, but to {}: if that is so each time, a filter on the way drops answers to the others, \
                 and `-p {}` goes there at once",
                self.spare.ports,
                self.spare.ports.widest()
            );
        }
    }

    /// What may be behind a silence beside a closed port, for people.
    pub(super) fn silent_ports(&self) -> Option<String> {
        let ports = &self.spare.ports;
        if let Some(tried) = &self.spare.tried {
            return Some(format!("neither source ports {tried} nor the kernel's own range {ports} got an answer"));
        }
        self.spare.differs(&self.lanes).then(|| {
            let asked = self.planner.pool();
            format!("source ports {asked} got no answer; if a filter lets in answers to the kernel's own range alone, `-p {}` gets through", ports.widest())
        })
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
        assert!(!is_filters(&io::ErrorKind::ConnectionRefused.into()));
        assert!(is_filters(&io::ErrorKind::TimedOut.into()));
    }

    #[test]
    fn only_ports_that_the_kernel_would_not_choose_are_left() {
        let spare = Spare::new(PortPool::of_kernel((32768, 60999), &[]));
        let lane = |port| Lane::new(crate::bond::Planned { lane: 0, port, slave: None });
        assert!(!spare.differs(&[lane(None), lane(Some(40_000))]));
        assert!(spare.differs(&[lane(Some(40_000)), lane(Some(20_000))]));
    }
}
