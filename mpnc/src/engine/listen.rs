//! The listening side: one port, whoever greets properly is let in, everybody else is shown out.

use super::Options;
use super::conn::{Conn, Phase};
use super::hub::Hub;
use super::sessions::{Admission, Joined, Sessions};
use super::worker::{Conns, LISTENER};
use crate::error::{Error, words};
use crate::transfer::{StreamId, Terms};
use crate::wire::{BondFacts, Directions, Frame, Hello, Refusal, Verdict, Welcome};
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

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

/// Strangers that are told of, one line each; a port scan must not flood the terminal or the journal.
const TELL: usize = 10;

/// The listening side of one worker.
pub(super) struct Listener {
    /// Number of its worker.
    index: usize,
    socket: TcpListener,
    /// Lines about strangers so far.
    told: usize,
    sessions: Arc<Sessions>,
}

impl Listener {
    pub(super) fn new(index: usize, socket: Socket, sessions: Arc<Sessions>) -> Self {
        Self { index, socket: TcpListener::from_std(socket.into()), told: 0, sessions }
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

    /// A connection has greeted, and asks to be let in, for the first time or again.
    pub(super) fn admit(&mut self, token: Token, conns: &mut Conns) {
        let Some(conn) = conns.get_mut(token) else { return };
        let Some(hello) = conn.hello.clone() else { return };
        if conn.is_gone() {
            log::info!("{} is gone: it begins no session", conn.peer);
            conns.remove(token);
            return;
        }
        match self.sessions.admit(&hello, conn.peer) {
            Ok(Admission::Wait) => {}
            Ok(Admission::Join(joined)) => self.join(conn, &hello, joined),
            Err((refusal, text)) => self.refuse(conn, &hello, refusal, text),
        }
    }

    fn welcome(&self, conn: &Conn, verdict: Verdict, bond: Option<BondFacts>) -> Frame {
        let Options { window, block, .. } = self.sessions.options;
        Frame::Welcome(Welcome { verdict, window, block, seen: conn.peer, bond })
    }

    fn join(&self, conn: &mut Conn, hello: &Hello, Joined { hub, block, bond }: Joined) {
        let id = StreamId(hello.stream);
        conn.greet(&self.welcome(conn, Verdict::Accepted, bond));
        hub.stream_up(id, &Terms { window: hello.window, block, bond: hello.bond });
        hub.attend(id, self.index);
        conn.join(hub, id, block);
        log::info!("stream {} from {}", id.0, conn.peer);
    }

    fn refuse(&mut self, conn: &mut Conn, hello: &Hello, refusal: Refusal, text: String) {
        let line = format!("refused {}: {text}", conn.peer);
        conn.greet(&self.welcome(conn, Verdict::Refused(refusal, text), None));
        conn.leaving = true;
        conn.hello = None;
        match hello.directions {
            // Somebody looks whether this port can be reached: no failure, and no warning for each of the streams.
            Directions::Check => log::info!("{line}"),
            _ => self.tell(&line),
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
