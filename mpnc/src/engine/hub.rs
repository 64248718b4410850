//! One session as the threads share it: the pure [`Session`] behind a lock, with the bytes that it only counts.
//!
//! The reader thread puts blocks in, worker loops move frames, the writer thread reports what is written; each holds
//! the lock for bookkeeping only, never across a system call on a socket or a file. A worker takes it once for each
//! turn of its loop, once for what all its connections write up to the next block of each, and for a connection once
//! for what it has read up to the next block. Loops are woken when it is free again.

mod errands;
mod seen;
#[cfg(test)]
#[cfg(debug_assertions)]
mod tests;

pub(super) use errands::{Errand, News, Turn};

use super::bell::Bell;
use super::buffers::{Buffer, Pool};
use super::clock;
use super::digest::Digest;
use super::halt::{Halt, Note};
use super::ledger::Ledger;
use super::queue::ToWrite;
use crate::bond::attribution::Attribution;
use crate::error::Error;
use crate::observe::arrivals::Inlet;
use crate::paths::Access;
use crate::sys::tcp_info::TcpInfo;
use crate::transfer::{
    Arrival, Config, End, Event, Extent, Holes, Output, Passage, PeerFault, Sender, Session, StreamId, StreamStats,
    Terms, Time, Traffic, Transmit,
};
use crate::wire::{BondFacts, Encoder, Fault, Frame, Observation};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Deref;
#[cfg(debug_assertions)]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A block of the input, ready to be sent any number of times.
struct Block {
    bytes: Buffer,
    /// CRC-32 of the bytes.
    crc: u32,
}

/// A block's bytes, for one of the times that it is sent.
pub(super) struct Payload(Arc<Block>);

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// What a connection has read.
pub(super) enum Read {
    Frame(Frame),
    /// A Data frame, whole and checked; `bytes` is `None` for one that was read past.
    Data {
        extent: Extent,
        bytes: Option<Buffer>,
        crc: u32,
    },
}

struct Shared {
    session: Session,
    /// Blocks to be sent and not confirmed, by offset.
    outgoing: BTreeMap<u64, Arc<Block>>,
    /// Data received and not in order yet, with its CRC-32, by offset.
    arrived: BTreeMap<u64, (Buffer, u32)>,
    /// The writer thread, while it is wanted.
    writer: Option<mpsc::Sender<ToWrite>>,
    orders: Vec<VecDeque<Errand>>,
    /// For the path manager, on the side that has one.
    news: Option<VecDeque<Event>>,
    /// The workers have something to do: wake them when the lock is free.
    wake: bool,
    /// Blocks that are not needed any more: to be put away when the lock is free.
    spent: Vec<Arc<Block>>,
    end: Option<End>,
    /// Why this side gave up, where that is more than the peer is told.
    cause: Option<Error>,
    /// What the streams' sockets tell of where they come in.
    incoming: BTreeMap<StreamId, Inlet>,
    ledger: Ledger,
    holes: Holes,
    attribution: Attribution,
}

/// Does what [`Hub::on_status`] asks for.
type OnStatus = Box<dyn Fn() + Send + Sync>;

/// See the module documentation.
pub struct Hub {
    state: Mutex<Shared>,
    /// How often it was locked.
    #[cfg(debug_assertions)]
    locked: AtomicU64,
    bells: Vec<Arc<Bell>>,
    start: Instant,
    /// The same by the clock that counts silence.
    begun: Time,
    /// The address of the other side's first stream.
    peer: SocketAddr,
    /// Buffers for received data.
    pool: Arc<Pool>,
    /// Buffers for the input.
    input_pool: Arc<Pool>,
    /// Connections that belong to it.
    members: AtomicUsize,
    /// Whether the digests of both directions are wanted.
    digest: bool,
    on_status: OnceLock<OnStatus>,
    halt: Halt,
    ended: AtomicBool,
    /// Nothing is left of the ends: no thread, no descriptor, no process.
    ends_gone: AtomicBool,
    /// Bytes that the input will give, where that is known.
    expected: OnceLock<u64>,
    /// A file that something has been written to.
    file: OnceLock<String>,
}

/// How far a session has got.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes of the input read.
    pub read: u64,
    /// Bytes sent that the peer has written.
    pub sent: u64,
    /// Bytes received and written.
    pub received: u64,
    /// The file that holds what was received, if it is one with a name.
    pub file: Option<String>,
    /// Bytes sent more than once.
    pub resent: u64,
    /// Counters of every stream.
    pub streams: Vec<(StreamId, StreamStats)>,
    /// Whether the session is over.
    pub ended: bool,
}

/// What a session needs to begin.
pub(super) struct Setup {
    /// The other side.
    pub(super) peer: SocketAddr,
    pub(super) config: Config,
    /// Size of the blocks this side cuts, and of those the peer sends.
    pub(super) block: usize,
    pub(super) peer_block: usize,
    pub(super) writer: Option<mpsc::Sender<ToWrite>>,
    /// Whether the digests of both directions are wanted.
    pub(super) digest: bool,
    /// Whether this side plans the streams, and wants to hear what that takes.
    pub(super) plans: bool,
}

impl Hub {
    pub(super) fn new(setup: Setup, bells: Vec<Arc<Bell>>) -> (Arc<Self>, mpsc::Receiver<Note>) {
        let window = usize::try_from(setup.config.window).unwrap_or(usize::MAX);
        let holes = Holes::new(setup.config.timeout);
        let state = Shared {
            session: Session::new(setup.config, Time::default()),
            outgoing: BTreeMap::new(),
            arrived: BTreeMap::new(),
            writer: setup.writer,
            orders: vec![VecDeque::new(); bells.len()],
            news: setup.plans.then(VecDeque::new),
            wake: false,
            spent: Vec::new(),
            end: None,
            cause: None,
            incoming: BTreeMap::new(),
            ledger: Ledger::default(),
            holes,
            attribution: Attribution::default(),
        };
        let (halt, notes) = Halt::new();
        let hub = Arc::new(Self {
            state: Mutex::new(state),
            #[cfg(debug_assertions)]
            locked: AtomicU64::new(0),
            bells,
            start: Instant::now(),
            begun: clock::now(),
            peer: setup.peer,
            pool: Pool::new(setup.peer_block, window),
            input_pool: Pool::new(setup.block, window),
            members: AtomicUsize::new(0),
            digest: setup.digest,
            on_status: OnceLock::new(),
            halt,
            ended: AtomicBool::new(false),
            ends_gone: AtomicBool::new(false),
            expected: OnceLock::new(),
            file: OnceLock::new(),
        });
        (hub, notes)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        #[cfg(debug_assertions)]
        self.locked.fetch_add(1, Ordering::Relaxed);
        // A panic elsewhere is a bug that ends the process; until then the bookkeeping is whole, since no call panics
        // half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the session and carries out what it decides. `wake`: the workers have something to do now.
    fn act<T>(&self, wake: bool, what: impl FnOnce(&mut Shared, Time) -> T) -> T {
        let (mut state, now) = (self.lock(), self.now());
        let done = what(&mut state, now);
        state.wake |= wake;
        self.settle(&mut state, now);
        self.unlock(state);
        done
    }

    /// Whatever need not be done under the lock.
    fn unlock(&self, mut state: MutexGuard<'_, Shared>) {
        let (wake, spent) = (std::mem::take(&mut state.wake), std::mem::take(&mut state.spent));
        drop(state);
        drop(spent);
        if wake {
            self.ring();
        }
    }

    fn ring(&self) {
        self.bells.iter().for_each(|bell| bell.ring());
    }

    /// What the session lives by.
    fn now(&self) -> Time {
        Time(clock::now().since(self.begun))
    }

    /// Time since the session began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn input_pool(&self) -> &Arc<Pool> {
        &self.input_pool
    }

    /// Carries out what the session has decided.
    fn settle(&self, state: &mut Shared, now: Time) {
        while let Some(output) = state.session.poll_output() {
            let message = match output {
                Output::Write(extent) => match state.arrived.remove(&extent.offset) {
                    Some((bytes, crc)) => ToWrite::Block(extent.offset, bytes, crc),
                    None => unreachable!("the session hands out only what has arrived"),
                },
                Output::Finish { crc } => ToWrite::Finish(crc),
            };
            // A writer that is gone has said why by `fail`.
            let _ = state.writer.as_ref().map(|writer| writer.send(message));
        }
        while let Some(event) = state.session.poll_event() {
            let order = match event {
                Event::Release(extent) => {
                    state.spent.extend(state.outgoing.remove(&extent.offset));
                    continue;
                }
                Event::Drop(id) => {
                    state.tell(event);
                    Errand::Close(id)
                }
                Event::Retired(id) => {
                    state.tell(event);
                    Errand::Retire(id)
                }
                Event::Suspect(_) | Event::Recovered(_) | Event::Observed(..) | Event::PeerBond(_) => {
                    state.tell(event);
                    continue;
                }
                Event::Ended(end) => {
                    log::debug!("session ended: {end:?}");
                    #[cfg(debug_assertions)]
                    log::debug!("the session was locked {} times", self.locked.load(Ordering::Relaxed));
                    state.end = Some(end);
                    self.ended.store(true, Ordering::Release);
                    // First: reader and writer stop at what follows, and whether that is a failure is asked of it at
                    // once.
                    self.halt.set();
                    state.outgoing.clear();
                    state.arrived.clear();
                    state.writer = None;
                    self.input_pool.close();
                    self.pool.close();
                    Errand::Finish
                }
            };
            state.order(&order);
        }
        state.ledger.note(&state.session, &self.input_pool, now, self.elapsed());
    }

    // --- the ends of the pipe ----------------------------------------------------------------------------------------

    /// A block of the input, with its CRC-32; false once nobody wants more.
    pub(super) fn input(&self, bytes: Buffer, crc: u32) -> bool {
        let Ok(len) = u32::try_from(bytes.len()) else { return false };
        self.act(true, |state, _| {
            let Some(extent) = state.session.input(len) else { return false };
            state.outgoing.insert(extent.offset, Arc::new(Block { bytes, crc }));
            true
        })
    }

    /// Whether the ends are to stop.
    pub fn halt(&self) -> &Halt {
        &self.halt
    }

    /// Nothing is left of the ends.
    pub(super) fn ends_gone(&self) {
        self.ends_gone.store(true, Ordering::Release);
        self.ring();
    }

    /// Time since the session ended, if it has.
    pub(super) fn since_end(&self) -> Option<Duration> {
        let ended = self.lock().ledger.ended()?;
        Some(self.start.elapsed().saturating_sub(ended))
    }

    pub(super) fn are_ends_gone(&self) -> bool {
        self.ends_gone.load(Ordering::Acquire)
    }

    /// The input will give so many bytes, as far as that can be known.
    pub(super) fn expect(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            let _ = self.expected.set(bytes);
        }
    }

    /// How much will be moved in all, where that can be known: only of what this side sends, and if it does nothing
    /// else.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        self.expected.get().copied().filter(|_| self.lock().session.receiver().is_none())
    }

    /// This file holds something of the transfer from now on.
    pub(super) fn fills(&self, name: &str) {
        let _ = self.file.set(name.to_owned());
    }

    /// Whether some block of the input has not been handed to a stream yet.
    pub(super) fn has_backlog(&self) -> bool {
        self.lock().session.sender().is_some_and(Sender::has_backlog)
    }

    /// Who may take data from now on.
    pub(super) fn access(&self, access: Access) {
        self.act(true, |state, _| match access {
            Access::All => state.session.release(),
            Access::Nobody => state.session.pause(),
            Access::Only(id, bytes) => state.session.burst(id, bytes),
        });
    }

    /// The input has ended; `crc` is the CRC-32 of all of it.
    pub(super) fn input_end(&self, crc: u32) {
        self.act(true, |state, _| state.session.input_end(crc));
    }

    /// This side gives up: the peer is told `code` and the words of `cause`.
    pub(super) fn fail(&self, code: u64, cause: Error) {
        self.act(true, |state, _| {
            if !state.session.is_ended() {
                state.session.fail(Fault::new(code, &cause.to_string()));
                state.cause = Some(cause);
            }
        });
    }

    /// The output holds these bytes.
    pub(super) fn written(&self, extent: Extent) {
        self.act(false, |state, _| {
            if !state.session.is_ended() {
                state.wake |= state.session.written(extent);
            }
        });
    }

    pub(super) fn output_finished(&self) {
        self.act(true, |state, _| {
            if !state.session.is_ended() {
                state.session.output_finished();
            }
        });
    }

    // --- streams -----------------------------------------------------------------------------------------------------

    /// See [`Session::stream_up`].
    pub(super) fn stream_up(&self, id: StreamId, terms: &Terms) -> bool {
        self.act(false, |state, now| {
            let is_new = state.session.stream_up(id, terms, now);
            state.ledger.retain(&state.session);
            is_new
        })
    }

    pub(super) fn stream_down(&self, id: StreamId, orderly: bool) {
        self.act(true, |state, now| state.down(id, orderly, now));
    }

    /// This host's bond towards the peer is that now: the peer will want to know.
    pub fn tell_bond(&self, bond: BondFacts) {
        self.act(true, |state, _| state.session.tell_bond(bond));
    }

    pub(super) fn retire(&self, id: StreamId) {
        self.act(true, |state, _| state.session.retire(id));
    }

    /// Something has arrived on a stream: what is whole of it is in `read`, which is empty afterwards. `next` is a Data
    /// frame that has begun: the answer is room for its payload, or `None` if it is a repetition to be read past.
    pub(super) fn take_in(
        &self,
        id: StreamId,
        read: &mut Vec<Read>,
        next: Option<Extent>,
    ) -> Result<Option<Buffer>, PeerFault> {
        let judged = self.act(false, |state, now| {
            state.session.heard(id, now);
            read.drain(..).try_for_each(|read| state.take_in(id, read, now))?;
            next.map(|extent| state.session.judge(extent)).transpose()
        })?;
        // Where there is no room the stream ends and not the session: what it carried goes out again.
        let room = |len| self.pool.take_now(len).ok_or(PeerFault::TooManyCopies);
        let fresh = next.filter(|_| judged == Some(Arrival::Fresh));
        fresh.map(|extent| room(usize::try_from(extent.len).unwrap_or(usize::MAX))).transpose()
    }

    /// Queues what each of these streams, which can take bytes, is to carry next: small frames up to a block, and that.
    pub(super) fn fill<'a>(&self, streams: impl Iterator<Item = (StreamId, &'a mut Encoder<Payload>)>) {
        let (mut state, now) = (self.lock(), self.now());
        let filled = streams.fold(false, |filled, (id, encoder)| state.fill(id, encoder, now) || filled);
        if filled {
            self.settle(&mut state, now);
        }
        self.unlock(state);
    }

    pub(super) fn stream_count(&self) -> usize {
        self.lock().session.streams().count()
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it is over without all being written and confirmed.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().end.as_ref().is_some_and(|end| *end != End::Complete)
    }
}

impl Shared {
    /// Answers whether there was anything to queue.
    fn fill(&mut self, id: StreamId, encoder: &mut Encoder<Payload>, now: Time) -> bool {
        let mut filled = false;
        while let Some(transmit) = self.session.poll_transmit(id, now) {
            filled = true;
            match transmit {
                Transmit::Frame(frame) => encoder.frame(&frame),
                Transmit::Data(extent) => {
                    if let Some(block) = self.outgoing.get(&extent.offset) {
                        encoder.data(extent.offset, block.crc, Payload(Arc::clone(block)));
                    }
                    break;
                }
            }
        }
        filled
    }

    fn take_in(&mut self, id: StreamId, read: Read, now: Time) -> Result<(), PeerFault> {
        match read {
            Read::Frame(frame) => self.session.handle_frame(id, frame, now),
            Read::Data { extent, bytes, crc } => {
                let arrived = self.session.handle_data(id, extent)?;
                if let (Arrival::Fresh, Some(bytes)) = (arrived, bytes) {
                    self.arrived.insert(extent.offset, (bytes, crc));
                }
                Ok(())
            }
        }
    }
}
