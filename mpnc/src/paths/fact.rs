//! What the path manager is told. Numbers that came from a peer have been checked by [`crate::wire`] before.

use super::{SlotId, Stamp};
use crate::bond::{AddressHash, Outlook, Pair};
use crate::transfer::{Passage, StreamId, Traffic};
use crate::wire::BondFacts;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Bytes that streams, by source port, have sent by each slave, by index.
pub type ByPort = BTreeMap<(u16, u16), u64>;

/// The way out, as far as the plan depends on it.
#[derive(Debug, Clone)]
pub struct Way {
    /// The address to send from; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// What the planner goes by.
    pub outlook: Outlook,
    /// Names of its classes (slaves), by index.
    pub slaves: Vec<String>,
    /// Streams to open.
    pub streams: u16,
    /// How to see by which slave each stream leaves, if there is a way.
    pub gauge: Option<Gauge>,
    /// This host's bond, where the streams arrive if only the peer sends.
    pub bond: Option<BondFacts>,
    /// What addresses choose, where ports do not.
    pub by_address: ByAddress,
    /// The streams are placed: a slave that goes moves its own and no others.
    pub placed: bool,
}

/// What addresses choose, where ports do not.
#[derive(Debug, Clone, Default)]
pub struct ByAddress {
    /// Pairs of addresses that get through, the session's own first; none where there is no choice.
    pub pairs: Vec<Pair>,
    /// This host's bond, if its hash goes by addresses.
    pub hash: Option<AddressHash>,
}

/// The slaves of this host, and how what leaves by them can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauge {
    /// Names, by index.
    pub slaves: Vec<String>,
    /// Relative capacities, by index.
    pub weights: Vec<u32>,
    /// Streams wanted in all.
    pub streams: u16,
    /// Whether the plan is no more than a guess, so that measuring comes first.
    pub doubted: bool,
    /// What it shows.
    pub sees: Sees,
}

/// What a gauge shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// The packets of each stream (the observer).
    Streams,
    /// Only what all together send by each slave (counters), so that streams must take turns.
    Slaves,
}

/// A reading of the gauge.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Which look it answers.
    pub stamp: Stamp,
    /// What it shows; `None` where it cannot be read.
    pub counted: Option<Counted>,
    /// Bytes acknowledged by the peer's TCP, of each stream.
    pub acked: Vec<(StreamId, u64)>,
}

/// What a gauge has counted so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Counted {
    /// Of each stream.
    Streams(ByPort),
    /// Of each slave, by index: everybody's.
    Slaves(Vec<u64>),
}

/// A stream that is up.
#[derive(Debug, Clone, Copy)]
pub struct Up {
    /// Whose it is.
    pub slot: SlotId,
    /// Its number in the session.
    pub id: StreamId,
    /// Its source port.
    pub port: u16,
    /// The source address and port that the peer sees.
    pub seen: SocketAddr,
}

/// Why there is no connection, least telling first: of all that fail before a session the most telling reason is the
/// one to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The source port is in use. Another may do.
    PortTaken,
    /// Something on this host.
    Local,
    /// A filter of this host.
    Forbidden,
    /// No route, or a router says no.
    NoRoute,
    /// No answer in time.
    NoAnswer,
    /// Nobody listens there.
    PortClosed,
    /// It was taken, and cut off or closed without a greeting.
    Closed,
    /// It was taken, and nothing was said.
    Silent,
    /// What was said is no greeting.
    Garbled,
    /// The peer has no room for this stream.
    NoRoom,
    /// The peer knows no such session.
    NoSession,
    /// The peer refuses the session.
    Refused,
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub enum Fact {
    /// The way out is another now.
    Way(Way),
    /// The peer's bond, as it tells.
    PeerBond(BondFacts),
    /// The peer's TCP has answered; its greeting is awaited.
    Answered(SlotId),
    /// A stream is up.
    Up(Up),
    /// A connection came to nothing.
    Failed(SlotId, Failure),
    /// A stream is gone, for whatever reason.
    Down(StreamId),
    /// A stream carries nothing, or is silent.
    Suspect(StreamId),
    /// A suspect stream moves again.
    Recovered(StreamId),
    /// The receiving side tells (or, if that is this side, sees) on which of how many slaves a stream arrives.
    Arrival {
        /// The stream.
        stream: StreamId,
        /// Index of the slave.
        slave: u16,
        /// Number of usable slaves of that bond, more than `slave`.
        slaves: u16,
    },
    /// The gauge was read.
    Reading(Reading),
    /// What is under way.
    Traffic(Traffic),
    /// Whether full segments get through.
    Passage(Passage),
    /// The session is over.
    Over,
}
