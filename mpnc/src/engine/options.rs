//! What a transfer is told from outside, and how its sockets are set.

use super::caller::Caller;
use super::hub::Hub;
use crate::bond::unsent;
use crate::observe::arrivals::Sight;
use crate::place::Placer;
use crate::sys::pacing;
use crate::wire::{Addresses, BondFacts, Directions};
use serde::Serialize;
use socket2::SockRef;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Called when a session has begun, with whom it is.
pub type OnSession = Arc<dyn Fn(&Arc<Hub>, &Caller) + Send + Sync>;

/// What this host tells a peer of itself.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    /// Its bond towards the peer, if it knows one.
    pub bond: Option<BondFacts>,
    /// A listener's further addresses there. The connector tells none.
    pub addresses: Addresses,
}

/// Finds out what to tell a peer. May take milliseconds.
pub type Introduce = Arc<dyn Fn(IpAddr) -> Introduction + Send + Sync>;

/// What a transfer is told from outside.
#[derive(Clone)]
pub struct Options {
    /// Who sends.
    pub directions: Directions,
    /// Bytes that this side holds at most, in both directions together.
    pub window: u64,
    /// Bytes of a block of the input.
    pub block: u32,
    /// Most payload bytes that this side sends in a second.
    pub rate: Option<u64>,
    /// Whether to take the digest of each direction.
    pub digest: bool,
    /// How long a silent peer is waited for.
    pub timeout: Duration,
    /// This host's bond and addresses, for the peer to know.
    pub introduce: Introduce,
    /// Told of the session when there is one.
    pub on_session: OnSession,
    /// Tells where streams arrive, on a side that receives.
    pub sight: Option<Arc<Sight>>,
    /// How the streams' sockets are set.
    pub tuning: Tuning,
    /// Told of each stream, on a side that sends over a bond whose program it may use.
    pub placer: Option<Arc<Placer>>,
}

/// How a stream's socket is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tuning {
    /// `TCP_NOTSENT_LOWAT`: bytes that may lie unsent in it before it counts as full. A block is bound to its stream
    /// only when the stream can send it soon, so a slow slave does not hoard what a fast one could carry.
    pub unsent: u32,
    /// `SO_MAX_PACING_RATE`: bytes a second that it sends at most; `None` leaves it to TCP.
    pub pace: Option<u64>,
}

/// Least pace of a stream, bytes a second: what a session says beside its data, and what it sends again, must not wait.
const LEAST_PACE: u64 = 1 << 20;

impl Tuning {
    /// On slaves of these speeds, Mbit/s (or 1 each where they are not known), where `rate` bytes a second are sent
    /// over all streams at most. That is kept by the session; the pace, a quarter more, keeps a stream from sending
    /// what it may in one burst at the speed of its slave.
    #[must_use]
    pub fn of(speeds: &[u32], rate: Option<u64>) -> Self {
        let pace = rate.map(|rate| rate.saturating_add(rate / 4).max(LEAST_PACE));
        Self { unsent: unsent(speeds), pace }
    }
}

impl Options {
    /// The window is the side's: where there are two directions each has half of it.
    pub(super) fn shared_out(self) -> Self {
        let each = if self.directions == Directions::Both { self.window / 2 } else { self.window };
        Self { window: each, ..self }
    }
}

/// Sets a stream's socket. Buffers are left to the kernel's autotuning: setting them would switch it off and cap them
/// at net.core.{r,w}mem_max. TCP_USER_TIMEOUT is not set: it would kill a healthy stream whose reader stalls. Nor is
/// keepalive: every phase has a deadline of mpnc's own.
pub(super) fn tune(socket: &impl AsFd, tuning: Tuning) {
    let sock = SockRef::from(socket);
    let settings = [
        ("TCP_NODELAY", sock.set_tcp_nodelay(true)),
        ("TCP_NOTSENT_LOWAT", sock.set_tcp_notsent_lowat(tuning.unsent)),
        ("SO_MAX_PACING_RATE", tuning.pace.map_or(Ok(()), |rate| pacing::limit(socket.as_fd(), rate))),
    ];
    for (name, result) in settings {
        if let Err(error) = result {
            // Each of them only makes things better; none is needed to be right.
            log::debug!("cannot set {name}: {}", crate::error::words(&error));
        }
    }
}
