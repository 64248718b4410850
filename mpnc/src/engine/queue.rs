//! From the session to the thread that writes its output.
//!
//! Must not know how it writes.

use super::buffers::Buffer;
use std::sync::mpsc::{self, Receiver, Sender};

/// For the writer thread.
pub(super) enum ToWrite {
    /// The block at this offset and its CRC-32. It directly follows the one before, unless the session is for an output
    /// that takes blocks in any order ([`crate::transfer::Config::any_order`]): then several may write what comes from
    /// the queue.
    Block(u64, Buffer, u32),
    /// Nothing follows; the CRC-32 of everything, as the sender has it.
    Finish(u32),
}

/// What the writer thread starts with: its end of the queue.
pub(super) struct WriterQueue(pub(super) Receiver<ToWrite>);

/// The queue to a writer thread. Its length is bounded by the session's window.
pub(super) fn writer_queue() -> (Sender<ToWrite>, WriterQueue) {
    let (sender, receiver) = mpsc::channel();
    (sender, WriterQueue(receiver))
}
