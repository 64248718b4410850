//! What a session's hub keeps only to be seen: where the time goes, what TCP says of each stream, the digests.

use super::buffers::Pool;
use super::digest::Digest;
use crate::stats::{Account, Half, Hold, LoopTime, Seen, Snapshot, Stream, Tcp};
use crate::sys::tcp_info::TcpInfo;
use crate::transfer::{Receiver, Sender, Session, StreamId, StreamStats, Time};
use crate::wire::{Observation, Place};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

/// What is known of a stream beside its counters.
#[derive(Debug, Default)]
struct Known {
    source_port: Option<u16>,
    worker: Option<usize>,
    slave: Option<String>,
    seen: Option<Seen>,
    tcp: Option<Tcp>,
    /// Bytes that TCP has received in order, and those that the peer's has acknowledged.
    volume: u64,
    acked: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sending: Account,
    receiving: Account,
    streams: BTreeMap<StreamId, Known>,
    loops: Vec<LoopTime>,
    flushing: bool,
    ended: Option<Duration>,
    digests: Vec<Digest>,
}

impl Ledger {
    /// Keeps what the session keeps.
    pub(super) fn retain(&mut self, session: &Session) {
        let kept = session.stream_stats();
        self.streams.retain(|id, _| kept.binary_search_by_key(id, |(id, _)| *id).is_ok());
    }

    /// Takes note of what the session waits for `now`, this long after it began. `input` has the buffers that the input
    /// is read into.
    pub(super) fn note(&mut self, session: &Session, input: &Pool, now: Time, elapsed: Duration) {
        if self.ended.is_some() {
            return;
        }
        let over = session.is_ended();
        if let Some(tx) = session.sender() {
            let hold = if over { Hold::Nothing } else { tx.hold(|| input.has_room(), now) };
            let gate = (hold == Hold::Window).then(|| tx.gate()).flatten();
            self.sending.enter(hold, gate.map(|id| id.0), elapsed);
        }
        if let Some(rx) = session.receiver() {
            let alone = over || session.streams().next().is_none();
            let hold = if alone { Hold::Nothing } else { rx.hold() };
            self.receiving.enter(hold, None, elapsed);
        }
        if over {
            self.ended = Some(elapsed);
        }
    }

    /// When the session ended, if it has.
    pub(super) fn ended(&self) -> Option<Duration> {
        self.ended
    }

    pub(super) fn name(&mut self, id: StreamId, source_port: Option<u16>) {
        self.streams.entry(id).or_default().source_port = source_port;
    }

    pub(super) fn attend(&mut self, id: StreamId, worker: usize) {
        self.streams.entry(id).or_default().worker = Some(worker);
    }

    pub(super) fn plan(&mut self, id: StreamId, slave: Option<String>) {
        self.streams.entry(id).or_default().slave = slave;
    }

    pub(super) fn see(&mut self, id: StreamId, seen: Observation) {
        self.streams.entry(id).or_default().seen = Some(as_seen(seen));
    }

    /// Where this side sees a stream arrive.
    pub(super) fn seen(&self, id: StreamId) -> Option<Seen> {
        self.streams.get(&id)?.seen
    }

    /// Bytes received on a stream, as far as TCP was asked.
    pub(super) fn volume(&self, id: StreamId) -> u64 {
        self.streams.get(&id).map_or(0, |known| known.volume)
    }

    /// Likewise, bytes that the peer's TCP has acknowledged.
    pub(super) fn acked(&self, id: StreamId) -> u64 {
        self.streams.get(&id).map_or(0, |known| known.acked)
    }

    pub(super) fn tcp(&mut self, id: StreamId, info: &TcpInfo) {
        let TcpInfo { rtt, min_rtt, retransmits, delivery_rate, busy, window_limited, buffer_limited, .. } = *info;
        let tcp = Tcp { rtt, min_rtt, retransmits, delivery_rate, busy, window_limited, buffer_limited };
        let known = self.streams.entry(id).or_default();
        (known.tcp, known.volume, known.acked) = (Some(tcp), info.bytes_received, info.bytes_acked);
    }

    /// The loop of worker `index` was awake for so long, of so long.
    pub(super) fn worked(&mut self, index: usize, awake: Duration, all: Duration) {
        if self.loops.len() <= index {
            self.loops.resize(index + 1, LoopTime::default());
        }
        self.loops[index].awake += awake;
        self.loops[index].all += all;
    }

    pub(super) fn flushing(&mut self) {
        self.flushing = true;
    }

    pub(super) fn digested(&mut self, digest: Digest) {
        self.digests.push(digest);
    }

    pub(super) fn digests(&self) -> Vec<Digest> {
        self.digests.clone()
    }

    pub(super) fn snapshot(&self, session: &Session, elapsed: Duration) -> Snapshot {
        let at = self.ended.unwrap_or(elapsed);
        let sent = session.sender().map(|tx: &Sender| Half {
            taken: tx.produced(),
            delivered: tx.delivered(),
            total: tx.total(),
            spent: self.sending.spent(at),
        });
        let received = session.receiver().map(|rx: &Receiver| Half {
            taken: rx.received(),
            delivered: rx.delivered(),
            total: rx.total(),
            spent: self.receiving.spent(at),
        });
        // When all is written and not yet confirmed, it is a disk that is waited for, here or there.
        let written = |flow: &Half| flow.delivered > 0 && flow.total == Some(flow.delivered);
        let flushing = self.flushing || sent.as_ref().is_some_and(written);
        let up: Vec<StreamId> = session.streams().collect();
        let streams = session.stream_stats();
        Snapshot {
            at,
            sent,
            received,
            resent: session.sender().map_or(0, Sender::resent),
            streams: streams.iter().map(|(id, stats)| self.stream(*id, stats, up.contains(id))).collect(),
            loops: self.loops.clone(),
            flushing: flushing && !session.is_ended(),
            ended: session.is_ended(),
        }
    }

    fn stream(&self, id: StreamId, stats: &StreamStats, up: bool) -> Stream {
        let known = self.streams.get(&id);
        Stream {
            id: id.0,
            source_port: known.and_then(|known| known.source_port),
            worker: known.and_then(|known| known.worker),
            slave: known.and_then(|known| known.slave.clone()),
            seen_here: known.and_then(|known| known.seen),
            seen_by_peer: stats.observed.map(as_seen),
            up,
            sent: stats.sent,
            received: stats.received,
            tcp: known.and_then(|known| known.tcp),
        }
    }
}

pub(super) fn as_seen(Observation { ifindex, place, by }: Observation) -> Seen {
    let (slave, slaves) = (place.map(Place::slave), place.map_or(0, |place| place.of().into()));
    Seen { ifindex: ifindex.map_or(0, NonZeroU32::get), slave, slaves, by }
}
