//! The listening side: one port, whoever greets properly is let in, everybody else is shown out.

use super::Options;
use super::conn::Phase;
use super::conns::Conns;
use super::descriptors::Descriptors;
use super::hub::Hub;
use super::sessions::Sessions;
use super::worker::LISTENER;
use crate::error::{Error, words};
use crate::transfer::{StreamId, Terms, Time};
use crate::wire::{Directions, Frame, Hello, Refusal, Verdict, Welcome};
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Connections waiting in the kernel: more than any session's streams, capped by net.core.somaxconn.
const BACKLOG: i32 = 1024;
/// A connection that has only just come is not turned away for the next: its greeting is under way. Long enough for one on a busy host.
const GRACE: Duration = Duration::from_millis(100);
/// How often a queue is looked into that could not be emptied: nothing tells when a descriptor or memory is free again.
const RETRY: Duration = Duration::from_millis(100);

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

/// Strangers that are told of, one line each; a port scan must not flood the terminal or the journal.
const TELL: usize = 10;

/// The listening side of one worker.
pub(super) struct Listener {
    /// Number of its worker.
    index: usize,
    socket: TcpListener,
    /// Connections may wait in the queue, and are not to be looked for before this.
    knocked: Option<Time>,
    /// It has been said that they must wait.
    starved: bool,
    descriptors: Descriptors,
    /// Lines about strangers so far.
    told: usize,
    sessions: Arc<Sessions>,
}

impl Listener {
    pub(super) fn new(index: usize, socket: Socket, sessions: Arc<Sessions>) -> Self {
        let descriptors = Descriptors::of_process(sessions.workers());
        let socket = TcpListener::from_std(socket.into());
        Self { index, socket, knocked: None, starved: false, descriptors, told: 0, sessions }
    }

    pub(super) fn register(&mut self, registry: &Registry) -> io::Result<()> {
        registry.register(&mut self.socket, LISTENER, Interest::READABLE)
    }

    pub(super) fn options(&self) -> &Options {
        &self.sessions.options
    }

    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.sessions.hubs()
    }

    /// Takes no more sessions, and ends when the ones under way are over. Answers whether there was to be a next one.
    pub(super) fn stop(&self) -> bool {
        self.sessions.stop()
    }

    /// Reports what is over.
    pub(super) fn handle_timeout(&self) {
        self.sessions.reap();
    }

    pub(super) fn is_done(&self) -> bool {
        self.sessions.is_done()
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

    /// Somebody has come to the queue. One that could not be emptied has its time already: whoever comes does not hasten it.
    pub(super) fn knocked(&mut self) {
        self.knocked.get_or_insert_default();
    }

    /// When the queue must be looked into again.
    pub(super) fn poll_timeout(&self, now: Time) -> Option<Duration> {
        self.knocked.map(|at| at.since(now))
    }

    /// Takes what waits in the queue, as far as there is room.
    pub(super) fn accept(&mut self, conns: &mut Conns) {
        if self.knocked.is_none_or(|at| at > conns.now) {
            return;
        }
        self.knocked = Some(conns.now + RETRY);
        while self.make_room(conns) {
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    super::options::tune(&socket);
                    if let Err(error) = conns.add(socket, unmapped(peer), Phase::Greeting) {
                        self.tell(&format!("cannot watch a connection: {}", words(&error)));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (self.knocked, self.starved) = (None, false);
                    return;
                }
                Err(error) if is_passing(&error) => {}
                // Out of descriptors or memory: whoever has not greeted makes room.
                Err(error) if drop_stranger(conns) => log::debug!("cannot accept a connection: {}", words(&error)),
                Err(error) => return self.starve(&words(&error)),
            }
        }
    }

    /// Whether there is room for one more, be it in the place of the stranger who has been silent for longest.
    fn make_room(&mut self, conns: &mut Conns) -> bool {
        let crowded = conns.strangers().count() >= self.descriptors.strangers;
        if crowded && !drop_stranger(conns) {
            return false;
        }
        while !self.descriptors.are_left() {
            if !drop_stranger(conns) {
                self.starve(&format!("{} descriptors are not enough (ulimit -n)", self.descriptors.limit));
                return false;
            }
        }
        true
    }

    fn starve(&mut self, why: &str) {
        if !std::mem::replace(&mut self.starved, true) {
            self.tell(&format!("new connections must wait: {why}"));
        }
    }

    /// A connection has greeted.
    pub(super) fn admit(&mut self, token: Token, hello: &Hello, conns: &mut Conns) {
        // One that waits in the queue may take its place.
        self.knocked = self.knocked.map(|_| Time::default());
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return };
        if conn.is_gone() {
            // A session with nobody would keep the next one out until its patience ends.
            log::info!("{} was gone before it could be let in", conn.peer);
            conns.remove(token);
            return;
        }
        let admitted = self.sessions.admit(hello, conn.peer).and_then(|(hub, block)| enrol(hello, hub, block));
        let options = &self.sessions.options;
        let welcome = |verdict| Welcome {
            verdict,
            window: options.window,
            block: options.block,
            seen: conn.peer,
            bond: (options.bond)(conn.peer.ip()),
        };
        match admitted {
            Ok((hub, block)) => {
                let id = StreamId(hello.stream);
                let greeting = Frame::Welcome(welcome(Verdict::Accepted));
                conn.greet(&greeting);
                hub.attend(id, self.index);
                conn.join(hub, id, block, now);
                log::info!("stream {} from {}", id.0, conn.peer);
            }
            Err((refusal, text)) => {
                let line = format!("refused {}: {text}", conn.peer);
                let greeting = Frame::Welcome(welcome(Verdict::Refused(refusal, text)));
                conn.greet(&greeting);
                conn.leaving = true;
                match hello.directions {
                    // Somebody looks whether this port can be reached: no failure, and no warning for each of the streams.
                    Directions::Check => log::info!("{line}"),
                    _ => self.tell(&line),
                }
            }
        }
    }
}

/// Numbers of streams are the connector's to choose, and of one number there is one.
fn enrol(hello: &Hello, hub: Arc<Hub>, block: u32) -> Result<(Arc<Hub>, u32), (Refusal, String)> {
    let terms = Terms { window: hello.window, block, bond: hello.bond };
    if hub.stream_up(StreamId(hello.stream), &terms) {
        return Ok((hub, block));
    }
    Err((Refusal::BadRequest, format!("the session has a stream {} already", hello.stream)))
}

/// Turns away the connection that has been silent for longest; false if there is none, or it has only just come.
fn drop_stranger(conns: &mut Conns) -> bool {
    let oldest = conns.strangers().next();
    oldest.is_some_and(|(token, age)| age >= GRACE && conns.remove(token).is_some())
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
