//! The event loop: one thread, one mio poll, any number of streams.
//!
//! mio is edge-triggered: a socket that has become readable or writable stays so until it answers "would block", and the loop remembers
//! it until then. Reads come before writes, each stream gets a bounded turn, and no turn ends with work left undone without polling again
//! at once.

use super::Options;
use super::conn::{Conn, ConnError, Incoming, Phase};
use super::connect::Connector;
use super::hub::{Bell, Hub, Order};
use super::listen::Listener;
use super::sessions::LINGER;
use crate::error::{Error, words};
use crate::observe::arrivals::Inlet;
use crate::sys::tcp_info::tcp_info;
use crate::transfer::StreamId;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use signal_hook_mio::v1_0::Signals;
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const LISTENER: Token = Token(0);
const BELL: Token = Token(1);
const SIGNALS: Token = Token(2);
/// Tokens of connections count up from here and are never used again, so a stale event finds nobody.
const FIRST_CONN: usize = 16;

/// A connection that has not greeted by then is closed: it cannot hold a place for long.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);
/// How often the kernel is asked how far each stream has got.
const TCP_INFO_EVERY: Duration = Duration::from_millis(200);
/// After a signal a listener gives its sessions so long to end; what blocks for longer (a dead disk) ends with the process.
const STOP: Duration = Duration::from_millis(2500);
/// How soon to look again at what is due but cannot be done now.
const OVERDUE: Duration = Duration::from_millis(10);
/// Rounds of writing before the loop looks for events again.
const WRITE_ROUNDS: usize = 4;

/// What a worker does besides moving frames.
pub(super) enum Role {
    Listener(Listener),
    Connector(Box<Connector>),
}

/// The sockets of one loop.
pub(super) struct Conns {
    registry: Registry,
    map: BTreeMap<Token, Conn>,
    next: usize,
}

impl Conns {
    /// Takes a socket into the loop.
    pub(super) fn add(&mut self, mut socket: TcpStream, peer: SocketAddr, phase: Phase) -> io::Result<Token> {
        let token = Token(self.next);
        self.next += 1;
        self.registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.map.insert(token, Conn::new(socket, peer, phase));
        Ok(token)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Conn> {
        self.map.get_mut(&token)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Conn> {
        let mut conn = self.map.remove(&token)?;
        if let Err(error) = self.registry.deregister(&mut conn.socket) {
            log::debug!("deregistering a socket: {error}");
        }
        Some(conn)
    }

    /// The connection of a session's stream.
    pub(super) fn token_of(&self, hub: &Arc<Hub>, id: StreamId) -> Option<Token> {
        self.map.iter().find(|(_, conn)| conn.is_member(hub, id)).map(|(token, _)| *token)
    }

    /// Connections that have not greeted yet, oldest first.
    pub(super) fn strangers(&self) -> impl Iterator<Item = Token> {
        self.map.iter().filter(|(_, conn)| conn.phase == Phase::Greeting).map(|(token, _)| *token)
    }

    /// Makes room; false if there is nobody to turn away.
    pub(super) fn drop_oldest_stranger(&mut self) -> bool {
        let oldest = self.strangers().next();
        oldest.is_some_and(|token| self.remove(token).is_some())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.map.values()
    }

    fn tokens(&self) -> Vec<Token> {
        self.map.keys().copied().collect()
    }
}

/// See the module documentation.
pub(super) struct Worker {
    index: usize,
    poll: Poll,
    bell: Arc<Bell>,
    signals: Option<Signals>,
    conns: Conns,
    role: Role,
    /// Which connection begins the next round of writing.
    turn: usize,
    looked: Instant,
    /// Time spent asleep since then.
    slept: Duration,
    /// The signal that ends a listener, and when it came.
    stopped: Option<(i32, Instant)>,
    /// When the connector's session was seen to be over.
    ended: Option<Instant>,
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
        let registry = parts.poll.registry().try_clone()?;
        let mut worker = Self {
            index,
            poll: parts.poll,
            bell: parts.bell,
            signals,
            conns: Conns { registry, map: BTreeMap::new(), next: FIRST_CONN },
            role,
            turn: 0,
            looked: Instant::now(),
            slept: Duration::ZERO,
            stopped: None,
            ended: None,
        };
        if let Some(signals) = &mut worker.signals {
            worker.poll.registry().register(signals, SIGNALS, Interest::READABLE)?;
        }
        if let Role::Listener(listener) = &mut worker.role {
            listener.register(worker.poll.registry())?;
        }
        Ok(worker)
    }

    /// Runs until the role's work is done, and gives the role back with the error, if one ended everything. A stream that fails is the
    /// session's affair.
    pub(super) fn run(mut self) -> (Role, Option<Error>) {
        let outcome = self.turn_until_done();
        (self.role, outcome.err())
    }

    fn turn_until_done(&mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(256);
        let loop_failed = |error| Error::os("the event loop failed", error);
        if let Role::Connector(connector) = &mut self.role {
            connector.begin(&mut self.conns)?;
        }
        let mut busy = false;
        loop {
            let timeout = if busy { Duration::ZERO } else { self.sleep_for() };
            let before = Instant::now();
            let polled = self.poll.poll(&mut events, Some(timeout));
            self.slept += before.elapsed();
            match polled {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(loop_failed)?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
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
            if let Role::Connector(connector) = &mut self.role {
                connector.follow(&mut self.conns)?;
            }
            self.connected()?;
            self.admit_waiting();
            busy = self.pump_reads()?;
            busy |= self.pump_writes()?;
            self.timers()?;
            busy |= self.obey();
            if self.is_done() {
                return self.stopped.map_or(Ok(()), |(signal, _)| Err(super::interrupted(signal, None)));
            }
        }
    }

    fn options(&self) -> &Options {
        match &self.role {
            Role::Listener(listener) => listener.options(),
            Role::Connector(connector) => connector.options(),
        }
    }

    fn hubs(&self) -> Vec<Arc<Hub>> {
        match &self.role {
            Role::Listener(listener) => listener.hubs(),
            Role::Connector(connector) => connector.hub().into_iter().cloned().collect(),
        }
    }

    fn sleep_for(&self) -> Duration {
        let hubs = self.hubs();
        // What is overdue although all that can be written was written just now waits for a socket, not for the clock.
        let sessions = hubs.iter().filter_map(|hub| hub.poll_timeout()).map(|due| due.max(OVERDUE));
        let role = match &self.role {
            Role::Connector(connector) => connector.poll_timeout(),
            Role::Listener(_) => None,
        };
        let look = self.conns.iter().any(|conn| conn.phase == Phase::Open).then_some(TCP_INFO_EVERY);
        let greeting = self.conns.strangers().next().map(|_| GREETING_DEADLINE / 10);
        let linger = hubs.iter().any(|hub| hub.is_ended()).then_some(LINGER / 10);
        let idle = Duration::from_hours(1);
        sessions.chain(role).chain(look).chain(greeting).chain(linger).min().unwrap_or(idle)
    }

    // --- events ------------------------------------------------------------------------------------------------------------------

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
        if came.contains(&super::STATUS) {
            for hub in &running {
                hub.status();
            }
            if running.is_empty() {
                log::warn!("no session yet");
            }
        }
        let Some(signal) = came.into_iter().find(|signal| *signal != super::STATUS) else { return Ok(()) };
        if hubs.is_empty() {
            return Err(super::interrupted(signal, None));
        }
        if let Role::Listener(listener) = &self.role {
            listener.stop();
            self.stopped = Some((signal, Instant::now()));
        }
        for hub in running {
            hub.fail(crate::wire::Fault::INTERRUPTED, super::interrupted(signal, Some(&hub.progress())));
        }
        Ok(())
    }

    /// TCP handshakes that have come to their end.
    fn connected(&mut self) -> Result<(), Error> {
        let Role::Connector(connector) = &mut self.role else { return Ok(()) };
        for token in self.conns.tokens() {
            let Some(conn) = self.conns.get_mut(token) else { continue };
            if conn.phase != Phase::Connecting || !conn.writable {
                continue;
            }
            match established(&conn.socket) {
                Ok(true) => connector.connected(token, &mut self.conns),
                Ok(false) => conn.writable = false,
                Err(error) => connector.failed(token, &mut self.conns, &error)?,
            }
        }
        Ok(())
    }

    // --- moving frames -----------------------------------------------------------------------------------------------------------

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
                Ok(Some(Incoming::Closed(orderly))) => self.close(token, orderly, None)?,
                Ok(Some(incoming)) => {
                    more = true;
                    self.greeted(token, incoming)?;
                }
                Err(error) => self.close(token, false, Some(&error))?,
            }
        }
        Ok(more)
    }

    /// Greetings that had to wait ask again.
    fn admit_waiting(&mut self) {
        let Role::Listener(listener) = &mut self.role else { return };
        let waiting = self.conns.map.iter().filter(|(_, conn)| conn.phase == Phase::Admitting);
        for token in waiting.map(|(token, _)| *token).collect::<Vec<_>>() {
            listener.admit(token, &mut self.conns);
        }
    }

    fn greeted(&mut self, token: Token, incoming: Incoming) -> Result<(), Error> {
        match (&mut self.role, incoming) {
            (Role::Listener(listener), Incoming::Hello(hello)) => {
                if let Some(conn) = self.conns.get_mut(token) {
                    conn.wait_with(hello);
                }
                listener.admit(token, &mut self.conns);
                Ok(())
            }
            (Role::Connector(connector), Incoming::Welcome(welcome)) => {
                connector.welcomed(token, &welcome, &mut self.conns)
            }
            _ => {
                let fault = ConnError::Fault(crate::transfer::PeerFault::Unexpected("greeting of the wrong side"));
                self.close(token, false, Some(&fault))
            }
        }
    }

    /// Lets every writable connection write one block at a time, in turn; answers whether there is more to do.
    fn pump_writes(&mut self) -> Result<bool, Error> {
        let mut tokens: Vec<Token> =
            self.conns.map.iter().filter(|(_, conn)| conn.wants_to_write()).map(|(token, _)| *token).collect();
        if tokens.is_empty() {
            return Ok(false);
        }
        for _ in 0..WRITE_ROUNDS {
            self.turn = (self.turn + 1) % tokens.len();
            let first = self.turn;
            tokens.rotate_left(first);
            let mut wrote = false;
            for token in &tokens {
                let Some(conn) = self.conns.get_mut(*token).filter(|conn| conn.wants_to_write()) else { continue };
                match conn.write() {
                    Ok(some) => wrote |= some,
                    Err(error) => self.close(*token, false, Some(&error))?,
                }
            }
            if !wrote {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A connection has come to its end, by the peer's will (`error` is `None`) or by an error.
    fn close(&mut self, token: Token, orderly: bool, error: Option<&ConnError>) -> Result<(), Error> {
        let Some(conn) = self.conns.get_mut(token) else { return Ok(()) };
        let what = error.map_or_else(|| "closed by the peer".to_owned(), ToString::to_string);
        log::debug!("stream with {}: {what}", conn.peer);
        if let (Some(ConnError::Wire(crate::wire::WireError::Version(_))), Role::Listener(_)) = (error, &self.role) {
            // The peer can read our preamble, and say what is wrong on its side.
            conn.greet_bare();
            let _ = conn.write();
        }
        match (&mut self.role, conn.phase) {
            (Role::Connector(connector), Phase::Connecting | Phase::Greeting) => {
                connector.greeting_failed(token, &mut self.conns, error)?;
            }
            (role, phase) => {
                let Some(conn) = self.conns.remove(token) else { return Ok(()) };
                match (role, &conn.member) {
                    (role, Some((hub, id))) if phase == Phase::Open => {
                        hub.stream_down(*id, orderly);
                        if let Role::Connector(connector) = role {
                            connector.lost(*id);
                        }
                    }
                    (Role::Listener(_), None) if phase == Phase::Admitting => {
                        log::info!("{} is gone before it was let in: {what}", conn.peer);
                    }
                    (Role::Listener(listener), None) if !conn.leaving => {
                        listener.tell(&format!("a connection from {} was not mpnc's: {what}", conn.peer));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    // --- time and orders ---------------------------------------------------------------------------------------------------------

    fn timers(&mut self) -> Result<(), Error> {
        for hub in self.hubs() {
            hub.handle_timeout();
        }
        let greeting = match &self.role {
            Role::Connector(connector) => GREETING_DEADLINE.min(connector.patience()),
            Role::Listener(_) => GREETING_DEADLINE,
        };
        let late: Vec<Token> = self
            .conns
            .map
            .iter()
            .filter(|(_, conn)| match conn.phase {
                Phase::Greeting | Phase::Admitting => conn.since.elapsed() >= greeting,
                Phase::Closing => conn.since.elapsed() >= LINGER,
                Phase::Connecting | Phase::Open => false,
            })
            .map(|(token, _)| *token)
            .collect();
        for token in late {
            let silent = ConnError::Io(io::Error::new(io::ErrorKind::TimedOut, "no greeting in time"));
            self.close(token, false, Some(&silent))?;
        }
        if self.looked.elapsed() >= TCP_INFO_EVERY {
            let all = self.looked.elapsed();
            let awake = all.saturating_sub(std::mem::take(&mut self.slept));
            self.hubs().iter().for_each(|hub| hub.worked(self.index, awake, all));
            self.looked = Instant::now();
            let sees = self.options().sight.is_some();
            self.conns.map.values_mut().for_each(|conn| conn.look(sees));
        }
        match &mut self.role {
            Role::Connector(connector) => connector.handle_timeout(&mut self.conns),
            Role::Listener(_) => Ok(()),
        }
    }

    fn obey(&mut self) -> bool {
        for hub in self.hubs() {
            for order in hub.take_orders(self.index) {
                match (order, &mut self.role) {
                    (Order::Close(id), role) => {
                        if let Some(token) = self.conns.token_of(&hub, id) {
                            self.conns.remove(token);
                            if let Role::Connector(connector) = role {
                                connector.lost(id);
                            }
                        }
                    }
                    (Order::Retire(id), _) => {
                        if let Some(conn) = self.conns.token_of(&hub, id).and_then(|token| self.conns.get_mut(token)) {
                            conn.leaving = true;
                        }
                    }
                    (Order::Replace(id), Role::Connector(connector)) => connector.replace(id),
                    (Order::Replace(_) | Order::Finish, _) => {}
                }
            }
        }
        self.say_goodbye()
    }

    /// Streams of a session that is over: flush, close our half, wait for the peer's. Answers whether there is more to write at once.
    fn say_goodbye(&mut self) -> bool {
        let mut more = false;
        for conn in self.conns.map.values_mut() {
            let over = conn.member.as_ref().is_some_and(|(hub, _)| hub.is_ended());
            let leaving = (conn.phase == Phase::Open && over) || (conn.leaving && conn.phase != Phase::Closing);
            if leaving && over && conn.is_flushed() {
                conn.load();
                more |= conn.writable && !conn.is_flushed();
            }
            if leaving && conn.is_flushed() {
                let _ = conn.socket.shutdown(Shutdown::Write);
                conn.enter(Phase::Closing);
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
                let since = *self.ended.get_or_insert_with(Instant::now);
                let flushed = self.conns.iter().all(|conn| conn.member.is_none());
                flushed && connector.are_ends_gone() || since.elapsed() >= LINGER
            }
        }
    }
}

/// Whether a non-blocking connect has succeeded, failed, or is still under way.
fn established(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

impl Conn {
    pub(super) fn is_member(&self, hub: &Arc<Hub>, id: StreamId) -> bool {
        self.member.as_ref().is_some_and(|(own, own_id)| Arc::ptr_eq(own, hub) && *own_id == id)
    }

    fn wants_to_write(&self) -> bool {
        self.writable && self.phase != Phase::Connecting
    }

    /// Asks the kernel where the stream arrives and how far it has got.
    fn look(&mut self, sees: bool) {
        let Some((hub, id)) = self.member.as_ref().filter(|_| self.phase == Phase::Open) else { return };
        if let Some(incoming) = sees.then(|| Inlet::of(self.socket.as_fd(), self.peer)).flatten() {
            hub.comes_in(*id, incoming);
        }
        match tcp_info(self.socket.as_fd()) {
            Ok(info) => {
                hub.tcp(*id, &info);
                if info.bytes_acked > self.acked {
                    self.acked = info.bytes_acked;
                    hub.progress_on(*id);
                }
            }
            Err(error) => log::debug!("TCP_INFO of {}: {}", self.peer, words(&error)),
        }
    }
}
