//! The connections of one loop, by token. Must not know what they carry, nor which side this is.

use super::conn::{Conn, Phase};
use super::deadline::is_late;
use super::hub::Hub;
use crate::transfer::{StreamId, Time};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What else is registered: the socket that listens, the bell, the signals.
pub(super) const LISTENER: Token = Token(0);
pub(super) const BELL: Token = Token(1);
pub(super) const SIGNALS: Token = Token(2);

/// Tokens of connections count up from here and are never used again, so a stale event finds nobody.
const FIRST_CONN: usize = 16;

/// See the module documentation.
pub(super) struct Conns {
    poll: Poll,
    map: BTreeMap<Token, Conn>,
    next: usize,
    /// When this turn of the loop began, by the clock that counts silence.
    pub(super) now: Time,
}

impl Conns {
    pub(super) fn new(poll: Poll, now: Time) -> Self {
        Self { poll, map: BTreeMap::new(), next: FIRST_CONN, now }
    }

    /// Waits for something to happen to them, or to what else is registered.
    pub(super) fn poll(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        self.poll.poll(events, Some(timeout))
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Takes a socket into the loop.
    pub(super) fn add(&mut self, socket: TcpStream, peer: SocketAddr, phase: Phase) -> io::Result<Token> {
        self.take(Conn::new(socket, peer, phase, self.now))
    }

    /// Takes a connection into the loop.
    pub(super) fn take(&mut self, mut conn: Conn) -> io::Result<Token> {
        let token = Token(self.next);
        self.next += 1;
        self.registry().register(&mut conn.socket, token, Interest::READABLE | Interest::WRITABLE)?;
        self.map.insert(token, conn);
        Ok(token)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Conn> {
        self.map.get_mut(&token)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Conn> {
        let mut conn = self.map.remove(&token)?;
        if let Err(error) = self.registry().deregister(&mut conn.socket) {
            log::debug!("deregistering a socket: {error}");
        }
        Some(conn)
    }

    /// The connection of a session's stream.
    pub(super) fn token_of(&self, hub: &Arc<Hub>, id: StreamId) -> Option<Token> {
        self.map.iter().find(|(_, conn)| conn.is_member(hub, id)).map(|(token, _)| *token)
    }

    /// Connections that have not greeted yet, oldest first, each with its age.
    pub(super) fn strangers(&self) -> impl Iterator<Item = (Token, Duration)> {
        let strangers = self.map.iter().filter(|(_, conn)| conn.phase == Phase::Greeting);
        strangers.map(|(token, conn)| (*token, self.now.since(conn.since)))
    }

    /// Those whose phase has lasted too long.
    pub(super) fn late(&self, attempt: Duration) -> Vec<Token> {
        let late = |conn: &Conn| is_late(conn.phase, conn.since, conn.moved, self.now, attempt);
        self.map.iter().filter(|(_, conn)| late(conn)).map(|(token, _)| *token).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Conn> {
        self.map.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Conn> {
        self.map.values_mut()
    }

    pub(super) fn tokens(&self) -> Vec<Token> {
        self.map.keys().copied().collect()
    }

    pub(super) fn in_phase(&self, phase: Phase) -> Vec<Token> {
        self.map.iter().filter(|(_, conn)| conn.phase == phase).map(|(token, _)| *token).collect()
    }

    /// Fetches what these are to write next, in this order: those that carry data and have written what they had.
    pub(super) fn load(&mut self, tokens: &[Token]) {
        let loads = |conn: &Conn| conn.phase == Phase::Open && conn.wants_to_write() && conn.is_flushed();
        let place = |token: &Token| tokens.iter().position(|other| other == token);
        let conns = self.map.iter_mut().filter(|(_, conn)| loads(conn));
        let mut conns: Vec<_> = conns.filter_map(|(token, conn)| Some((place(token)?, conn))).collect();
        conns.sort_by_key(|(place, _)| *place);
        Conn::load(conns.into_iter().map(|(_, conn)| conn).collect());
    }

    /// Those that have room for more, and may use it.
    pub(super) fn writable(&self) -> Vec<Token> {
        self.map.iter().filter(|(_, conn)| conn.wants_to_write()).map(|(token, _)| *token).collect()
    }
}
