//! The event loop: one thread, one mio poll, any number of streams.
//!
//! mio is edge-triggered: a socket that has become readable or writable stays so until it answers "would block", and
//! the loop remembers it until then. Reads come before writes, each stream gets a bounded turn, and no turn ends with
//! work left undone without polling again at once.

use super::bell::Bell;
use super::carrier::Carrier;
use super::clock;
use super::conn::{Conn, ConnError, Incoming, Phase};
use super::connect::Connector;
use super::conns::{BELL, Conns, LISTENER, SIGNALS};
use super::deadline::{self, LINGER};
use super::dial::is_established;
use super::hub::{Errand, Hub, Turn};
use super::listen::Listener;
use super::options::Options;
use crate::error::{Error, words};
use crate::observe::arrivals::Inlet;
use crate::sys::tcp_info::tcp_info;
use crate::sys::txrehash;
use crate::transfer::{LOOK_EVERY, StreamId, Time};
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Signals that end a transfer.
pub(super) const ENDING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// Asks for a line of status, as dd has it.
pub(super) const STATUS: i32 = libc::SIGUSR1;
/// How often the kernel is asked how far each stream has got.
const TCP_INFO_EVERY: Duration = Duration::from_millis(200);
/// After a signal a listener gives its sessions so long to end; what blocks for longer (a dead disk) ends with the
/// process.
const STOP: Duration = Duration::from_millis(2500);
/// How soon to look again at what is due but cannot be done now.
const OVERDUE: Duration = Duration::from_millis(10);
/// Rounds of writing before the loop looks for events again.
const WRITE_ROUNDS: usize = 4;

/// What a worker does besides moving frames.
pub(super) enum Role {
    Listener(Listener),
    Connector(Box<Connector>),
    Carrier(Carrier),
}

/// See the module documentation.
pub(super) struct Worker {
    index: usize,
    bell: Arc<Bell>,
    signals: Option<Signals>,
    conns: Conns,
    role: Role,
    /// What each session told in this turn.
    turns: Vec<(Arc<Hub>, Turn)>,
    /// Which connection begins the next round of writing.
    turn: usize,
    looked: Instant,
    /// Time spent asleep since then.
    slept: Duration,
    /// The signal that ends a listener, and when it came.
    stopped: Option<(i32, Instant)>,
    /// When the connector's session was seen to be over.
    ended: Option<Time>,
}

/// The parts of a loop that must exist before its role does.
pub(super) struct Parts {
    pub(super) poll: Poll,
    pub(super) bell: Arc<Bell>,
}

impl Parts {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Bell::new(mio::Waker::new(poll.registry(), BELL)?);
        Ok(Self { poll, bell })
    }
}

impl Worker {
    /// A loop in which worker number `index` plays `role`. Signals go to one worker.
    pub(super) fn new(index: usize, parts: Parts, signals: Option<Signals>, role: Role) -> io::Result<Self> {
        let mut worker = Self {
            index,
            bell: parts.bell,
            signals,
            conns: Conns::new(parts.poll, clock::look()),
            role,
            turns: Vec::new(),
            turn: 0,
            looked: Instant::now(),
            slept: Duration::ZERO,
            stopped: None,
            ended: None,
        };
        if let Some(signals) = &mut worker.signals {
            worker.conns.registry().register(signals, SIGNALS, Interest::READABLE)?;
        }
        if let Role::Listener(listener) = &mut worker.role {
            listener.register(worker.conns.registry())?;
        }
        Ok(worker)
    }

    /// Runs until the role's work is done, and gives the role back with the error, if one ended everything. A stream
    /// that fails is the session's affair.
    pub(super) fn run(mut self) -> (Role, Option<Error>) {
        let outcome = self.turn_until_done();
        (self.role, outcome.err())
    }

    fn turn_until_done(&mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(256);
        let loop_failed = |error| Error::os("the event loop failed", error);
        if let Role::Connector(connector) = &mut self.role {
            connector.proceed(&mut self.conns)?;
        }
        let mut busy = false;
        loop {
            let timeout = if busy { Duration::ZERO } else { self.sleep_for() };
            let before = Instant::now();
            let polled = self.conns.poll(&mut events, timeout);
            self.slept += before.elapsed();
            self.conns.now = clock::look();
            match polled {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(loop_failed)?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.knocked(),
                    BELL => {}
                    SIGNALS => self.signal()?,
                    token => {
                        if let Some(conn) = self.conns.get_mut(token) {
                            conn.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                            conn.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
                        }
                    }
                }
            }
            self.bell.take();
            self.accept();
            self.connected();
            self.admit_waiting();
            busy = self.pump_reads()?;
            busy |= self.pump_writes();
            self.timers()?;
            busy |= self.obey();
            if self.is_done() {
                return self.stopped.map_or(Ok(()), |(signal, _)| Err(Error::Interrupted { signal }));
            }
        }
    }

    fn options(&self) -> &Options {
        match &self.role {
            Role::Listener(listener) => listener.options(),
            Role::Connector(connector) => connector.options(),
            Role::Carrier(carrier) => carrier.options(),
        }
    }

    fn hubs(&self) -> Vec<Arc<Hub>> {
        match &self.role {
            Role::Listener(listener) => listener.hubs(),
            Role::Connector(connector) => connector.hub().into_iter().cloned().collect(),
            Role::Carrier(carrier) => carrier.hub().into_iter().cloned().collect(),
        }
    }

    fn sleep_for(&mut self) -> Duration {
        // What is overdue although all that can be written was written just now waits for a socket, not for the clock.
        let sessions = self.turns.iter().filter_map(|(_, turn)| turn.due).map(|due| due.max(OVERDUE));
        let role = match &mut self.role {
            Role::Connector(connector) => connector.poll_timeout(&self.conns),
            Role::Listener(listener) => {
                let strangers = listener.strangers().poll_timeout();
                strangers.into_iter().chain(listener.poll_timeout(self.conns.now)).min()
            }
            Role::Carrier(_) => None,
        };
        // Whatever is waited for, the clock wants to be looked at; streams and farewells are looked at with it.
        let waiting = !self.turns.is_empty() || self.conns.iter().next().is_some();
        let idle = if waiting { LOOK_EVERY } else { Duration::from_hours(1) };
        sessions.chain(role).min().unwrap_or(idle).min(idle)
    }

    // --- events ------------------------------------------------------------------------------------------------------

    fn knocked(&mut self) {
        if let Role::Listener(listener) = &mut self.role {
            listener.knocked();
        }
    }

    fn accept(&mut self) {
        if let Role::Listener(listener) = &mut self.role {
            listener.accept(&mut self.conns);
        }
    }

    fn signal(&mut self) -> Result<(), Error> {
        let Some(signals) = &mut self.signals else { return Ok(()) };
        let came: Vec<i32> = signals.pending().collect();
        let hubs = self.hubs();
        let running: Vec<_> = hubs.iter().filter(|hub| !hub.is_ended()).collect();
        if came.contains(&STATUS) {
            for hub in &running {
                hub.status();
            }
            if running.is_empty() {
                log::warn!("no session yet");
            }
        }
        let Some(signal) = came.into_iter().find(|signal| *signal != STATUS) else { return Ok(()) };
        if hubs.is_empty() {
            return Err(Error::Interrupted { signal });
        }
        if let Role::Listener(listener) = &self.role {
            listener.stop();
            // Whoever is impatient and sends another does not begin the wait anew.
            self.stopped.get_or_insert_with(|| (signal, Instant::now()));
        }
        for hub in running {
            hub.fail(crate::wire::Fault::INTERRUPTED, Error::Interrupted { signal });
        }
        Ok(())
    }

    /// TCP handshakes that have come to their end.
    fn connected(&mut self) {
        let Role::Connector(connector) = &mut self.role else { return };
        for token in self.conns.tokens() {
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if conn.phase != Phase::Connecting || !conn.writable {
                continue;
            }
            match is_established(&conn.socket) {
                Ok(true) => connector.connected(token, &mut self.conns),
                Ok(false) => conn.writable = false,
                Err(error) => connector.failed(token, &mut self.conns, &error),
            }
        }
    }

    // --- moving frames -----------------------------------------------------------------------------------------------

    /// Lets every readable connection read; answers whether any has more.
    fn pump_reads(&mut self) -> Result<bool, Error> {
        let mut more = false;
        for token in self.conns.tokens() {
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if !conn.readable || conn.phase == Phase::Connecting {
                continue;
            }
            match conn.read() {
                Ok(None) => conn.readable = false,
                Ok(Some(Incoming::Yield)) => more = true,
                Ok(Some(Incoming::Closed(orderly))) => self.close(token, orderly, None),
                Ok(Some(incoming)) => {
                    more = true;
                    self.greeted(token, incoming)?;
                }
                Err(error) => self.close(token, false, Some(&error)),
            }
        }
        Ok(more)
    }

    /// Greetings that had to wait ask again.
    fn admit_waiting(&mut self) {
        let Role::Listener(listener) = &mut self.role else { return };
        for token in self.conns.in_phase(Phase::Admitting) {
            listener.admit(token, &mut self.conns);
        }
    }

    fn greeted(&mut self, token: Token, incoming: Incoming) -> Result<(), Error> {
        match (&mut self.role, incoming) {
            (Role::Listener(listener), Incoming::Hello(hello)) => {
                let now = self.conns.now;
                if let Some(conn) = self.conns.get_mut(token) {
                    conn.wait_with(hello, now);
                }
                listener.hasten();
                listener.admit(token, &mut self.conns);
                Ok(())
            }
            (Role::Connector(connector), Incoming::Welcome(welcome)) => {
                connector.welcomed(token, &welcome, &mut self.conns)
            }
            _ => {
                let fault = ConnError::Fault(crate::transfer::PeerFault::Unexpected("greeting of the wrong side"));
                self.close(token, false, Some(&fault));
                Ok(())
            }
        }
    }

    /// Lets every writable connection write one block at a time, in turn; answers whether there is more to do.
    fn pump_writes(&mut self) -> bool {
        let mut tokens = self.conns.writable();
        if tokens.is_empty() {
            return false;
        }
        for _ in 0..WRITE_ROUNDS {
            self.turn = (self.turn + 1) % tokens.len();
            let first = self.turn;
            tokens.rotate_left(first);
            self.conns.load(&tokens);
            let mut wrote = Vec::with_capacity(tokens.len());
            for token in tokens {
                let Some(conn) = self.conns.get_mut(token).filter(|conn| conn.wants_to_write()) else { continue };
                match conn.write() {
                    Ok(true) => wrote.push(token),
                    Ok(false) => {}
                    Err(error) => self.close(token, false, Some(&error)),
                }
            }
            // Who had nothing to say is not asked again before the next turn.
            tokens = wrote;
            if tokens.is_empty() {
                return false;
            }
        }
        true
    }

    /// A connection has come to its end, by the peer's will (`error` is `None`) or by an error.
    fn close(&mut self, token: Token, orderly: bool, error: Option<&ConnError>) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        let what = error.map_or_else(|| "closed by the peer".to_owned(), ToString::to_string);
        log::debug!("stream with {}: {what}", conn.peer);
        if let (Some(ConnError::Wire(crate::wire::WireError::Version(_))), Role::Listener(_)) = (error, &self.role) {
            // The peer can read our preamble, and say what is wrong on its side.
            conn.greet_bare();
            let _ = conn.write();
        }
        match (&mut self.role, conn.phase) {
            (Role::Connector(connector), Phase::Connecting | Phase::Greeting) => {
                connector.greeting_failed(token, &mut self.conns, error);
            }
            (role, phase) => {
                let Some(conn) = self.conns.remove(token) else { return };
                match (role, &conn.member) {
                    (_, Some((hub, id))) if matches!(phase, Phase::Open | Phase::Parting) => {
                        hub.stream_down(*id, orderly);
                    }
                    (Role::Listener(_), None) if phase == Phase::Admitting => {
                        log::info!("{} is gone before it was let in: {what}", conn.peer);
                    }
                    (Role::Listener(listener), None) if !conn.leaving => {
                        listener.strangers().tell(&format!("a connection from {} was not mpnc's: {what}", conn.peer));
                    }
                    _ => {}
                }
            }
        }
    }

    // --- time and orders ---------------------------------------------------------------------------------------------

    fn timers(&mut self) -> Result<(), Error> {
        self.turns = self.hubs().into_iter().map(|hub| (Arc::clone(&hub), hub.turn(self.index))).collect();
        let in_session = matches!(&self.role, Role::Connector(connector) if connector.hub().is_some());
        for token in self.conns.late(deadline::of_attempts(self.options().timeout, in_session)) {
            self.expire(token);
        }
        if self.looked.elapsed() >= TCP_INFO_EVERY {
            let all = self.looked.elapsed();
            let awake = all.saturating_sub(std::mem::take(&mut self.slept));
            self.turns.iter().for_each(|(hub, _)| hub.worked(self.index, awake, all));
            self.looked = Instant::now();
            let (sees, now) = (self.options().sight.is_some(), self.conns.now);
            self.conns.iter_mut().for_each(|conn| conn.look(sees, now));
        }
        match &mut self.role {
            Role::Connector(connector) => {
                let news = self.turns.first_mut().and_then(|(_, turn)| turn.news.take());
                connector.turn(news, &mut self.conns)
            }
            Role::Listener(listener) => {
                listener.handle_timeout();
                Ok(())
            }
            Role::Carrier(carrier) => {
                carrier.take_over(&mut self.conns);
                Ok(())
            }
        }
    }

    /// A connection's phase has lasted too long.
    fn expire(&mut self, token: Token) {
        let Some(conn) = self.conns.get_mut(token) else { return };
        match (conn.phase, &mut self.role) {
            (Phase::Connecting, Role::Connector(connector)) => {
                connector.failed(token, &mut self.conns, &io::ErrorKind::TimedOut.into());
            }
            (Phase::Admitting, Role::Listener(listener)) => {
                listener.give_up(conn);
            }
            (Phase::Parting | Phase::Closing, _) => {
                let useless =
                    conn.phase == Phase::Parting || conn.member.as_ref().is_some_and(|(hub, _)| hub.has_failed());
                log::debug!("stream with {}: its last words are not taken", conn.peer);
                self.conns.remove(token).filter(|_| useless).into_iter().for_each(Conn::reset);
            }
            _ => {
                let silent = ConnError::Io(io::Error::new(io::ErrorKind::TimedOut, "no greeting in time"));
                self.close(token, false, Some(&silent));
            }
        }
    }

    fn obey(&mut self) -> bool {
        for (hub, turn) in &mut self.turns {
            for order in std::mem::take(&mut turn.orders) {
                let (Errand::Close(id) | Errand::Retire(id) | Errand::Pin(id)) = order else { continue };
                let Some(token) = self.conns.token_of(hub, id) else { continue };
                match (order, self.conns.get_mut(token)) {
                    (Errand::Close(_), _) => self.conns.remove(token).into_iter().for_each(Conn::reset),
                    (Errand::Retire(_), Some(conn)) => conn.leaving = true,
                    (Errand::Pin(_), Some(conn)) => conn.pin(id),
                    _ => {}
                }
            }
        }
        self.say_goodbye()
    }

    /// Streams of a session that is over: flush, close our half, wait for the peer's. Answers whether there is more to
    /// write at once.
    fn say_goodbye(&mut self) -> bool {
        let (mut more, now) = (false, self.conns.now);
        for conn in self.conns.iter_mut() {
            let over = conn.member.as_ref().is_some_and(|(hub, _)| hub.is_ended());
            if (conn.leaving || over) && matches!(conn.phase, Phase::Greeting | Phase::Admitting | Phase::Open) {
                conn.enter(Phase::Parting, now);
            }
            if conn.phase == Phase::Parting && over && conn.is_flushed() {
                Conn::load(vec![&mut *conn]);
                more |= conn.writable && !conn.is_flushed();
            }
            if conn.phase == Phase::Parting && conn.is_flushed() {
                let _ = conn.socket.shutdown(Shutdown::Write);
                conn.enter(Phase::Closing, now);
            }
        }
        more
    }

    fn is_done(&mut self) -> bool {
        match &self.role {
            Role::Listener(listener) => {
                listener.is_done() || self.stopped.is_some_and(|(_, since)| since.elapsed() >= STOP)
            }
            Role::Connector(connector) if !connector.is_done() => false,
            Role::Connector(connector) => {
                let since = *self.ended.get_or_insert(self.conns.now);
                connector.is_nothing_left() || self.conns.now.since(since) >= LINGER
            }
            Role::Carrier(carrier) => carrier.is_done(),
        }
    }
}

impl Conn {
    pub(super) fn is_member(&self, hub: &Arc<Hub>, id: StreamId) -> bool {
        self.member.as_ref().is_some_and(|(own, own_id)| Arc::ptr_eq(own, hub) && *own_id == id)
    }

    pub(super) fn wants_to_write(&self) -> bool {
        self.writable && self.phase != Phase::Connecting
    }

    /// Keeps the hash of its packets as it is.
    fn pin(&self, id: StreamId) {
        if let Err(error) = txrehash::pin(self.socket.as_fd()) {
            log::debug!("cannot keep the hash of stream {}: {}", id.0, words(&error));
        }
    }

    /// Asks the kernel how far the stream has got and, while it carries data, where it arrives.
    fn look(&mut self, sees: bool, now: Time) {
        let Some((hub, id)) = &self.member else { return };
        let open = self.phase == Phase::Open;
        let comes_in = (sees && open).then(|| Inlet::of(self.socket.as_fd(), self.peer)).flatten();
        match tcp_info(self.socket.as_fd()) {
            Ok(info) => {
                let moves = info.bytes_acked > self.acked;
                if moves {
                    (self.acked, self.moved) = (info.bytes_acked, now);
                }
                if open {
                    hub.look(*id, &info, moves, comes_in);
                }
            }
            Err(error) => log::debug!("TCP_INFO of {}: {}", self.peer, words(&error)),
        }
    }
}
