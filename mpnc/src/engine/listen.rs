//! The listening side: one port, whoever greets properly is let in, everybody else is shown out.

use super::conn::Phase;
use super::hub::{Bell, Hub, Setup};
use super::stdio::{spawn_reader, spawn_writer, writer_queue};
use super::worker::{Conns, LISTENER};
use super::{Options, Pipe};
use crate::error::{Error, words};
use crate::transfer::{Config, StreamId, Terms};
use crate::wire::{Directions, Frame, Hello, Refusal, SessionId, Verdict, Welcome};
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections waiting in the kernel: more than any session's streams, capped by net.core.somaxconn.
const BACKLOG: i32 = 1024;
/// Connections that have not greeted; the oldest makes room for the next, so that garbage cannot use up the descriptors.
const MAX_STRANGERS: usize = 128;

/// Opens the listening socket of one worker on `addr`. Nobody else may hold the port: of several workers the first binds it alone first.
///
/// # Errors
/// The system's, with the address.
pub(super) fn open(addr: SocketAddr, group: bool) -> Result<Socket, Error> {
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            // [::] takes IPv4 as well, whatever net.ipv6.bindv6only says.
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        if group {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    bind().map_err(|source| {
        let remedy = match source.kind() {
            io::ErrorKind::AddrInUse => "another process has the port: `ss -ltnp` names it",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privilege: take a higher one",
            io::ErrorKind::AddrNotAvailable => "no interface has this address: `ip address` lists them",
            _ => "",
        };
        Error::Os { doing: format!("cannot listen on {addr}"), source, remedy }
    })
}

pub(super) fn start(socket: &Socket, addr: SocketAddr) -> Result<(), Error> {
    socket.listen(BACKLOG).map_err(|source| Error::os(format!("cannot listen on {addr}"), source))
}

/// The session that the workers share.
struct Current {
    id: SessionId,
    directions: Directions,
    peer: SocketAddr,
    block: u32,
    hub: Arc<Hub>,
}

/// What all workers of a listener share.
pub(super) struct Sessions {
    options: Options,
    bells: Vec<Arc<Bell>>,
    state: Mutex<State>,
}

struct State {
    current: Option<Current>,
    /// The ends of the pipe, until a session takes them.
    pipe: Option<Pipe>,
    /// What kept the first session from starting.
    failed: Option<Error>,
}

impl Sessions {
    pub(super) fn new(options: Options, pipe: Pipe, bells: Vec<Arc<Bell>>) -> Arc<Self> {
        let state = State { current: None, pipe: Some(pipe), failed: None };
        Arc::new(Self { options, bells, state: Mutex::new(state) })
    }

    fn current<T>(&self, read: impl FnOnce(&Current) -> T) -> Option<T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).current.as_ref().map(read)
    }

    /// The session, with the peer's address and the direction, once there is one.
    pub(super) fn hub(&self) -> Option<(Arc<Hub>, SocketAddr)> {
        self.current(|current| (Arc::clone(&current.hub), current.peer))
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed.take()
    }

    /// Lets a stream in, or says why not.
    fn admit(&self, hello: &Hello, peer: SocketAddr) -> Result<(Arc<Hub>, u32), (Refusal, String)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &state.current {
            return if current.id != hello.session {
                let text = format!("busy with a session from {}; this receiver takes one", current.peer.ip());
                Err((Refusal::Busy, text))
            } else if current.hub.is_ended() {
                Err((Refusal::NoSuchSession, "the session is over".into()))
            } else if current.directions != hello.directions || current.block != hello.block {
                Err((Refusal::BadRequest, "the streams of one session must agree".into()))
            } else {
                self.check_room(&current.hub, current.block)?;
                Ok((Arc::clone(&current.hub), current.block))
            };
        }
        if hello.established {
            return Err((Refusal::NoSuchSession, "this receiver does not know the session: it was restarted".into()));
        }
        let expected = self.options.directions;
        if hello.directions != expected {
            let text = format!(
                "the connector wants data {}, this listener {}: use the same option on both sides",
                hello.directions.describe(),
                expected.describe()
            );
            return Err((Refusal::Directions, text));
        }
        if u64::from(hello.block) * 2 > self.options.window {
            let text = format!("blocks of {} bytes do not fit a window of {}", hello.block, self.options.window);
            return Err((Refusal::BadRequest, text));
        }
        let hub = match self.begin(&mut state, hello) {
            Ok(hub) => hub,
            Err(error) => {
                let text = error.to_string();
                state.failed = Some(error);
                return Err((Refusal::BadRequest, text));
            }
        };
        log::info!("session {} from {peer}", hello.session);
        state.current = Some(Current {
            id: hello.session,
            directions: hello.directions,
            peer,
            block: hello.block,
            hub: Arc::clone(&hub),
        });
        (self.options.on_session)(&hub, peer);
        Ok((hub, hello.block))
    }

    /// Every stream can hold one block that is not in the window yet; together they must not outgrow it.
    fn check_room(&self, hub: &Hub, block: u32) -> Result<(), (Refusal, String)> {
        let streams = hub.stream_count() as u64 + 1;
        if streams * u64::from(block) > self.options.window {
            return Err((Refusal::BadRequest, format!("{streams} streams are too many for the window")));
        }
        Ok(())
    }

    fn begin(&self, state: &mut State, hello: &Hello) -> Result<Arc<Hub>, Error> {
        let pipe = state.pipe.take().ok_or_else(|| Error::Bug("a second session on one pipe".into()))?;
        let (writer, queue) = writer_queue();
        let setup = Setup {
            config: Config {
                sends: hello.directions.listener_sends(),
                receives: hello.directions.connector_sends(),
                window: self.options.window,
                timeout: self.options.timeout,
            },
            block: self.options.block as usize,
            peer_block: hello.block as usize,
            writer: Some(writer),
        };
        let hub = Hub::new(setup, self.bells.clone());
        let failed = |error| Error::os("cannot start a thread", error);
        if let Some(output) = pipe.output {
            spawn_writer(output, queue, Arc::clone(&hub)).map_err(failed)?;
        }
        if let Some(input) = pipe.input {
            spawn_reader(input, Arc::clone(&hub)).map_err(failed)?;
        }
        Ok(hub)
    }
}

/// Strangers that are told of, one line each; a port scan must not flood the terminal or the journal.
const TELL: usize = 10;

/// The listening side of one worker.
pub(super) struct Listener {
    socket: TcpListener,
    /// Lines about strangers so far.
    told: usize,
    sessions: Arc<Sessions>,
}

impl Listener {
    pub(super) fn new(socket: Socket, sessions: Arc<Sessions>) -> Self {
        Self { socket: TcpListener::from_std(socket.into()), told: 0, sessions }
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.socket, LISTENER, Interest::READABLE)
    }

    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.sessions.hub().map(|(hub, _)| hub).into_iter().collect()
    }

    pub(super) fn is_done(&self) -> bool {
        self.sessions.hub().is_some_and(|(hub, _)| hub.is_ended())
            || self.sessions.state.lock().unwrap_or_else(PoisonError::into_inner).failed.is_some()
    }

    /// A line about somebody who was not let in.
    pub(super) fn tell(&mut self, line: &str) {
        self.told += 1;
        match self.told {
            ..TELL => log::warn!("{line}"),
            TELL => log::warn!("{line}; more of the kind are told with -v only"),
            _ => log::info!("{line}"),
        }
    }

    /// Takes what waits in the queue.
    pub(super) fn accept(&mut self, conns: &mut Conns) {
        loop {
            match self.socket.accept() {
                Ok((socket, peer)) => take(socket, unmapped(peer), conns),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: whoever has not greeted makes room.
                    log::warn!("cannot accept a connection: {}", words(&error));
                    if !conns.drop_oldest_stranger() {
                        return;
                    }
                }
            }
        }
    }

    /// A connection has greeted.
    pub(super) fn admit(&mut self, token: Token, hello: &Hello, conns: &mut Conns) {
        let Some(conn) = conns.get_mut(token) else { return };
        let admitted = self.sessions.admit(hello, conn.peer);
        let options = &self.sessions.options;
        let welcome = |verdict| Welcome {
            verdict,
            window: options.window,
            block: options.block,
            seen: conn.peer,
            bond: options.bond,
        };
        match admitted {
            Ok((hub, block)) => {
                let id = StreamId(hello.stream);
                let greeting = Frame::Welcome(welcome(Verdict::Accepted));
                conn.greet(&greeting);
                hub.stream_up(id, &Terms { window: hello.window, block, bond: hello.bond });
                conn.join(hub, id, block);
                log::info!("stream {} from {}", id.0, conn.peer);
            }
            Err((refusal, text)) => {
                let line = format!("refused {}: {text}", conn.peer);
                let greeting = Frame::Welcome(welcome(Verdict::Refused(refusal, text)));
                conn.greet(&greeting);
                conn.leaving = true;
                self.tell(&line);
            }
        }
    }
}

fn take(socket: mio::net::TcpStream, peer: SocketAddr, conns: &mut Conns) {
    super::options::tune(&socket);
    if conns.strangers().count() >= MAX_STRANGERS {
        conns.drop_oldest_stranger();
    }
    if let Err(error) = conns.add(socket, peer, Phase::Greeting) {
        log::warn!("cannot watch a connection: {}", words(&error));
    }
}

/// Errors of a connection that died in the queue (accept(2)), not of the listener.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}

/// An IPv4 peer of an IPv6 socket, as it knows itself: no person types ::ffff:192.0.2.1.
fn unmapped(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
