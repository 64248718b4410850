//! Everything that is known of a session at a moment, as plain values.

use super::Spent;
use std::time::Duration;

/// See the module documentation. All counters run from the start of the session.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Time since the session began.
    pub at: Duration,
    /// The direction that this side sends.
    pub sent: Option<Half>,
    /// The direction that this side receives.
    pub received: Option<Half>,
    /// Payload bytes sent more than once.
    pub resent: u64,
    /// Every stream there ever was, by number.
    pub streams: Vec<Stream>,
    /// The event loops of this side.
    pub loops: Vec<LoopTime>,
    /// All data is through, and a disk, here or there, is asked whether it has it.
    pub flushing: bool,
    /// Whether the session is over.
    pub ended: bool,
}

/// One direction.
#[derive(Debug, Clone, Default)]
pub struct Half {
    /// Bytes read from the input (sending), or received without a gap (receiving).
    pub taken: u64,
    /// Bytes that the receiving side has written.
    pub delivered: u64,
    /// Where the data ends, once that is known.
    pub total: Option<u64>,
    /// What the time went into.
    pub spent: Spent,
}

/// One stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Its number in the session.
    pub id: u32,
    /// The connector's port, as this side sees it.
    pub source_port: Option<u16>,
    /// Number of this side's event loop that has it.
    pub worker: Option<usize>,
    /// Name of the slave that it was planned for, where this side planned it.
    pub slave: Option<String>,
    /// Where this side sees its packets.
    pub seen_here: Option<Seen>,
    /// Where the peer sees them.
    pub seen_by_peer: Option<Seen>,
    /// Whether it is in use.
    pub up: bool,
    /// Payload bytes handed to it, repeats included.
    pub sent: u64,
    /// Payload bytes that arrived on it, repeats included.
    pub received: u64,
    /// What TCP says of it.
    pub tcp: Option<Tcp>,
}

/// What TCP says of a stream (`TCP_INFO`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The shortest that was seen: without queues.
    pub min_rtt: Duration,
    /// Segments sent again.
    pub retransmits: u32,
    /// Recent goodput as TCP measures it, bytes a second.
    pub delivery_rate: u64,
    /// Time with data to send.
    pub busy: Duration,
    /// Of that, held by the peer's receive window.
    pub window_limited: Duration,
    /// Of that, held by this side's send buffer.
    pub buffer_limited: Duration,
}

/// The slave on which one end sees the packets of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Interface index; 0 when unknown.
    pub ifindex: u32,
    /// Position in that bond's list; `None` when unknown.
    pub slave: Option<u16>,
    /// Number of usable slaves there; 0 without a bond.
    pub slaves: u16,
    /// How that end knows.
    pub by: crate::wire::Means,
}

/// How one event loop spent its time.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoopTime {
    /// Not asleep.
    pub awake: Duration,
    /// In all.
    pub all: Duration,
}

impl Snapshot {
    /// What has been added since `earlier`; states (rtt, totals, whether a stream is up) are those of `self`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut part = self.clone();
        part.at = self.at.saturating_sub(earlier.at);
        part.resent -= earlier.resent.min(part.resent);
        for (flow, before) in [(&mut part.sent, &earlier.sent), (&mut part.received, &earlier.received)] {
            if let (Some(flow), Some(before)) = (flow, before) {
                flow.taken -= before.taken.min(flow.taken);
                flow.delivered -= before.delivered.min(flow.delivered);
                flow.spent = flow.spent.since(&before.spent);
            }
        }
        for stream in &mut part.streams {
            if let Some(before) = earlier.streams.iter().find(|before| before.id == stream.id) {
                stream.subtract(before);
            }
        }
        for (time, before) in part.loops.iter_mut().zip(&earlier.loops) {
            time.awake = time.awake.saturating_sub(before.awake);
            time.all = time.all.saturating_sub(before.all);
        }
        part
    }

    /// The share of its time that the busiest event loop was awake, from 0 to 1.
    #[must_use]
    pub fn busiest_loop(&self) -> f64 {
        self.loops.iter().map(|time| share(time.awake, time.all)).fold(0.0, f64::max)
    }
}

impl Stream {
    fn subtract(&mut self, before: &Self) {
        self.sent -= before.sent.min(self.sent);
        self.received -= before.received.min(self.received);
        if let (Some(tcp), Some(before)) = (&mut self.tcp, &before.tcp) {
            tcp.retransmits = tcp.retransmits.saturating_sub(before.retransmits);
            tcp.busy = tcp.busy.saturating_sub(before.busy);
            tcp.window_limited = tcp.window_limited.saturating_sub(before.window_limited);
            tcp.buffer_limited = tcp.buffer_limited.saturating_sub(before.buffer_limited);
        }
    }
}

/// `part` of `whole`; 0 of nothing.
pub(super) fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}
