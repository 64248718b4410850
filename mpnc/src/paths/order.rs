//! What the path manager wants done.

use super::{Failure, Finding, SlotId, Stamp};
use crate::transfer::StreamId;
use std::net::{IpAddr, SocketAddr};

/// Who may take data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every stream.
    All,
    /// None.
    Nobody,
    /// One alone, for so many bytes; afterwards none.
    Only(StreamId, u64),
}

/// See the module documentation.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Connect for this slot. Answered by Up or Failed, unless it is abandoned.
    Open {
        /// The slot.
        slot: SlotId,
        /// The address to bind to; `None`: the kernel's choice.
        source: Option<IpAddr>,
        /// The listener's address; `None`: the one that was given.
        target: Option<SocketAddr>,
        /// The port to bind to; `None`: the kernel's choice.
        port: Option<u16>,
    },
    /// Give up this slot's connection that is on its way.
    Abandon(SlotId),
    /// Let this stream finish what it has, then close it.
    Retire(StreamId),
    /// Close this stream now; what it carried is with others already.
    Close(StreamId),
    /// Keep the stream's hash as it is: where it was drawn by lot, the kernel would draw again after a timeout.
    Pin(StreamId),
    /// Who may take data from now on.
    Access(Access),
    /// Read the gauge.
    Read(Stamp),
    /// The stream leaves by the slave of this name, as far as that is known: for people.
    Name(StreamId, Option<String>),
    /// Worth saying.
    Say(Finding),
    /// There will be no session, or it cannot go on: for this reason.
    GiveUp(Failure),
}

/// Orders that wait to be taken.
#[derive(Debug, Default)]
pub(super) struct Orders(std::collections::VecDeque<Order>);

impl Orders {
    pub(super) fn push(&mut self, order: Order) {
        self.0.push_back(order);
    }

    pub(super) fn say(&mut self, finding: Finding) {
        self.push(Order::Say(finding));
    }

    pub(super) fn pop(&mut self) -> Option<Order> {
        self.0.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
