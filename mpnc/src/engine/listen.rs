//! The listening side: one port, whoever greets properly is let in, everybody else is shown out.

use super::conn::{Conn, Phase};
use super::conns::{Conns, LISTENER};
use super::descriptors::Descriptors;
use super::hub::Hub;
use super::options::{Introduction, Options};
use super::serve;
use super::sessions::{Admission, Joined, Sessions};
use super::strangers::Strangers;
use crate::error::{Error, words};
use crate::transfer::{Terms, Time};
use crate::wire::{Directions, Frame, Hello, Refusal, Verdict, Welcome};
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Connections waiting in the kernel: more than any session's streams, capped by net.core.somaxconn.
const BACKLOG: i32 = 1024;
/// A connection that has only just come is not turned away for the next: its greeting is under way. Long enough for one
/// on a busy host.
const GRACE: Duration = Duration::from_millis(100);
/// How often a queue is looked into that could not be emptied: nothing tells when a descriptor or memory is free again.
const RETRY: Duration = Duration::from_millis(100);

/// Opens the listening socket of one worker on `addr`: alone, so that nobody else may hold the port, or beside those of
/// this user that [`share`] it.
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

/// Lets further sockets of this user bind what this one has bound. Its own hold on the port is never given up for that:
/// whether binding conflicts is decided by the flags at that moment (seen to be so on 6.12 and 6.18).
pub(super) fn share(socket: &Socket, addr: SocketAddr) -> Result<(), Error> {
    socket.set_reuse_port(true).map_err(|source| Error::os(format!("cannot listen on {addr}"), source))
}

pub(super) fn start(socket: &Socket, addr: SocketAddr) -> Result<(), Error> {
    socket.listen(BACKLOG).map_err(|source| Error::os(format!("cannot listen on {addr}"), source))
}

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
    strangers: Arc<Strangers>,
    sessions: Arc<Sessions>,
}

impl Listener {
    pub(super) fn new(index: usize, socket: Socket, sessions: Arc<Sessions>, strangers: Arc<Strangers>) -> Self {
        let descriptors = Descriptors::of_process(sessions.workers());
        let socket = TcpListener::from_std(socket.into());
        Self { index, socket, knocked: None, starved: false, descriptors, strangers, sessions }
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

    /// Takes no more sessions, and ends when the ones under way are over.
    pub(super) fn stop(&self) {
        self.sessions.stop();
    }

    /// Says how many strangers were not told of, when that is due.
    pub(super) fn handle_timeout(&self) {
        if !self.is_done() {
            self.strangers.settle(false);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.sessions.is_done()
    }

    /// Those who were not let in.
    pub(super) fn strangers(&self) -> &Strangers {
        &self.strangers
    }

    /// Somebody has come to the queue. One that could not be emptied has its time already: whoever comes does not
    /// hasten it.
    pub(super) fn knocked(&mut self) {
        self.knocked.get_or_insert_default();
    }

    /// A stranger is one no more: one that waits in the queue may take its place.
    pub(super) fn hasten(&mut self) {
        self.knocked = self.knocked.map(|_| Time::default());
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
                Ok((socket, peer)) => self.take(socket, unmapped(peer), conns),
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

    fn take(&self, socket: mio::net::TcpStream, peer: SocketAddr, conns: &mut Conns) {
        super::options::tune(&socket, self.sessions.options.tuning);
        if let Err(error) = conns.add(socket, peer, Phase::Greeting) {
            self.strangers.tell(&format!("cannot watch a connection: {}", words(&error)));
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
            self.strangers.tell(&format!("new connections must wait: {why}"));
        }
    }

    /// A connection has greeted, and asks to be let in, for the first time or again.
    pub(super) fn admit(&mut self, token: Token, conns: &mut Conns) {
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return };
        let Some(hello) = conn.hello.clone() else { return };
        if conn.is_gone() {
            // A session with nobody would keep the next one out until its patience ends.
            log::info!("{} was gone before it could be let in", conn.peer);
            conns.remove(token);
            return;
        }
        match self.sessions.admit(&hello, conn.peer) {
            Ok(Admission::Wait) => {}
            Ok(Admission::Prepare) => {
                if let Err(error) = serve::start(&self.sessions, hello.session, conn.peer) {
                    let text = format!("cannot start a thread: {}", words(&error));
                    self.refuse(conn, &hello, Refusal::Busy, text);
                }
            }
            Ok(Admission::Join(joined)) => self.join(conn, &hello, joined, now),
            Err((refusal, text)) => self.refuse(conn, &hello, refusal, text),
        }
    }

    fn welcome(&self, conn: &Conn, verdict: Verdict, introduction: Introduction) -> Frame {
        let Options { window, block, .. } = self.sessions.options;
        let Introduction { bond, addresses } = introduction;
        Frame::Welcome(Welcome { verdict, window, block, seen: conn.peer, bond, addresses })
    }

    fn join(&self, conn: &mut Conn, hello: &Hello, Joined { hub, block, introduction }: Joined, now: Time) {
        let id = hello.stream;
        // Numbers of streams are the connector's to choose, and of one number there is one.
        if !hub.stream_up(id, &Terms { window: hello.window, block, bond: hello.bond }) {
            let text = format!("the session has a stream {} already", id.0);
            return self.refuse(conn, hello, Refusal::BadRequest, text);
        }
        conn.held = self.sessions.options.placer.as_ref().and_then(|placer| conn.placed_by(placer));
        conn.greet(&self.welcome(conn, Verdict::Accepted, introduction));
        hub.attend(id, self.index);
        conn.join(Arc::clone(&hub), id, block, now);
        super::passage::stream_up(&hub);
        log::info!("stream {} from {}", id.0, conn.peer);
    }

    /// One that has waited for too long: the session before it does not get out of the way.
    pub(super) fn give_up(&self, conn: &mut Conn) {
        if let Some(hello) = conn.hello.take() {
            let text = "busy: what an earlier session has left is still being put away".to_owned();
            self.refuse(conn, &hello, Refusal::Busy, text);
        }
    }

    fn refuse(&self, conn: &mut Conn, hello: &Hello, refusal: Refusal, text: String) {
        let line = format!("refused {}: {text}", conn.peer);
        conn.greet(&self.welcome(conn, Verdict::Refused(refusal, text), Introduction::default()));
        conn.leaving = true;
        conn.hello = None;
        match hello.directions {
            // Somebody looks whether this port can be reached: no failure, and no warning for each of the streams.
            Directions::Check => log::info!("{line}"),
            _ => self.strangers.tell(&line),
        }
    }
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
    match addr.ip().to_canonical() {
        // Of one that is IPv6 the zone matters.
        IpAddr::V6(_) => addr,
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, addr.port()),
    }
}
