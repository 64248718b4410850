//! Looks at the gauge: each is asked for with a stamp of its own, and answered by that. Knows nothing of what is seen.

use super::order::{Order, Orders};
use super::{Epoch, Stamp};

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
