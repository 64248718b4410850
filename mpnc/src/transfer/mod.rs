//! The transfer itself, without any I/O: what to send next on which stream, what has arrived, what may be written, when
//! it is over.
//!
//! Pure: time, frames and events come in; frames, extents and events go out. It must not know sockets, clocks, files or
//! threads, and never touches payload: it deals in [`Extent`]s, the shell owns the bytes. That makes whole transfers
//! simulable (`sim`).
//!
//! ```text
//! input --> Sender --extents--> [stream 0..n] --extents--> Receiver --in order--> output
//!              ^----------------- Ack, Done --------------------'
//! ```
//!
//! A [`Session`] owns the streams and at most one [`Sender`] and one [`Receiver`]; it is the same type on both sides.

mod awake;
mod hole;
mod pace;
mod receiver;
mod sender;
mod session;
#[cfg(test)]
pub(crate) mod sim;
mod stream;

pub use crate::wire::StreamId;
pub use awake::{Awake, LOOK_EVERY};
pub use hole::{Flight, Holes, Passage};
pub use receiver::{Arrival, Output, Receiver};
pub use sender::Sender;
pub use session::{Config, End, Event, REMEMBERED, Session, Transmit};
pub use stream::{StreamStats, Terms};

use std::ops::Add;
use std::time::Duration;

/// A moment, as the time since the shell started. The core never asks for it; every call that needs it is given it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(pub Duration);

impl Time {
    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// A run of bytes of the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte, counted from the start of the transfer.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
}

impl Extent {
    /// The offset just after the last byte; `None` where it would not fit 64 bits.
    #[must_use]
    pub fn end(self) -> Option<u64> {
        self.offset.checked_add(u64::from(self.len))
    }
}

/// What is under way, while not every stream may take data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Whether no stream has anything under way.
    pub idle: bool,
    /// Whether something waits to be sent.
    pub backlog: bool,
    /// Bytes that the one stream with access may still take; `None` if there is none, or it can take no more.
    pub left: Option<u64>,
}

/// How a peer broke the protocol. The session ends, because its bookkeeping can no longer be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Data outside of the credit, or beyond the announced end.
    #[error("the peer sent data outside of the window ({len} bytes at offset {offset}, limit {limit})")]
    OutsideWindow {
        /// Offset of the data, in bytes.
        offset: u64,
        /// Its length, in bytes.
        len: u32,
        /// First offset that was not allowed.
        limit: u64,
    },
    /// Data that overlaps other data without being the same block.
    #[error("the peer sent overlapping blocks at offset {0}")]
    Overlap(u64),
    /// More separate blocks than the window may hold.
    #[error("the peer filled the window with too many small blocks")]
    TooManyBlocks,
    /// More copies of blocks under way at the same time than there is memory for. It costs the stream, not the session.
    #[error("the peer sends more copies of its blocks than there is memory for")]
    TooManyCopies,
    /// An acknowledgement of something that was never sent.
    #[error("the peer acknowledged data that was never sent")]
    FalseAck,
    /// Two different ends, or an end before data already received.
    #[error("the peer changed its mind about the end of the data (offset {0})")]
    FalseEnd(u64),
    /// A frame that has no place in this direction or at this time.
    #[error("the peer sent a frame that does not belong here ({0})")]
    Unexpected(&'static str),
}

/// Most blocks, from sent to written, that may lie in a window of this many bytes: the sender keeps to it, the receiver
/// enforces it. A block costs bookkeeping beside its bytes, so a window full of tiny ones must not cost more than a
/// window full of bytes.
#[must_use]
pub fn max_blocks(window: u64) -> usize {
    usize::try_from(window / u64::from(*crate::wire::BLOCK_RANGE.start())).unwrap_or(usize::MAX).max(16)
}
