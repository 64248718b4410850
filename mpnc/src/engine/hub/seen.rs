//! What a session's hub knows only to be seen: by a person, and by whoever asks where streams arrive and leave.
//!
//! Must not decide anything about the transfer.

use super::{Digest, End, Event, Hub, Inlet, Note, Observation, Progress, Shared, StreamId, TcpInfo};
use crate::bond::attribution::Look;
use crate::engine::ledger::as_seen;
use crate::error::Error;
use crate::stats::Snapshot;
use crate::transfer::{Flight, Receiver, Sender};
use crate::wire::{Means, Place};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

impl Hub {
    // --- where streams arrive ----------------------------------------------------------------------------------------

    /// What TCP says of a stream, whether it `moves`, and what its socket tells of where it comes in, if it was asked:
    /// where that is news the session's thread looks closer.
    pub(in crate::engine) fn look(&self, id: StreamId, info: &TcpInfo, moves: bool, comes_in: Option<Inlet>) {
        let (mut state, now) = (self.lock(), self.now());
        state.ledger.tcp(id, info);
        let TcpInfo { bytes_acked: acked, bytes_received: received, segments, queued, mss, repeated, .. } = *info;
        state.holes.look(id, Flight { acked, received, segments, queued, mss, repeated }, now);
        if moves {
            state.session.progress(id, now);
        }
        let is_news = comes_in.is_some_and(|comes_in| state.incoming.insert(id, comes_in) != Some(comes_in));
        drop(state);
        if is_news {
            self.halt.note(Note::Look);
        }
    }

    /// The streams that are up, with what their sockets tell.
    pub(in crate::engine) fn incoming(&self) -> Vec<(StreamId, Inlet)> {
        let mut state = self.lock();
        let Shared { incoming, session, .. } = &mut *state;
        let up: Vec<StreamId> = session.streams().collect();
        incoming.retain(|id, _| up.contains(id));
        incoming.iter().map(|(id, incoming)| (*id, *incoming)).collect()
    }

    /// This side sees where a stream arrives: the peer will want to know.
    pub(in crate::engine) fn observe(&self, id: StreamId, seen: Observation) {
        self.act(false, |state, _| {
            if state.ledger.seen(id) != Some(as_seen(seen)) {
                state.see(id, seen);
            }
        });
    }

    /// The peer, if it sends and some stream of it arrives this side cannot see where, or only by counters.
    pub(in crate::engine) fn wants_counters(&self) -> Option<SocketAddr> {
        let state = self.lock();
        let unseen = |id| state.ledger.seen(id).is_none_or(|seen| seen.by == Means::Counters);
        let wanted = !state.session.is_ended() && state.session.receiver().is_some_and(|rx| !rx.is_finished());
        (wanted && state.session.streams().any(unseen)).then_some(self.peer)
    }

    /// The receive counters of this host's slaves, by interface index, in the order of the bond's list: with what each
    /// stream has received they may tell where the streams arrive.
    pub(in crate::engine) fn weigh(&self, slaves: Vec<(u32, u64)>) {
        if slaves.len() < 2 {
            return;
        }
        self.act(false, |state, _| {
            let streams = state.session.streams().map(|id| (id.0, state.ledger.volume(id))).collect();
            let look = Look { streams, slaves };
            for (id, place) in state.attribution.look(&look) {
                let (id, ifindex) = (StreamId(id), NonZeroU32::new(look.slaves[place].0));
                let place = Place::new(place, look.slaves.len());
                let seen = Observation { ifindex, place, by: Means::Counters };
                let known = state.ledger.seen(id);
                if known.is_none_or(|known| known.by == Means::Counters && known != as_seen(seen)) {
                    state.see(id, seen);
                }
            }
        });
    }

    // --- where they leave --------------------------------------------------------------------------------------------

    /// Bytes that the peer's TCP had acknowledged when it was last asked, of each stream that is up.
    pub(in crate::engine) fn acked(&self) -> Vec<(StreamId, u64)> {
        let state = self.lock();
        state.session.streams().map(|id| (id, state.ledger.acked(id))).collect()
    }

    // --- for people --------------------------------------------------------------------------------------------------

    /// The connector's port of a stream, as this side sees it.
    pub(in crate::engine) fn name(&self, id: StreamId, source_port: Option<u16>) {
        self.lock().ledger.name(id, source_port);
    }

    /// The number of the worker that has a stream.
    pub(in crate::engine) fn attend(&self, id: StreamId, worker: usize) {
        self.lock().ledger.attend(id, worker);
    }

    /// The slave that a stream was planned for.
    pub(in crate::engine) fn plan(&self, id: StreamId, slave: Option<String>) {
        self.lock().ledger.plan(id, slave);
    }

    /// A stream is up: see [`crate::transfer::Holes::witness`].
    pub(in crate::engine) fn witness(&self) {
        let (mut state, now) = (self.lock(), self.now());
        state.holes.witness(now);
    }

    /// See [`crate::transfer::Holes::certain`].
    pub(in crate::engine) fn hole(&self) -> Option<u32> {
        self.lock().holes.certain(self.now())
    }

    /// The address of the other side's first stream.
    pub(in crate::engine) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The loop of worker `index` was awake for so long, of so long.
    pub(in crate::engine) fn worked(&self, index: usize, awake: Duration, all: Duration) {
        self.lock().ledger.worked(index, awake, all);
    }

    /// A disk is asked whether it has all.
    pub(in crate::engine) fn flushing(&self) {
        self.lock().ledger.flushing();
    }

    /// What takes the digest of one direction, if that is wanted.
    pub(in crate::engine) fn hasher(&self) -> Option<blake3::Hasher> {
        self.digest.then(blake3::Hasher::new)
    }

    pub(in crate::engine) fn digested(&self, digest: Digest) {
        self.lock().ledger.digested(digest);
    }

    /// The digests of the directions that are through, if they were wanted.
    pub(in crate::engine) fn digests(&self) -> Vec<Digest> {
        self.lock().ledger.digests()
    }

    /// `tell` is to be called whenever a person asks how far the session has got. Only the first is kept.
    pub fn on_status(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_status.set(Box::new(tell));
    }

    /// A person asks how far it has got.
    pub(in crate::engine) fn status(&self) {
        if let Some(tell) = self.on_status.get() {
            tell();
        }
    }

    /// Everything that is known now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        state.ledger.snapshot(&state.session, self.elapsed())
    }

    /// How the session ended, once it has; with the cause known only here, once.
    pub(in crate::engine) fn take_end(&self) -> Option<(End, Option<Error>)> {
        let mut state = self.lock();
        let end = state.end.clone()?;
        Some((end, state.cause.take()))
    }

    /// How far the session has got.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.lock();
        let tx = state.session.sender();
        Progress {
            read: tx.map_or(0, Sender::produced),
            sent: tx.map_or(0, Sender::delivered),
            received: state.session.receiver().map_or(0, Receiver::delivered),
            file: self.file.get().cloned(),
            resent: tx.map_or(0, Sender::resent),
            streams: state.session.stream_stats(),
            ended: state.session.is_ended(),
        }
    }
}

impl Shared {
    /// This side sees where a stream arrives, and tells the peer.
    fn see(&mut self, id: StreamId, seen: Observation) {
        self.session.observe(id, seen);
        self.ledger.see(id, seen);
        self.wake = true;
        if self.session.sender().is_none() {
            self.tell(Event::Observed(id, seen));
        }
    }
}
