//! One stream: a socket, the frame being read, the frame being written.
//!
//! Everything that depends on which side this is (who greets first, who is let in) is the worker's; a connection only moves frames between
//! the socket and its session.

use super::hub::{Block, Hub, Outgoing};
use super::pool::Buffer;
use crate::transfer::{Extent, PeerFault, StreamId, Time};
use crate::wire::{
    BLOCK_RANGE, Frame, HEADER_LEN, Header, Hello, Kind, PREAMBLE_LEN, Welcome, WireError, check_preamble, preamble,
};
use mio::net::TcpStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bytes read from one stream before the others get their turn.
const READ_BUDGET: usize = 1 << 20;
/// Most payload of an unwanted block that is read past at a time.
const SCRATCH: usize = 64 << 10;

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

/// The body of the frame being read.
enum Body {
    /// A control frame.
    Control(Vec<u8>),
    /// A Data frame that is wanted.
    Data(Buffer),
    /// A Data frame that is here already: this many bytes of it are to be read past.
    Skip { left: usize, scratch: Vec<u8> },
}

fn skip(len: usize) -> Body {
    Body::Skip { left: len, scratch: vec![0; SCRATCH.min(len)] }
}

struct Reading {
    preamble_seen: bool,
    head: [u8; HEADER_LEN],
    head_len: usize,
    frame: Option<(Header, Body)>,
    body_len: usize,
    crc: crc32fast::Hasher,
}

#[derive(Default)]
struct Writing {
    /// Preamble, small frames and Data headers, in order.
    small: Vec<u8>,
    small_done: usize,
    /// Payload that follows `small`.
    block: Option<Arc<Block>>,
    block_done: usize,
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
    /// Largest payload that the peer announced.
    max_block: u32,
    reading: Reading,
    writing: Writing,
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
            max_block: *BLOCK_RANGE.start(),
            reading: Reading {
                preamble_seen: false,
                head: [0; HEADER_LEN],
                head_len: 0,
                frame: None,
                body_len: 0,
                crc: crc32fast::Hasher::new(),
            },
            writing: Writing::default(),
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
        self.max_block = max_block;
        self.enter(Phase::Open, now);
    }

    /// The peer has greeted, and waits to be let in.
    pub(super) fn wait_with(&mut self, hello: Hello, now: Time) {
        self.hello = Some(hello);
        self.enter(Phase::Admitting, now);
    }

    /// Queues this side's preamble and first frame.
    pub(super) fn greet(&mut self, frame: &Frame) {
        self.greet_bare();
        frame.encode(&mut self.writing.small);
    }

    /// Queues the preamble alone: all that a peer of another version can understand.
    pub(super) fn greet_bare(&mut self) {
        self.writing.small.extend_from_slice(&preamble());
    }

    // --- reading -----------------------------------------------------------------------------------------------------------------

    /// Reads until the socket is empty (`None`) or something comes up that the worker must see. Data and session frames go straight to
    /// the session.
    pub(super) fn read(&mut self) -> Result<Option<Incoming>, ConnError> {
        let mut budget = READ_BUDGET;
        loop {
            if let Some(incoming) = self.advance()? {
                return Ok(Some(incoming));
            }
            if budget == 0 {
                return Ok(Some(Incoming::Yield));
            }
            let n = match self.fill() {
                Ok(0) => return Ok(Some(Incoming::Closed(self.is_between_frames()))),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            budget = budget.saturating_sub(n);
            if let Some((hub, id)) = &self.member {
                hub.heard(*id);
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.reading.frame.is_none() && self.reading.head_len == 0 && self.reading.preamble_seen
    }

    /// One read: the rest of the body, and the next header behind it.
    fn fill(&mut self) -> io::Result<usize> {
        let Reading { preamble_seen, head, head_len, frame, body_len, crc } = &mut self.reading;
        let head_end = if *preamble_seen { HEADER_LEN } else { PREAMBLE_LEN };
        let (rest, more) = match frame {
            None => return self.socket.read(&mut head[*head_len..head_end]).inspect(|n| *head_len += n),
            Some((_, Body::Control(bytes))) => (&mut bytes[*body_len..], false),
            Some((_, Body::Data(bytes))) => (&mut bytes[*body_len..], false),
            Some((_, Body::Skip { left, scratch })) => (&mut scratch[..SCRATCH.min(*left)], *left > SCRATCH),
        };
        let want = rest.len();
        let n = if more {
            self.socket.read(rest)?
        } else {
            self.socket.read_vectored(&mut [IoSliceMut::new(rest), IoSliceMut::new(&mut head[..])])?
        };
        let in_body = n.min(want);
        crc.update(&rest[..in_body]);
        match frame {
            Some((_, Body::Skip { left, .. })) => *left -= in_body,
            _ => *body_len += in_body,
        }
        *head_len = n - in_body;
        Ok(n)
    }

    /// Acts on what has become whole.
    fn advance(&mut self) -> Result<Option<Incoming>, ConnError> {
        if self.reading.frame.is_some()
            && self.body_is_whole()
            && let Some(incoming) = self.finish_frame()?
        {
            return Ok(Some(incoming));
        }
        if !self.reading.preamble_seen && self.reading.head_len == PREAMBLE_LEN {
            let mut bytes = [0; PREAMBLE_LEN];
            bytes.copy_from_slice(&self.reading.head[..PREAMBLE_LEN]);
            check_preamble(&bytes)?;
            (self.reading.preamble_seen, self.reading.head_len) = (true, 0);
        }
        if self.reading.frame.is_none() && self.reading.preamble_seen && self.reading.head_len == HEADER_LEN {
            self.begin_frame()?;
            if self.body_is_whole() {
                return self.finish_frame();
            }
        }
        Ok(None)
    }

    fn body_is_whole(&self) -> bool {
        self.reading.frame.as_ref().is_some_and(|(header, body)| match body {
            Body::Skip { left, .. } => *left == 0,
            _ => self.reading.body_len == header.len as usize,
        })
    }

    fn begin_frame(&mut self) -> Result<(), ConnError> {
        let header = Header::decode(&self.reading.head, self.max_block)?;
        let len = header.len as usize;
        let body = match (&header.kind, &self.member) {
            (Kind::Data, Some((hub, _))) if self.phase == Phase::Open => {
                hub.judge(Extent { offset: header.arg, len: header.len })?.map_or_else(|| skip(len), Body::Data)
            }
            // Late data of a session that is over.
            (Kind::Data, Some(_)) => skip(len),
            (Kind::Data, None) => return Err(PeerFault::Unexpected("Data").into()),
            _ => Body::Control(vec![0; len]),
        };
        self.reading.frame = Some((header, body));
        self.reading.body_len = 0;
        self.reading.head_len = 0;
        self.reading.crc = crc32fast::Hasher::new();
        Ok(())
    }

    fn finish_frame(&mut self) -> Result<Option<Incoming>, ConnError> {
        let Some((header, body)) = self.reading.frame.take() else { return Ok(None) };
        let bytes = match body {
            Body::Control(bytes) => return self.control(&header, &bytes),
            Body::Data(bytes) => Some(bytes),
            Body::Skip { .. } => None,
        };
        if std::mem::take(&mut self.reading.crc).finalize() != header.body_crc {
            return Err(WireError::BodyChecksum.into());
        }
        if let Some((hub, id)) = self.member.as_ref().filter(|_| self.phase == Phase::Open) {
            hub.data(*id, Extent { offset: header.arg, len: header.len }, bytes, header.body_crc)?;
        }
        Ok(None)
    }

    fn control(&mut self, header: &Header, bytes: &[u8]) -> Result<Option<Incoming>, ConnError> {
        let frame = Frame::decode(header, bytes)?;
        match (self.phase, frame) {
            (Phase::Greeting, Some(Frame::Hello(hello))) => Ok(Some(Incoming::Hello(hello))),
            (Phase::Greeting, Some(Frame::Welcome(welcome))) => Ok(Some(Incoming::Welcome(welcome))),
            (Phase::Greeting, _) => Err(PeerFault::Unexpected("not a greeting").into()),
            (Phase::Admitting, _) => Err(PeerFault::Unexpected("more than a greeting").into()),
            (Phase::Open | Phase::Parting | Phase::Closing, Some(frame)) => {
                if let Some((hub, id)) = &self.member {
                    hub.frame(*id, frame)?;
                }
                Ok(None)
            }
            (_, None) | (Phase::Connecting, _) => Ok(None),
        }
    }

    // --- writing -----------------------------------------------------------------------------------------------------------------

    /// Writes at most one block, with the small frames before it. Answers whether anything was written.
    pub(super) fn write(&mut self) -> Result<bool, ConnError> {
        if self.is_flushed() && self.phase == Phase::Open {
            self.load();
        }
        let mut wrote = false;
        while !self.is_flushed() {
            let block = self.writing.block.as_ref().map_or(&[][..], |block| &block.bytes[self.writing.block_done..]);
            let slices = [IoSlice::new(&self.writing.small[self.writing.small_done..]), IoSlice::new(block)];
            match self.socket.write_vectored(&slices) {
                Ok(n) => {
                    self.wrote(n);
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

    /// Fetches small frames up to the next Data frame.
    pub(super) fn load(&mut self) {
        let Some((hub, id)) = &self.member else { return };
        while let Some(outgoing) = hub.poll_transmit(*id) {
            match outgoing {
                Outgoing::Frame(frame) => frame.encode(&mut self.writing.small),
                Outgoing::Data(header, block) => {
                    self.writing.small.extend_from_slice(&header.encode());
                    self.writing.block = Some(block);
                    return;
                }
            }
        }
    }

    fn wrote(&mut self, n: usize) {
        let writing = &mut self.writing;
        let in_small = n.min(writing.small.len() - writing.small_done);
        writing.small_done += in_small;
        writing.block_done += n - in_small;
        if writing.small_done == writing.small.len() {
            writing.small.clear();
            writing.small_done = 0;
        }
        if writing.block.as_ref().is_some_and(|block| block.bytes.len() == writing.block_done) {
            writing.block = None;
            writing.block_done = 0;
        }
    }

    /// Whether all that was loaded has been handed to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.writing.small.is_empty() && self.writing.block.is_none()
    }
}
