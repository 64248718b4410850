//! One session as the threads share it: the pure [`Session`] behind a lock, with the bytes that it only counts.
//!
//! The reader thread puts blocks in, worker loops move frames, the writer thread reports what is written; each holds the lock for
//! bookkeeping only, never across a system call on a socket or a file.

use super::ledger::{Ledger, as_seen};
use super::pool::{Buffer, Pool};
use super::stdio::{Digest, ToWrite};
use crate::bond::attribution::{Attribution, Look};
use crate::error::Error;
use crate::stats::{Means, Seen, Snapshot};
use crate::sys::tcp_info::TcpInfo;
use crate::transfer::{
    Arrival, Config, End, Event, Extent, Flight, Holes, Output, Passage, PeerFault, Receiver, Sender, Session,
    StreamId, StreamStats, Terms, Time, Transmit,
};
use crate::wire::{BondFacts, Fault, Frame, Header, Kind, Observation};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A block of the input, ready to be sent any number of times.
pub(super) struct Block {
    pub(super) bytes: Buffer,
    /// CRC-32 of the bytes.
    crc: u32,
}

/// What a stream is to carry next.
pub(super) enum Outgoing {
    Frame(Frame),
    Data(Header, Arc<Block>),
}

/// What a worker must do with one of its connections. Every worker gets every order and ignores those for streams it does not have.
#[derive(Debug, Clone)]
pub(super) enum Order {
    Close(StreamId),
    Retire(StreamId),
    Replace(StreamId),
    Finish,
}

/// Wakes one worker's loop, at most once until the worker has taken notice.
pub(super) struct Bell {
    waker: mio::Waker,
    rung: AtomicBool,
}

impl Bell {
    pub(super) fn new(waker: mio::Waker) -> Arc<Self> {
        Arc::new(Self { waker, rung: AtomicBool::new(false) })
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the event loop: {error}");
        }
    }

    /// To be called before looking for work, so that what comes after rings again.
    pub(super) fn take(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

struct State {
    session: Session,
    /// Blocks to be sent and not confirmed, by offset.
    outgoing: BTreeMap<u64, Arc<Block>>,
    /// Data received and not in order yet, by offset.
    arrived: BTreeMap<u64, Buffer>,
    /// The writer thread, while it is wanted.
    writer: Option<mpsc::Sender<ToWrite>>,
    orders: Vec<VecDeque<Order>>,
    end: Option<End>,
    /// Why this side gave up, where that is more than the peer is told.
    cause: Option<Error>,
    ledger: Ledger,
    holes: Holes,
    attribution: Attribution,
}

/// Does what [`Hub::on_status`] asks for.
type OnStatus = Box<dyn Fn() + Send + Sync>;

/// See the module documentation.
pub struct Hub {
    state: Mutex<State>,
    bells: Vec<Arc<Bell>>,
    start: Instant,
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
}

impl Hub {
    pub(super) fn new(setup: Setup, bells: Vec<Arc<Bell>>) -> Arc<Self> {
        let window = usize::try_from(setup.config.window).unwrap_or(usize::MAX);
        let holes = Holes::new(setup.config.timeout);
        let state = State {
            session: Session::new(setup.config, Time::default()),
            outgoing: BTreeMap::new(),
            arrived: BTreeMap::new(),
            writer: setup.writer,
            orders: vec![VecDeque::new(); bells.len()],
            end: None,
            cause: None,
            ledger: Ledger::default(),
            holes,
            attribution: Attribution::default(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            bells,
            start: Instant::now(),
            peer: setup.peer,
            pool: Pool::new(setup.peer_block, (window / setup.peer_block).max(2)),
            input_pool: Pool::new(setup.block, (window / setup.block).max(2)),
            members: AtomicUsize::new(0),
            digest: setup.digest,
            on_status: OnceLock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is a bug that ends the process; until then the bookkeeping is whole, since no call panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    /// Time since the session began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn input_pool(&self) -> &Arc<Pool> {
        &self.input_pool
    }

    /// Carries out what the session has decided, and wakes the workers if one of them has something to do.
    fn settle(&self, state: &mut State, mut wake: bool) {
        while let Some(output) = state.session.poll_output() {
            let message = match output {
                Output::Write(extent) => match state.arrived.remove(&extent.offset) {
                    Some(bytes) => ToWrite::Block(extent.offset, bytes),
                    None => unreachable!("the session hands out only what has arrived"),
                },
                Output::Finish => ToWrite::Finish,
            };
            // A writer that is gone has said why by `output_failed`.
            let _ = state.writer.as_ref().map(|writer| writer.send(message));
        }
        while let Some(event) = state.session.poll_event() {
            let order = match event {
                Event::Release(extent) => {
                    state.outgoing.remove(&extent.offset);
                    continue;
                }
                Event::Drop(id) => Order::Close(id),
                Event::Retired(id) => Order::Retire(id),
                Event::Suspect(id) => Order::Replace(id),
                Event::Ended(end) => {
                    log::debug!("session ended: {end:?}");
                    state.end = Some(end);
                    state.outgoing.clear();
                    state.arrived.clear();
                    state.writer = None;
                    self.input_pool.close();
                    Order::Finish
                }
            };
            state.orders.iter_mut().for_each(|queue| queue.push_back(order.clone()));
            wake = true;
        }
        state.ledger.note(&state.session, &self.input_pool, self.now());
        if wake {
            self.bells.iter().for_each(|bell| bell.ring());
        }
    }

    // --- the ends of the pipe ----------------------------------------------------------------------------------------------------

    /// A block of the input; false once nobody wants more.
    pub(super) fn input(&self, bytes: Buffer) -> bool {
        let crc = crc32fast::hash(&bytes);
        let mut state = self.lock();
        let Some(extent) = u32::try_from(bytes.len()).ok().and_then(|len| state.session.input(len)) else {
            return false;
        };
        state.outgoing.insert(extent.offset, Arc::new(Block { bytes, crc }));
        self.settle(&mut state, true);
        true
    }

    /// See [`Sender::pause`].
    pub(super) fn pause(&self) {
        self.lock().session.pause();
    }

    /// See [`Sender::burst`].
    pub(super) fn burst(&self, id: StreamId, bytes: u64) {
        let mut state = self.lock();
        state.session.burst(id, bytes);
        self.settle(&mut state, true);
    }

    /// See [`Sender::release`].
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.session.release();
        self.settle(&mut state, true);
    }

    /// See [`Sender::burst_left`].
    pub(super) fn burst_left(&self, id: StreamId) -> Option<u64> {
        self.lock().session.sender().and_then(|tx| tx.burst_left(id))
    }

    /// Whether no stream has a block under way.
    pub(super) fn is_idle(&self) -> bool {
        self.lock().session.sender().is_none_or(Sender::is_idle)
    }

    /// Whether some block of the input has not been handed to a stream yet.
    pub(super) fn has_backlog(&self) -> bool {
        self.lock().session.sender().is_some_and(Sender::has_backlog)
    }

    pub(super) fn input_end(&self) {
        let mut state = self.lock();
        state.session.input_end();
        self.settle(&mut state, true);
    }

    /// This side gives up: the peer is told `code` and the words of `cause`.
    pub(super) fn fail(&self, code: u64, cause: Error) {
        let mut state = self.lock();
        if !state.session.is_ended() {
            state.session.fail(Fault::new(code, &cause.to_string()));
            state.cause = Some(cause);
        }
        self.settle(&mut state, true);
    }

    pub(super) fn written(&self, offset: u64) {
        let mut state = self.lock();
        if !state.session.is_ended() {
            let wake = state.session.written(offset);
            self.settle(&mut state, wake);
        }
    }

    pub(super) fn output_finished(&self) {
        let mut state = self.lock();
        if !state.session.is_ended() {
            state.session.output_finished();
            self.settle(&mut state, true);
        }
    }

    // --- streams -----------------------------------------------------------------------------------------------------------------

    pub(super) fn stream_up(&self, id: StreamId, terms: &Terms) {
        let mut state = self.lock();
        let now = self.now();
        state.session.stream_up(id, terms, now);
        let State { ledger, session, .. } = &mut *state;
        ledger.retain(session);
        self.settle(&mut state, false);
    }

    pub(super) fn stream_down(&self, id: StreamId, orderly: bool) {
        let mut state = self.lock();
        let now = self.now();
        state.session.stream_down(id, orderly, now);
        state.holes.forget(id, now);
        self.settle(&mut state, true);
    }

    /// This side sees where a stream arrives: the peer will want to know.
    pub(super) fn observe(&self, id: StreamId, seen: Observation) {
        let mut state = self.lock();
        state.session.observe(id, seen);
        state.ledger.see(id, seen);
        self.settle(&mut state, true);
    }

    /// The peer, if it sends and some stream of it arrives this side cannot see where, or only by counters.
    pub(super) fn wants_counters(&self) -> Option<SocketAddr> {
        let state = self.lock();
        let unseen = |id| state.ledger.seen(id).is_none_or(|seen| seen.by == Means::Counters);
        let wanted = !state.session.is_ended() && state.session.receiver().is_some_and(|rx| !rx.is_finished());
        (wanted && state.session.streams().any(unseen)).then_some(self.peer)
    }

    /// The receive counters of this host's slaves, by interface index, in the order of the bond's list: with what each stream has received
    /// they may tell where the streams arrive.
    pub(super) fn weigh(&self, slaves: Vec<(u32, u64)>) {
        if slaves.len() < 2 {
            return;
        }
        let mut state = self.lock();
        let mut told = false;
        let streams = state.session.streams().map(|id| (id.0, state.ledger.volume(id))).collect();
        let count = u16::try_from(slaves.len()).unwrap_or(u16::MAX);
        let look = Look { streams, slaves };
        for (id, place) in state.attribution.look(&look) {
            let (id, ifindex) = (StreamId(id), look.slaves[place].0);
            let slave = u16::try_from(place).unwrap_or(u16::MAX);
            let seen = Observation { ifindex, slave, slaves: count, source: Observation::BY_COUNTERS };
            let known = state.ledger.seen(id);
            if known.is_none_or(|known| known.by == Means::Counters && known != as_seen(seen)) {
                state.session.observe(id, seen);
                state.ledger.see(id, seen);
                told = true;
            }
        }
        self.settle(&mut state, told);
    }

    /// This host's bond towards the peer is that now: the peer will want to know.
    pub fn tell_bond(&self, bond: BondFacts) {
        let mut state = self.lock();
        state.session.tell_bond(bond);
        self.settle(&mut state, true);
    }

    /// The peer's bond, as it told last.
    pub(super) fn peer_bond(&self) -> Option<BondFacts> {
        self.lock().session.peer_bond()
    }

    /// What the peer has told of where a stream arrives.
    pub(super) fn observed(&self, id: StreamId) -> Option<Observation> {
        self.lock().session.observed(id)
    }

    /// Where this side sees a stream arrive.
    pub(super) fn seen(&self, id: StreamId) -> Option<Seen> {
        self.lock().ledger.seen(id)
    }

    pub(super) fn retire(&self, id: StreamId) {
        let mut state = self.lock();
        state.session.retire(id);
        self.settle(&mut state, true);
    }

    pub(super) fn progress_on(&self, id: StreamId) {
        let now = self.now();
        self.lock().session.progress(id, now);
    }

    pub(super) fn heard(&self, id: StreamId) {
        let now = self.now();
        self.lock().session.heard(id, now);
    }

    /// Room for the payload of a Data frame; `None` if it is a repetition to be read past.
    pub(super) fn judge(&self, extent: Extent) -> Result<Option<Buffer>, PeerFault> {
        let mut state = self.lock();
        let judged = state.session.judge(extent);
        self.settle(&mut state, false);
        drop(state);
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
        Ok((judged? == Arrival::Fresh).then(|| self.pool.take_now(len)))
    }

    /// A Data frame is whole and checked; `bytes` is `None` for one that was read past.
    pub(super) fn data(&self, id: StreamId, extent: Extent, bytes: Option<Buffer>) -> Result<(), PeerFault> {
        let mut state = self.lock();
        let arrived = state.session.handle_data(id, extent);
        if let (Ok(Arrival::Fresh), Some(bytes)) = (&arrived, bytes) {
            state.arrived.insert(extent.offset, bytes);
        }
        self.settle(&mut state, false);
        arrived.map(drop)
    }

    pub(super) fn frame(&self, id: StreamId, frame: Frame) -> Result<(), PeerFault> {
        let mut state = self.lock();
        let now = self.now();
        let handled = state.session.handle_frame(id, frame, now);
        self.settle(&mut state, false);
        handled
    }

    /// What a stream that can take bytes is to carry next.
    pub(super) fn poll_transmit(&self, id: StreamId) -> Option<Outgoing> {
        let mut state = self.lock();
        let now = self.now();
        let transmit = state.session.poll_transmit(id, now)?;
        self.settle(&mut state, false);
        match transmit {
            Transmit::Frame(frame) => Some(Outgoing::Frame(frame)),
            Transmit::Data(extent) => {
                let block = Arc::clone(state.outgoing.get(&extent.offset)?);
                let header = Header { kind: Kind::Data, len: extent.len, arg: extent.offset, body_crc: block.crc };
                Some(Outgoing::Data(header, block))
            }
        }
    }

    // --- the worker's loop -------------------------------------------------------------------------------------------------------

    pub(super) fn take_orders(&self, worker: usize) -> VecDeque<Order> {
        std::mem::take(&mut self.lock().orders[worker])
    }

    pub(super) fn handle_timeout(&self) {
        let mut state = self.lock();
        let now = self.now();
        state.session.handle_timeout(now);
        self.settle(&mut state, false);
    }

    /// How long the loop may sleep as far as this session is concerned.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let now = self.now();
        self.lock().session.poll_timeout().map(|at| at.since(now))
    }

    /// A connection has joined.
    pub(super) fn enter(&self) {
        self.members.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection is closed.
    pub(super) fn leave(&self) {
        self.members.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn members(&self) -> usize {
        self.members.load(Ordering::Acquire)
    }

    /// Whether a stream is up and carries data as it should.
    pub(super) fn is_healthy(&self, id: StreamId) -> bool {
        self.lock().session.is_healthy(id)
    }

    pub(super) fn stream_count(&self) -> usize {
        self.lock().session.streams().count()
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.lock().session.is_ended()
    }

    // --- to be seen --------------------------------------------------------------------------------------------------------------

    /// The connector's port of a stream, as this side sees it.
    pub(super) fn name(&self, id: StreamId, source_port: Option<u16>) {
        self.lock().ledger.name(id, source_port);
    }

    /// The number of the worker that has a stream.
    pub(super) fn attend(&self, id: StreamId, worker: usize) {
        self.lock().ledger.attend(id, worker);
    }

    /// The slave that a stream was planned for.
    pub(super) fn plan(&self, id: StreamId, slave: Option<String>) {
        self.lock().ledger.plan(id, slave);
    }

    pub(super) fn tcp(&self, id: StreamId, info: &TcpInfo) {
        let (mut state, now) = (self.lock(), self.now());
        state.ledger.tcp(id, info);
        let TcpInfo { bytes_acked: acked, bytes_received: received, segments, unsent, mss, repeated, .. } = *info;
        state.holes.look(id, Flight { acked, received, segments, unsent, mss, repeated }, now);
    }

    /// Whether what this side sends gets through, by what TCP says of the streams.
    pub(super) fn passage(&self) -> Passage {
        self.lock().holes.judge(self.now())
    }

    /// The address of the other side's first stream.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The loop of worker `index` was awake for so long, of so long.
    pub(super) fn worked(&self, index: usize, awake: Duration, all: Duration) {
        self.lock().ledger.worked(index, awake, all);
    }

    /// A disk is asked whether it has all.
    pub(super) fn flushing(&self) {
        self.lock().ledger.flushing();
    }

    /// What takes the digest of one direction, if that is wanted.
    pub(super) fn hasher(&self) -> Option<blake3::Hasher> {
        self.digest.then(blake3::Hasher::new)
    }

    pub(super) fn digested(&self, digest: Digest) {
        self.lock().ledger.digested(digest);
    }

    /// The digests of the directions that are through, if they were wanted.
    pub(super) fn digests(&self) -> Vec<Digest> {
        self.lock().ledger.digests()
    }

    /// `tell` is to be called whenever a person asks how far the session has got. Only the first is kept.
    pub fn on_status(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_status.set(Box::new(tell));
    }

    /// A person asks how far it has got.
    pub(super) fn status(&self) {
        if let Some(tell) = self.on_status.get() {
            tell();
        }
    }

    /// Everything that is known now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        state.ledger.snapshot(&state.session, self.now())
    }

    /// How the session ended, once it has; with the cause known only here, once.
    pub(super) fn take_end(&self) -> Option<(End, Option<Error>)> {
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
            resent: tx.map_or(0, Sender::resent),
            streams: state.session.stream_stats(),
            ended: state.session.is_ended(),
        }
    }
}
