//! What a session knows of one of its streams: what it has been told, when it was heard, what it carried.

use super::Time;
use crate::wire::{Ack, BondFacts, Observation};
use std::time::Duration;

/// What the peer announced in its first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes that it can hold for reordering.
    pub window: u64,
    /// Largest payload of its Data frames, in bytes.
    pub block: u32,
    /// Its bond, if it knows one.
    pub bond: Option<BondFacts>,
}

/// Counters of one stream, for people and machines to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamStats {
    /// Payload bytes handed to the stream, repeats included.
    pub sent: u64,
    /// Payload bytes that arrived on it, repeats included.
    pub received: u64,
    /// What the peer sees of it.
    pub observed: Option<Observation>,
}

/// Frames that are sent once on every stream, as flags of what has been said already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Said {
    pub(super) end: bool,
    pub(super) done: bool,
    pub(super) bye: bool,
    pub(super) error: bool,
    pub(super) retire: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// When bytes last arrived on it.
    pub(super) heard: Time,
    /// When a frame was last handed to it.
    pub(super) spoke: Time,
    /// When its data last made progress towards the peer.
    pub(super) progress: Time,
    /// Data frames received on it and checked.
    pub(super) frames: u64,
    /// The last acknowledgement sent on it, and when.
    pub(super) acked: Ack,
    pub(super) acked_at: Time,
    pub(super) said: Said,
    /// Token of a ping to be answered.
    pub(super) pong: Option<u64>,
    /// What this side sees of it, to be told.
    pub(super) observation: Option<Observation>,
    /// How many times this side's bond was told on it.
    pub(super) bonds_told: u64,
    /// No more data on it, from either side.
    pub(super) retiring: bool,
    /// The peer has asked for that.
    pub(super) peer_retires: bool,
    pub(super) suspended: bool,
    pub(super) stats: StreamStats,
}

impl Stream {
    pub(super) fn new(now: Time) -> Self {
        Self {
            heard: now,
            spoke: now,
            progress: now,
            frames: 0,
            acked: Ack::default(),
            acked_at: now,
            said: Said::default(),
            pong: None,
            observation: None,
            bonds_told: 0,
            retiring: false,
            peer_retires: false,
            suspended: false,
            stats: StreamStats::default(),
        }
    }

    /// When the next acknowledgement is due on this stream, given what could be said now. At once when a block has
    /// arrived on it or much has changed; within `delay` when anything has; never when nothing has.
    pub(super) fn ack_due(&self, ack: &Ack, window: u64, delay: Duration) -> Option<Time> {
        if self.frames != self.acked.frames || ack.credit - self.acked.credit >= window / 8 {
            return Some(self.acked_at);
        }
        (ack.delivered != self.acked.delivered || ack.received != self.acked.received).then(|| self.acked_at + delay)
    }
}
