//! What is measured now: one thing at a time, so that two searches are never on at once, and nothing stays paused when none is.

use super::audit::Audit;
use super::evening::Evening;
use super::order::{Order, Orders};
use super::surveying::Surveying;
use super::{Access, Epoch, Stamp};

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

/// Gives out looks at the gauge, each with a stamp of its own.
pub(super) struct Looks<'a> {
    epoch: Epoch,
    number: &'a mut u32,
    out: &'a mut Orders,
}

impl<'a> Looks<'a> {
    pub(super) fn new(epoch: Epoch, number: &'a mut u32, out: &'a mut Orders) -> Self {
        Self { epoch, number, out }
    }

    /// Has the gauge read.
    pub(super) fn look(&mut self) -> Stamp {
        *self.number = self.number.wrapping_add(1);
        let stamp = Stamp { epoch: self.epoch, number: *self.number };
        self.out.push(Order::Read(stamp));
        stamp
    }

    pub(super) fn out(&mut self) -> &mut Orders {
        self.out
    }
}
