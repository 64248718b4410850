//! One stream: a socket, with what makes frames of its bytes and bytes of frames ([`Decoder`], [`Encoder`]).
//!
//! Framing touches the socket in two calls only ([`Conn::fill`], [`Conn::write`]), both of them vectored: whatever
//! carries bytes in order fits under it. What was read is given to the session in one call, with the question what
//! becomes of the next block, if there is one. Everything that depends on which side this is (who greets first, who is
//! let in) is the worker's; a connection only moves frames between the socket and its session.

use super::buffers::Buffer;
use super::hub::{Hub, Payload, Read};
use crate::place::{Held, Placer};
use crate::transfer::{Extent, PeerFault, StreamId, Time};
use crate::wire::{Decoder, Encoder, Frame, Header, Hello, Item, Welcome, WireError};
use mio::net::TcpStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bytes read from one stream before the others get their turn.
const READ_BUDGET: usize = 1 << 20;
/// Most frames that are kept before the session hears of them: a budget full of the smallest would be thousands.
const TOLD_AT_LEAST_EVERY: usize = 64;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The TCP handshake is under way.
    Connecting,
    /// Waiting for the peer's preamble and first frame.
    Greeting,
    /// The peer has greeted, and waits to be let in.
    Admitting,
    /// Part of a session.
    Open,
    /// Its session is over, or goes on without it: the last words are being handed to the kernel.
    Parting,
    /// All is said; waiting for the peer to close as well, so that nothing under way is lost to a reset.
    Closing,
}

/// What ended or interrupts the reading of a connection.
pub(super) enum Incoming {
    /// The connector's first frame.
    Hello(Hello),
    /// The listener's first frame.
    Welcome(Welcome),
    /// There may be more, but others come first.
    Yield,
    /// The peer has closed: `true` if after a whole frame.
    Closed(bool),
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnError {
    #[error("{}", crate::error::words(.0))]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Fault(#[from] PeerFault),
}

/// See the module documentation.
pub(super) struct Conn {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) phase: Phase,
    /// When it entered its phase, and when the peer's TCP last took something.
    pub(super) since: Time,
    pub(super) moved: Time,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Its place in a session, from the greeting on (connector) or after it (listener).
    pub(super) member: Option<(Arc<Hub>, StreamId)>,
    /// The stream number in the hello that this side has sent.
    pub(super) hello_id: Option<StreamId>,
    /// All is said on this connection: close it when it is flushed.
    pub(super) leaving: bool,
    /// The peer's hello, while it waits to be let in.
    pub(super) hello: Option<Hello>,
    /// Bytes acknowledged by the peer's TCP when last looked at.
    pub(super) acked: u64,
    /// While it lives, the program on the bond knows the stream.
    pub(super) held: Option<Held>,
    decoder: Decoder<Buffer>,
    encoder: Encoder<Payload>,
    /// What is whole and the session has not heard of, and whether it must hear that anything came.
    read: Vec<Read>,
    heard: bool,
}

impl Drop for Conn {
    fn drop(&mut self) {
        if let Some((hub, _)) = &self.member {
            hub.leave();
        }
    }
}

impl Conn {
    pub(super) fn new(socket: TcpStream, peer: SocketAddr, phase: Phase, now: Time) -> Self {
        Self {
            socket,
            peer,
            phase,
            since: now,
            moved: now,
            readable: false,
            writable: false,
            member: None,
            hello_id: None,
            leaving: false,
            hello: None,
            acked: 0,
            held: None,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            read: Vec::new(),
            heard: false,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase, now: Time) {
        (self.phase, self.since) = (phase, now);
    }

    /// Whether the peer has closed or reset the connection, be it behind what has not been read yet.
    pub(super) fn is_gone(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().intersects(gone)
    }

    /// Closes without delivering what the kernel holds: it would hold it as long as the peer keeps from reading.
    pub(super) fn reset(self) {
        if let Err(error) = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)) {
            log::debug!("cannot set SO_LINGER: {}", crate::error::words(&error));
        }
    }

    /// From now on the connection belongs to a session, whose peer sends payloads of at most `max_block` bytes.
    pub(super) fn join(&mut self, hub: Arc<Hub>, id: StreamId, max_block: u32, now: Time) {
        hub.enter();
        // Only a connector has said hello, from the port in question.
        let connector = if self.hello_id.is_some() { self.socket.local_addr().ok() } else { Some(self.peer) };
        hub.name(id, connector.map(|addr| addr.port()));
        self.member = Some((hub, id));
        self.decoder.set_max_block(max_block);
        self.enter(Phase::Open, now);
    }

    /// The peer has greeted, and waits to be let in.
    pub(super) fn wait_with(&mut self, hello: Hello, now: Time) {
        self.hello = Some(hello);
        self.enter(Phase::Admitting, now);
    }

    /// A listener's stream, made known to the program on the bond.
    pub(super) fn placed_by(&self, placer: &Placer) -> Option<Held> {
        placer.hold(self.socket.local_addr().ok()?.port(), self.peer)
    }

    /// Queues this side's preamble and first frame.
    pub(super) fn greet(&mut self, frame: &Frame) {
        self.greet_bare();
        self.encoder.frame(frame);
    }

    /// Queues the preamble alone: all that a peer of another version can understand.
    pub(super) fn greet_bare(&mut self) {
        self.encoder.preamble();
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// Reads until the socket is empty (`None`) or something comes up that the worker must see. Data and session frames
    /// go straight to the session.
    pub(super) fn read(&mut self) -> Result<Option<Incoming>, ConnError> {
        let outcome = self.read_on();
        // What came before the end counts, whatever the end was.
        if self.heard || !self.read.is_empty() {
            self.tell(None)?;
        }
        outcome
    }

    fn read_on(&mut self) -> Result<Option<Incoming>, ConnError> {
        let mut budget = READ_BUDGET;
        loop {
            while let Some(item) = self.decoder.poll()? {
                if let Some(incoming) = self.take_in(item)? {
                    return Ok(Some(incoming));
                }
            }
            if budget == 0 {
                return Ok(Some(Incoming::Yield));
            }
            match self.fill() {
                Ok(0) => return Ok(Some(Incoming::Closed(self.decoder.is_between_frames()))),
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    self.heard = self.member.is_some();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One read: the rest of what is being read, and what comes behind it.
    fn fill(&mut self) -> io::Result<usize> {
        let n = match self.decoder.room() {
            [rest, []] => self.socket.read(rest)?,
            [rest, behind] => self.socket.read_vectored(&mut [IoSliceMut::new(rest), IoSliceMut::new(behind)])?,
        };
        self.decoder.filled(n);
        Ok(n)
    }

    fn take_in(&mut self, item: Item<Buffer>) -> Result<Option<Incoming>, ConnError> {
        match item {
            Item::Begin(header) => {
                let buffer = match (&self.member, self.phase) {
                    (None, _) => return Err(PeerFault::Unexpected("Data").into()),
                    (Some(_), Phase::Open) => self.tell(Some(extent(&header)))?,
                    // Late data of a session that is over.
                    (Some(_), _) => None,
                };
                self.decoder.answer(buffer);
            }
            Item::Data(header, bytes) if self.phase == Phase::Open => {
                self.read.push(Read::Data { extent: extent(&header), bytes, crc: header.body_crc });
            }
            Item::Data(..) => {}
            Item::Frame(frame) => return self.control(Some(frame)),
            Item::Unknown(_) => return self.control(None),
        }
        Ok(None)
    }

    /// `None`: a frame that is not known here.
    fn control(&mut self, frame: Option<Frame>) -> Result<Option<Incoming>, ConnError> {
        match (self.phase, frame) {
            (Phase::Greeting, Some(Frame::Hello(hello))) => return Ok(Some(Incoming::Hello(hello))),
            (Phase::Greeting, Some(Frame::Welcome(welcome))) => return Ok(Some(Incoming::Welcome(welcome))),
            (Phase::Greeting, _) => return Err(PeerFault::Unexpected("not a greeting").into()),
            (Phase::Admitting, _) => return Err(PeerFault::Unexpected("more than a greeting").into()),
            (Phase::Open | Phase::Parting | Phase::Closing, Some(frame)) if self.member.is_some() => {
                self.read.push(Read::Frame(frame));
                if self.read.len() >= TOLD_AT_LEAST_EVERY {
                    self.tell(None)?;
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Gives what was read to the session, and asks for room for the block that begins now.
    fn tell(&mut self, next: Option<Extent>) -> Result<Option<Buffer>, PeerFault> {
        self.heard = false;
        let Some((hub, id)) = &self.member else { return Ok(None) };
        hub.take_in(*id, &mut self.read, next)
    }

    // --- writing -----------------------------------------------------------------------------------------------------

    /// Writes what was loaded. Answers whether anything was written.
    pub(super) fn write(&mut self) -> Result<bool, ConnError> {
        let mut wrote = false;
        while !self.is_flushed() {
            match self.socket.write_vectored(&self.encoder.rest().map(IoSlice::new)) {
                Ok(n) => {
                    self.encoder.wrote(n);
                    wrote = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(wrote)
    }

    /// Fetches small frames up to the next Data frame, and that, for each of these connections.
    pub(super) fn load(mut conns: Vec<&mut Self>) {
        let session = |conn: &&mut Self| conn.member.as_ref().map(|(hub, _)| Arc::as_ptr(hub));
        // Stable: within a session the order stays.
        conns.sort_by_key(session);
        for of_one in conns.chunk_by_mut(|a, b| session(a) == session(b)) {
            let Some(hub) = of_one.first().and_then(|conn| conn.member.as_ref()).map(|(hub, _)| Arc::clone(hub)) else {
                continue;
            };
            hub.fill(of_one.iter_mut().filter_map(|conn| Some((conn.member.as_ref()?.1, &mut conn.encoder))));
        }
    }

    /// Whether all that was loaded has been handed to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.encoder.is_flushed()
    }
}

fn extent(header: &Header) -> Extent {
    Extent { offset: header.arg, len: header.len }
}
