//! The connecting side: one lane per planned stream, each kept up from its source port, and replaced when it fails.

use super::arrivals::{Probe, Search};
use super::backoff::Backoff;
use super::check::Check;
use super::conn::{Conn, ConnError, Phase};
use super::conns::Conns;
use super::ends::attend;
use super::hub::{Bell, Hub};
use super::options::tune;
use super::passage::{self, Messenger};
use super::replan::{Teller, Way};
use super::sessions::Caller;
use super::spare::Spare;
use super::start::{Begun, Side, begin_session};
use super::survey::{self, Gauge, Measuring};
use super::way_back::WayBack;
use super::{Connect, Open, Options};
use crate::bond::{Planned, Planner};
use crate::error::{Error, words};
use crate::transfer::{REMEMBERED, StreamId, Terms};
use crate::wire::{BondFacts, Fault, Frame, Hello, Refusal, SessionId, Verdict, Welcome};
use mio::Token;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Ports tried for one stream at a time before it counts as failed.
const PORT_TRIES: usize = 64;

/// How much the reason why a stream could not be had tells of the others, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Telling {
    Unreachable,
    Closed,
    Silent,
    Garbled,
    Refused,
}

/// One planned stream.
pub(super) struct Lane {
    pub(super) planned: Planned,
    /// The stream that carries data now.
    pub(super) stream: Option<StreamId>,
    /// It is there to see where it arrives.
    pub(super) probe: Option<Probe>,
    /// A connection on its way to become one.
    pub(super) attempt: Option<Token>,
    retry_at: Option<Instant>,
    backoff: Backoff,
}

impl Lane {
    pub(super) fn new(planned: Planned) -> Self {
        Self { planned, stream: None, probe: None, attempt: None, retry_at: None, backoff: Backoff::new() }
    }

    pub(super) fn give_up_attempt(&mut self, conns: &mut Conns) {
        if let Some(token) = self.attempt.take() {
            conns.remove(token);
        }
    }
}

/// A stream that was up, for the summary.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its number in the session.
    pub id: StreamId,
    /// The source port it had.
    pub port: u16,
    /// The source address and port that the peer saw.
    pub seen: SocketAddr,
    /// Name of the slave that it was planned for.
    pub slave: Option<String>,
}

/// See the module documentation.
pub(super) struct Connector {
    pub(super) target: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) spare: Spare,
    pub(super) messenger: Messenger,
    pub(super) planner: Planner,
    pub(super) lanes: Vec<Lane>,
    pub(super) search: Search,
    session: SessionId,
    next_stream: u32,
    options: Options,
    /// To the session's thread, which waits for it.
    begin: mpsc::Sender<Begun>,
    bells: Vec<Arc<Bell>>,
    pub(super) hub: Option<Arc<Hub>>,
    /// The streams that are up, and the last that were.
    pub(super) opened: Vec<Opened>,
    /// Names of the slaves that the current plan is about, by index.
    pub(super) slaves: Vec<String>,
    /// Whether the number of streams is left to mpnc.
    pub(super) may_grow: bool,
    /// Streams that the receiver's links ask for.
    pub(super) least_streams: u16,
    pub(super) way_back: WayBack,
    pub(super) ways: mpsc::Receiver<Way>,
    pub(super) gauge: Option<Gauge>,
    /// Once the plan is no longer computed.
    pub(super) measuring: Option<Measuring>,
    pub(super) check: Check,
    /// The listener's bond, as the streams are made for it; `None` where it knows of none.
    pub(super) peer_bond: Option<BondFacts>,
    translated: bool,
    /// The most telling reason so far why there is no session.
    failure: Option<(Telling, Error)>,
    /// It has been said that the peer has no room for all streams.
    crowded: bool,
}

impl Connector {
    pub(super) fn new(how: Connect, options: Options, open: Open, bell: Arc<Bell>) -> Result<Self, Error> {
        let way_back = WayBack::of(&how);
        let may_grow = how.may_grow && options.directions.connector_sends();
        let (teller, ways) = mpsc::channel();
        let (follow, teller) = (how.follow, Teller { ways: teller, bell: Arc::downgrade(&bell) });
        let (target, on_session) = (how.target, Arc::clone(&options.on_session));
        let begin = attendant(target, open, move |hub| {
            on_session(hub, &Caller { number: 1, peer: target });
            follow(teller);
        })?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Error::os("cannot get random bytes", io::Error::other(error)))?;
        Ok(Self {
            target: how.target,
            source: how.source,
            spare: Spare::new(how.spare),
            messenger: Messenger::default(),
            planner: how.planner,
            lanes: how.plan.into_iter().map(Lane::new).collect(),
            search: Search::default(),
            session: SessionId(id),
            next_stream: 0,
            options,
            begin,
            bells: vec![bell],
            hub: None,
            opened: Vec::new(),
            slaves: how.slaves,
            may_grow,
            least_streams: 0,
            way_back,
            ways,
            gauge: how.gauge,
            measuring: None,
            check: Check::default(),
            peer_bond: None,
            translated: false,
            failure: None,
            crowded: false,
        })
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.hub.as_ref()
    }

    /// Whether data goes out from here.
    pub(super) fn sends(&self) -> bool {
        self.options.directions.connector_sends()
    }

    pub(super) fn is_done(&self) -> bool {
        self.hub.as_ref().is_some_and(|hub| hub.is_ended())
    }

    /// What became of it.
    pub(super) fn into_parts(self) -> (Option<Arc<Hub>>, Vec<Opened>) {
        (self.hub, self.opened)
    }

    /// Whether nothing is left of the session's ends.
    pub(super) fn are_ends_gone(&self) -> bool {
        self.hub.as_ref().is_none_or(|hub| hub.are_ends_gone())
    }

    /// Opens every lane.
    pub(super) fn begin(&mut self, conns: &mut Conns) -> Result<(), Error> {
        (0..self.lanes.len()).try_for_each(|lane| self.open(lane, conns))
    }

    // --- connecting --------------------------------------------------------------------------------------------------------------

    pub(super) fn open(&mut self, lane: usize, conns: &mut Conns) -> Result<(), Error> {
        self.lanes[lane].retry_at = None;
        for _ in 0..PORT_TRIES {
            let started = self.start(self.lanes[lane].planned.port);
            match started.and_then(|socket| conns.add(socket, self.target, Phase::Connecting)) {
                Ok(token) => {
                    self.lanes[lane].attempt = Some(token);
                    return Ok(());
                }
                Err(error) if is_port_taken(&error) && self.next_port(lane) => {}
                Err(error) => return self.lane_failed(lane, &error),
            }
        }
        self.lane_failed(lane, &io::ErrorKind::AddrInUse.into())
    }

    /// The next source port of the same slave; false if there is none, or the kernel chooses anyway.
    pub(super) fn next_port(&mut self, lane: usize) -> bool {
        let Some(next) = self.planner.replace(&self.lanes[lane].planned) else { return false };
        let old = self.lanes[lane].planned.port;
        log::debug!("lane {lane}: {} instead of {}", port_words(next.port), port_words(old));
        self.lanes[lane].planned = next;
        true
    }

    fn start(&self, port: Option<u16>) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if self.source.is_some() || port.is_some() {
            // Without it a port in TIME_WAIT, or in use towards another host, could not be bound.
            socket.set_reuse_address(true)?;
            let mut from = SocketAddr::new(self.source.unwrap_or_else(|| any_address(self.target)), port.unwrap_or(0));
            if let (SocketAddr::V6(from), SocketAddr::V6(target)) = (&mut from, self.target) {
                // A link-local address means nothing without its link, which is the target's.
                from.set_scope_id(target.scope_id());
            }
            if from == self.target {
                // Where nobody listens, such a socket would connect to itself.
                return Err(io::ErrorKind::AddrInUse.into());
            }
            socket.bind(&from.into()).map_err(|error| bind_error(error, from))?;
        }
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(TcpStream::from_std(socket.into()))
    }

    /// Whether no connection has got as far as a greeting.
    pub(super) fn is_unanswered(&self, conns: &mut Conns) -> bool {
        let mut attempts = self.lanes.iter().filter_map(|lane| lane.attempt);
        attempts.all(|token| conns.get_mut(token).is_some_and(|conn| conn.phase == Phase::Connecting))
    }

    fn lane_of(&self, token: Token) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.attempt == Some(token))
    }

    /// The TCP handshake is done: say hello.
    pub(super) fn connected(&mut self, token: Token, conns: &mut Conns) {
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return };
        tune(&conn.socket);
        let hello = Hello {
            stream: self.next_stream,
            session: self.session,
            directions: self.options.directions,
            established: self.hub.is_some(),
            window: self.options.window,
            block: self.options.block,
            bond: (self.options.bond)(self.target.ip()),
        };
        self.next_stream += 1;
        conn.hello_id = Some(StreamId(hello.stream));
        conn.greet(&Frame::Hello(hello));
        conn.enter(Phase::Greeting, now);
    }

    /// The TCP handshake has failed.
    pub(super) fn failed(&mut self, token: Token, conns: &mut Conns, error: &io::Error) -> Result<(), Error> {
        conns.remove(token);
        let Some(lane) = self.lane_of(token) else { return Ok(()) };
        self.lanes[lane].attempt = None;
        if is_port_taken(error) && self.next_port(lane) {
            return self.open(lane, conns);
        }
        self.lane_failed(lane, error)
    }

    /// The peer took the connection and then did not greet as it should.
    pub(super) fn greeting_failed(
        &mut self,
        token: Token,
        conns: &mut Conns,
        error: Option<&ConnError>,
    ) -> Result<(), Error> {
        conns.remove(token);
        let Some(lane) = self.lane_of(token) else { return Ok(()) };
        self.lanes[lane].attempt = None;
        let (telling, reason) = match error {
            Some(ConnError::Io(error)) if error.kind() == io::ErrorKind::TimedOut && self.hub.is_none() => (
                Telling::Silent,
                "it took the connection but said nothing; is that mpnc, and is it running?".to_owned(),
            ),
            Some(ConnError::Io(error)) => return self.lane_failed(lane, error),
            Some(other) => (Telling::Garbled, other.to_string()),
            None => {
                let text = "it closed the connection without a greeting; is that mpnc, and of this version?";
                (Telling::Closed, text.to_owned())
            }
        };
        self.do_without(lane, telling, Error::Peer(format!("{}: {reason}", self.target)))
    }

    /// A lane could not be opened.
    fn lane_failed(&mut self, lane: usize, error: &io::Error) -> Result<(), Error> {
        if let Some(hub) = &self.hub
            && error.kind() == io::ErrorKind::ConnectionRefused
            && hub.stream_count() == 0
        {
            let reason = format!("the peer at {} is gone (connection refused)", self.target);
            hub.fail(Fault::SILENT, Error::Peer(reason));
        }
        // Whoever resets has taken the connection first: a closed port refuses it.
        if error.kind() == io::ErrorKind::ConnectionReset {
            let text = "it took the connection and cut it off; is that mpnc, and does a firewall in between allow it?";
            return self.do_without(lane, Telling::Closed, Error::Peer(format!("{}: {text}", self.target)));
        }
        let reason = self.unreachable(error);
        match self.do_without(lane, Telling::Unreachable, reason) {
            Err(_) if self.asks_for_spare(error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Before a session a lane that fails matters only when no other is left; then the most telling reason counts. During one it is tried again.
    fn do_without(&mut self, lane: usize, telling: Telling, reason: Error) -> Result<(), Error> {
        log::info!("no stream from {}: {reason}", port_words(self.lanes[lane].planned.port));
        self.retry_later(lane);
        if self.hub.is_some() {
            return Ok(());
        }
        if self.failure.as_ref().is_none_or(|(known, _)| *known < telling) {
            self.failure = Some((telling, reason));
        }
        // One without a time for its next attempt has had none yet.
        if self.lanes.iter().any(|lane| lane.attempt.is_some() || lane.retry_at.is_none()) {
            return Ok(());
        }
        self.failure.take().map_or(Ok(()), |(_, reason)| Err(reason))
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let remedy = match error.kind() {
            io::ErrorKind::ConnectionRefused => "start `mpnc -l` there first, and check the port",
            io::ErrorKind::TimedOut => {
                "no answer: check the address, and let this one TCP port through every firewall on the way"
            }
            io::ErrorKind::AddrInUse => "all source ports of the range are taken: give a wider one with -p",
            io::ErrorKind::AddrNotAvailable => {
                "all source ports of the range are in use towards it: give a wider one with -p"
            }
            io::ErrorKind::PermissionDenied => "a firewall of this host forbids it, or -p has ports below 1024",
            _ => "",
        };
        let doing = format!("cannot connect to {}", self.target);
        let ports = self.silent_ports().filter(|_| error.kind() == io::ErrorKind::TimedOut);
        let reason = ports.map_or_else(|| words(error), |ports| format!("{}: {ports}", words(error)));
        Error::Unreachable { doing, reason, remedy }
    }

    fn retry_later(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        let now = Instant::now();
        lane.retry_at = Some(now + lane.backoff.pause(now));
    }

    // --- in the session ----------------------------------------------------------------------------------------------------------

    /// The listener has answered.
    pub(super) fn welcomed(&mut self, token: Token, welcome: &Welcome, conns: &mut Conns) -> Result<(), Error> {
        let Some(lane) = self.lane_of(token) else { return Ok(()) };
        if let Verdict::Refused(refusal, text) = &welcome.verdict {
            conns.remove(token);
            self.lanes[lane].attempt = None;
            return self.refused(lane, *refusal, text);
        }
        let is_first = self.hub.is_none();
        let hub = match &self.hub {
            Some(hub) => Arc::clone(hub),
            None => self.begin_session(welcome)?,
        };
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return Ok(()) };
        let Some(id) = conn.hello_id else { return Ok(()) };
        let port = conn.socket.local_addr().map_or(0, |addr| addr.port());
        if port != welcome.seen.port() && !std::mem::replace(&mut self.translated, true) {
            log::warn!(
                "the peer sees source port {port} as {}: a NAT rewrites ports, so what was computed from them may not hold",
                welcome.seen.port()
            );
            self.doubt(&hub);
        }
        hub.stream_up(id, &Terms { window: welcome.window, block: welcome.block, bond: welcome.bond });
        conn.join(Arc::clone(&hub), id, welcome.block, now);
        passage::stream_up(&hub);
        let bond = hub.peer_bond();
        if is_first {
            self.tell_spare();
            self.peer_bond = bond;
        }
        let planned = self.lanes[lane].planned.slave;
        let slave = planned.and_then(|slave| self.slaves.get(usize::from(slave))).cloned();
        log::info!("stream {} up from port {port}, planned for {}", id.0, slave.as_deref().unwrap_or("no slave"));
        hub.plan(id, slave.clone());
        self.remember(Opened { id, port, seen: welcome.seen, slave });
        let lane = &mut self.lanes[lane];
        lane.attempt = None;
        lane.backoff.up(Instant::now());
        if let Some(old) = lane.stream.replace(id) {
            if hub.is_healthy(old) {
                hub.retire(old);
            } else {
                // What it replaces was suspect, and its blocks are with others already.
                if let Some(token) = conns.token_of(&hub, old) {
                    conns.remove(token).into_iter().for_each(Conn::reset);
                }
                hub.stream_down(old, false);
            }
        }
        match bond {
            // A port that is translated on the way is not the one that the peer's bond hashes.
            Some(_) if self.options.directions.listener_sends() && welcome.seen.port() != port => Ok(()),
            Some(bond) if self.options.directions.listener_sends() => {
                self.learn_way_back((bond, welcome.seen.ip()), conns)
            }
            Some(bond) if is_first => self.match_receiver(bond, conns),
            _ => Ok(()),
        }
    }

    /// On a bond that flaps for days streams are without number.
    fn remember(&mut self, opened: Opened) {
        self.opened.push(opened);
        let is_past = |opened: &Opened| self.lanes.iter().all(|lane| lane.stream != Some(opened.id));
        if self.opened.len() > REMEMBERED
            && let Some(oldest) = self.opened.iter().position(is_past)
        {
            self.opened.remove(oldest);
        }
    }

    fn refused(&mut self, lane: usize, refusal: Refusal, text: &str) -> Result<(), Error> {
        let reason = format!("{} refused: {text}", self.target);
        let Some(hub) = &self.hub else {
            // This may be about one stream too many: its first may have been let in.
            return match refusal {
                Refusal::BadRequest => self.do_without(lane, Telling::Refused, Error::Refused(reason)),
                _ => Err(Error::Refused(reason)),
            };
        };
        if refusal == Refusal::NoSuchSession && hub.stream_count() == 0 {
            hub.fail(Fault::SILENT, Error::Peer(reason.clone()));
        }
        if self.lanes[lane].probe.is_some() {
            self.probe_refused(lane);
            return Ok(());
        }
        if refusal == Refusal::BadRequest && !std::mem::replace(&mut self.crowded, true) {
            log::warn!("{reason}; the other streams carry on");
        } else {
            log::info!("{reason}");
        }
        self.retry_later(lane);
        Ok(())
    }

    fn begin_session(&mut self, welcome: &Welcome) -> Result<Arc<Hub>, Error> {
        let begun = begin_session(&self.options, Side::Connector, self.target, welcome.block, &self.bells);
        let hub = Arc::clone(&begun.hub);
        self.hub = Some(Arc::clone(&hub));
        self.measure_first(&hub);
        self.begin.send(begun).map_err(|_| Error::Bug("the session's thread is gone".into()))?;
        Ok(hub)
    }

    /// A stream of the session is gone.
    pub(super) fn lost(&mut self, id: StreamId) {
        if let Some(lane) = self.lanes.iter().position(|lane| lane.stream == Some(id)) {
            self.lanes[lane].stream = None;
            if self.lanes[lane].attempt.is_none() {
                self.retry_later(lane);
            }
        }
    }

    /// A stream of the session is suspect: open its successor beside it, unless it recovers first.
    pub(super) fn replace(&mut self, id: StreamId) {
        let lane = self.lanes.iter().position(|lane| lane.stream == Some(id));
        if let Some(lane) = lane.filter(|lane| self.lanes[*lane].attempt.is_none()) {
            self.retry_later(lane);
        }
    }

    // --- time --------------------------------------------------------------------------------------------------------------------

    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let retry = self.lanes.iter().filter_map(|lane| lane.retry_at).map(|at| at.saturating_duration_since(now));
        let measure = self.is_searching().then_some(survey::TICK);
        if self.is_spare_due() {
            return Some(Duration::ZERO);
        }
        if self.is_done() || self.hub.is_none() { None } else { retry.chain(measure).min() }
    }

    pub(super) fn handle_timeout(&mut self, conns: &mut Conns) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        self.try_spare(self.options.timeout, conns)?;
        self.hear_bond(conns)?;
        if let Some(hub) = self.hub.clone() {
            let now = Instant::now();
            let due = |lane: &Lane| lane.attempt.is_none() && lane.retry_at.is_some_and(|at| at <= now);
            for lane in 0..self.lanes.len() {
                let recovered = self.lanes[lane].stream.is_some_and(|id| hub.is_healthy(id));
                if recovered {
                    self.lanes[lane].retry_at = None;
                } else if due(&self.lanes[lane]) {
                    // A new port: the old one may be what a device in between has closed its mind about.
                    self.next_port(lane);
                    self.open(lane, conns)?;
                }
            }
        }
        self.look_through(conns)?;
        self.measure(conns)?;
        // What is measured at this end is not chosen by ports, so there is nothing to choose for the other end.
        if self.measuring.is_some() { Ok(()) } else { self.even_arrivals(conns) }
    }
}

/// Starts the session's thread, which does what takes time: before there is a session, so that its first byte need not wait for a thread.
/// `also` is done when the ends are at work.
fn attendant(
    target: SocketAddr,
    open: Open,
    also: impl FnOnce(&Arc<Hub>) + Send + 'static,
) -> Result<mpsc::Sender<Begun>, Error> {
    let (begin, begins) = mpsc::channel::<Begun>();
    let work = move || {
        let Ok(Begun { hub, queue, mut lookout }) = begins.recv() else { return };
        attend(&open, &Caller { number: 1, peer: target }, &hub, queue, &mut lookout, || also(&hub));
        while !hub.is_ended() {
            lookout.wait(&hub, None);
        }
    };
    let thread = thread::Builder::new().name("session".into()).spawn(work);
    thread.map_err(|error| Error::os("cannot start a thread", error))?;
    Ok(begin)
}

/// A source port in messages; `None` leaves it to the kernel.
fn port_words(port: Option<u16>) -> String {
    port.map_or_else(|| "a port of the kernel's choice".to_owned(), |port| format!("port {port}"))
}

fn any_address(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

/// At bind(2) EADDRNOTAVAIL speaks of the address, at connect(2) of the port: only there another port would help.
fn bind_error(error: io::Error, from: SocketAddr) -> io::Error {
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no address of this host (-s)", from.ip()));
    }
    error
}

/// Errors that mean: this source port not, another perhaps.
fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
