//! What is measured now: one thing at a time, so that two searches are never on at once, and nothing stays paused when
//! none is.

use super::Access;
use super::audit::Audit;
use super::evening::Evening;
use super::surveying::Surveying;

/// See the module documentation.
#[derive(Debug)]
pub(super) enum Search {
    /// The plan is computed: it is held against what is seen, and the arrivals are evened.
    Computed { audit: Audit, evening: Evening },
    /// Each stream is being seen on its slave.
    Surveying(Box<Surveying>),
    /// Each has been.
    Surveyed(Box<Surveying>),
    /// That cannot be.
    Blind,
}

impl Search {
    /// A plan was computed.
    pub(super) fn computed() -> Self {
        Self::Computed { audit: Audit::default(), evening: Evening::default() }
    }

    /// Who may take data: everybody, unless a survey is under way.
    pub(super) fn access(&self) -> Access {
        if let Self::Surveying(surveying) = self { surveying.access() } else { Access::All }
    }

    /// Whether slots are there only to be looked at.
    pub(super) fn is_surveying(&self) -> bool {
        matches!(self, Self::Surveying(_))
    }
}
