//! A TCP relay in front of a receiver that can spoil what passes: the network between the two sides, as bad as a test
//! wants it.
//!
//! One port in, one port out, one pair of pumps per connection. It knows mpnc's framing just well enough to hit a
//! header or a payload.

use mpnc::wire::{HEADER_LEN, PREAMBLE_LEN};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a pump looks up from its socket.
const LOOK: Duration = Duration::from_millis(5);
/// No wait for something to pass may take longer.
const LIMIT: Duration = Duration::from_mins(1);

/// Numbers of frame kinds on the wire.
pub(crate) const DATA: u8 = 3;
pub(crate) const ACK: u8 = 4;

/// Which part of a frame is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Header,
    Body,
}

/// Flips one bit in the `nth` frame of a kind, on the first connection that has one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Damage {
    pub(crate) kind: u8,
    pub(crate) nth: u64,
    pub(crate) part: Part,
}

/// The sockets of a relayed connection. Only its two pumps hold them, so that they close when both have ended.
struct Sockets {
    client: TcpStream,
    server: TcpStream,
}

/// What is known and wanted of a relayed connection.
#[derive(Default)]
struct Link {
    /// Bytes that have passed from the client.
    passed: AtomicU64,
    /// Nothing passes any more, and nobody is told.
    black: AtomicBool,
    /// Both ends are to be reset.
    dead: AtomicBool,
}

#[derive(Default)]
struct Shared {
    links: Mutex<Vec<Arc<Link>>>,
    /// New connections are black from the start.
    black: AtomicBool,
    damage: Mutex<Option<Damage>>,
    damaged: AtomicBool,
    delay: Duration,
    over: AtomicBool,
}

/// A running relay; it ends, and closes everything, when dropped.
pub(crate) struct Proxy {
    /// Where to connect instead.
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Relays to a port of this host.
    pub(crate) fn to(port: u16) -> Self {
        Self::start(port, Shared::default())
    }

    /// The same, with every piece held back for `delay`.
    pub(crate) fn slow(port: u16, delay: Duration) -> Self {
        Self::start(port, Shared { delay, ..Shared::default() })
    }

    /// The same, with one frame damaged.
    pub(crate) fn damaging(port: u16, damage: Damage) -> Self {
        Self::start(port, Shared { damage: Mutex::new(Some(damage)), ..Shared::default() })
    }

    fn start(target: u16, shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(shared);
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, target, &for_thread));
        Self { port, shared }
    }

    fn links(&self) -> Vec<Arc<Link>> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections so far.
    pub(crate) fn count(&self) -> usize {
        self.links().len()
    }

    /// Waits until the damage has been done.
    pub(crate) fn wait_for_damage(&self) {
        wait("the frame to damage", || self.shared.damaged.load(Ordering::Relaxed));
    }

    /// Waits until `count` connections have passed `bytes` each from the client.
    pub(crate) fn wait_for(&self, count: usize, bytes: u64) {
        let has_passed = |link: &&Arc<Link>| link.passed.load(Ordering::Relaxed) >= bytes;
        wait(&format!("{bytes} bytes on {count} connections"), || {
            self.links().iter().filter(has_passed).count() >= count
        });
    }

    /// Resets both ends of the connection that came as number `index`.
    pub(crate) fn reset(&self, index: usize) {
        self.links()[index].dead.store(true, Ordering::Relaxed);
    }

    /// Nothing passes any more on the connection that came as number `index`, and neither end is told.
    pub(crate) fn blacken(&self, index: usize) {
        self.links()[index].black.store(true, Ordering::Relaxed);
    }

    /// Nothing passes any more on any connection, those to come included.
    pub(crate) fn blacken_all(&self) {
        self.shared.black.store(true, Ordering::Relaxed);
        self.links().iter().for_each(|link| link.black.store(true, Ordering::Relaxed));
    }
}

fn wait(what: &str, is_there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_there() {
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        thread::sleep(LOOK);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, target: u16, shared: &Arc<Shared>) {
    while !shared.over.load(Ordering::Relaxed) {
        // A receiver that is gone refuses: so does its proxy, as well as it can, by closing.
        if let Ok((client, _)) = listener.accept()
            && let Ok(server) = TcpStream::connect(("127.0.0.1", target))
        {
            let link = Arc::new(Link::default());
            link.black.store(shared.black.load(Ordering::Relaxed), Ordering::Relaxed);
            let sockets = Arc::new(Sockets { client, server });
            for socket in [&sockets.client, &sockets.server] {
                socket.set_nonblocking(false).expect("a socket can be made blocking");
                socket.set_nodelay(true).expect("TCP_NODELAY");
                socket.set_read_timeout(Some(LOOK)).expect("SO_RCVTIMEO");
                socket.set_write_timeout(Some(LOOK)).expect("SO_SNDTIMEO");
            }
            shared.links.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&link));
            for from_client in [true, false] {
                let (sockets, link, shared) = (Arc::clone(&sockets), Arc::clone(&link), Arc::clone(shared));
                thread::spawn(move || pump(&sockets, from_client, &link, &shared));
            }
        } else {
            thread::sleep(LOOK);
        }
    }
}

/// Moves bytes one way until that way ends.
fn pump(sockets: &Sockets, from_client: bool, link: &Link, shared: &Shared) {
    let ends = (&sockets.client, &sockets.server);
    let (mut from, mut to) = if from_client { ends } else { (ends.1, ends.0) };
    let mut frames = Frames::default();
    let mut piece = vec![0; 64 << 10];
    let over = || shared.over.load(Ordering::Relaxed) || link.dead.load(Ordering::Relaxed);
    while !over() {
        if link.black.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            continue;
        }
        let n = match from.read(&mut piece) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) => n,
            Err(error) if is_nothing_yet(&error) => continue,
            // A reset passes as one.
            Err(_) => break,
        };
        thread::sleep(shared.delay);
        frames.pass(&mut piece[..n], shared);
        let mut rest = &piece[..n];
        while !rest.is_empty() && !over() {
            match to.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if is_nothing_yet(&error) => {}
                Err(_) => break,
            }
        }
        if !rest.is_empty() {
            break;
        }
        if from_client {
            link.passed.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
    // Both pumps end, and with them the last use of the sockets: closing without lingering is a reset.
    link.dead.store(true, Ordering::Relaxed);
    for socket in [&sockets.client, &sockets.server] {
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

fn is_nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Where a direction stands in its frames.
#[derive(Default)]
struct Frames {
    /// Bytes seen of the preamble, then of the current header.
    preamble: usize,
    head: usize,
    kind: u8,
    len: usize,
    /// Bytes seen of the body.
    body: usize,
    /// Frames seen of the kind to be damaged.
    seen: u64,
}

impl Frames {
    fn pass(&mut self, bytes: &mut [u8], shared: &Shared) {
        let mut damage = shared.damage.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            let hit = damage.is_some_and(|damage| self.is_at(damage));
            self.step(*byte, damage.map_or(0, |damage| damage.kind));
            if hit {
                *byte ^= 0x10;
                *damage = None;
                shared.damaged.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether the next byte is the one to be damaged: in the middle of the header's argument, or of the body.
    fn is_at(&self, damage: Damage) -> bool {
        let at = match damage.part {
            Part::Header => self.head == 12,
            Part::Body => self.head == HEADER_LEN && self.body == self.len / 2,
        };
        at && self.kind == damage.kind && self.seen == damage.nth
    }

    fn step(&mut self, byte: u8, watched: u8) {
        if self.preamble < PREAMBLE_LEN {
            self.preamble += 1;
            return;
        }
        if self.head < HEADER_LEN {
            match self.head {
                0 => {
                    (self.kind, self.len, self.body) = (byte, 0, 0);
                    self.seen += u64::from(byte == watched);
                }
                4..8 => self.len = self.len << 8 | usize::from(byte),
                _ => {}
            }
            self.head += 1;
        } else {
            self.body += 1;
        }
        if self.head == HEADER_LEN && self.body == self.len {
            self.head = 0;
        }
    }
}
