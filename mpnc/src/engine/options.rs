//! What a transfer is told from outside, and how its sockets are set.

use super::caller::Caller;
use super::hub::Hub;
use crate::observe::arrivals::Sight;
use crate::place::Placer;
use crate::wire::{Addresses, BondFacts, Directions};
use socket2::SockRef;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that may lie unsent in a stream's socket before it counts as full. A block is bound to its stream only when
/// the stream can send it soon, so a slow slave does not hoard what a fast one could carry; large enough to cover the
/// loop's reaction time at 10 Gbit/s a slave.
const NOTSENT_LOWAT: u32 = 256 << 10;

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
    /// Told of each stream, on a side that sends over a bond whose program it may use.
    pub placer: Option<Arc<Placer>>,
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
pub(super) fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let settings = [
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)),
    ];
    for (name, result) in settings {
        if let Err(error) = result {
            // Each of them only makes things better; none is needed to be right.
            log::debug!("cannot set {name}: {}", crate::error::words(&error));
        }
    }
}
