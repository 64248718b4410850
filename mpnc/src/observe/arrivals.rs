//! On which slave of this host's bond a stream arrives, by the best means there is: the receive queue that the kernel
//! remembers for its socket (Linux 6.8, no privilege), else the observer's count of its packets. Where there is
//! neither, the slaves' receive counters are here for others to judge by.
//!
//! Must not know what is done about it.

use super::napi::Queues;
use super::places::{Places, Tuple};
use super::{Direction, Observer};
use crate::discover::{self, Class, LinkWatch, Request, Tree, discover};
use crate::sys::napi::incoming_id;
use crate::wire::{Means, Observation, Place};
use socket2::SockRef;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How old the observer's counts may be: less than the time between two looks of a worker.
const COUNTS_ARE_FRESH: Duration = Duration::from_millis(150);
/// The bond is not read again sooner than this, however often its links change.
const BOND_HOLDS: Duration = Duration::from_secs(1);

/// See the module documentation.
pub struct Sight {
    bonds: Mutex<Bonds>,
    /// `None`: this kernel does not tell.
    queues: Option<Mutex<Known>>,
    watched: Option<(Arc<Observer>, Mutex<Watched>)>,
}

/// What a stream's socket itself tells of where it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inlet {
    /// The receive queue of its packets (NAPI id), if the kernel says.
    queue: Option<NonZeroU32>,
    local_port: u16,
    peer: SocketAddr,
}

impl Inlet {
    /// Asks the socket; that never blocks.
    #[must_use]
    pub fn of(socket: BorrowedFd<'_>, peer: SocketAddr) -> Option<Self> {
        let local_port = SockRef::from(&socket).local_addr().ok()?.as_socket()?.port();
        Some(Self { queue: incoming_id(&socket).ok().flatten(), local_port, peer })
    }
}

/// The bond on the way to each peer, which is the one its packets come in on.
struct Bonds {
    /// Tells when to read them again.
    changes: Option<LinkWatch>,
    towards: HashMap<IpAddr, BondRead>,
}

/// One of them, as it was read.
struct BondRead {
    slaves: Vec<Class>,
    read: Instant,
    /// A link has changed since then.
    stale: bool,
}

/// What has been learnt of this host's receive queues.
struct Known {
    queues: Queues,
    /// Queues that nobody knew: asked about once each.
    strange: Vec<NonZeroU32>,
}

/// What the observer saw when it was last asked.
#[derive(Default)]
struct Watched {
    places: Places,
    asked: Option<Instant>,
}

impl Sight {
    /// Sight with what this kernel has, and with the observer, if there is one.
    #[must_use]
    pub fn new(observer: Option<Arc<Observer>>) -> Self {
        let queues = Queues::read().unwrap_or_else(|error| {
            log::debug!("cannot ask for receive queues: {error}");
            None
        });
        Self {
            bonds: Mutex::new(Bonds { changes: LinkWatch::new().ok(), towards: HashMap::new() }),
            queues: queues.map(|queues| Mutex::new(Known { queues, strange: Vec::new() })),
            watched: observer.map(|observer| (observer, Mutex::default())),
        }
    }

    /// Where the packets of this stream come in; `None` where neither queue nor observer tells. Netlink is asked only
    /// about queues, peers and changes not seen before; that may block.
    pub fn of_stream(&self, stream: &Inlet) -> Option<Observation> {
        let by_queue = self.by_queue(stream).map(|ifindex| (ifindex, Means::Queue));
        let (ifindex, by) = by_queue.or_else(|| Some((self.by_observer(stream)?, Means::Observer)))?;
        let mut bonds = lock(&self.bonds);
        let slaves = bonds.slaves(stream.peer.ip());
        let place = slaves.iter().position(|slave| slave.ifindex == ifindex);
        let place = place.and_then(|place| Place::new(place, slaves.len()));
        Some(Observation { ifindex: NonZeroU32::new(ifindex), place, by })
    }

    fn by_queue(&self, stream: &Inlet) -> Option<u32> {
        let mut known = lock(self.queues.as_ref()?);
        let id = stream.queue?;
        if known.queues.ifindex(id).is_none() && !known.strange.contains(&id) {
            known.strange.push(id);
            known.queues = Queues::read().ok().flatten()?;
        }
        known.queues.ifindex(id)
    }

    fn by_observer(&self, stream: &Inlet) -> Option<u32> {
        let (observer, watched) = self.watched.as_ref()?;
        let mut watched = lock(watched);
        if watched.asked.is_none_or(|asked| asked.elapsed() >= COUNTS_ARE_FRESH) {
            watched.asked = Some(Instant::now());
            match observer.read() {
                Ok(counts) => {
                    watched.places.update(counts.iter().filter(|count| count.direction == Direction::Ingress));
                }
                Err(error) => log::debug!("cannot read what was observed: {error}"),
            }
        }
        let Inlet { local_port, peer, .. } = *stream;
        watched.places.of(Tuple { local_port, peer: peer.ip(), peer_port: peer.port() })
    }

    /// Bytes received so far by each usable slave of the bond towards the peer (by interface index), in the order of
    /// its list, headers and everybody's traffic included. Empty where there is no bond, or a counter cannot be read.
    pub fn received(&self, peer: IpAddr) -> Vec<(u32, u64)> {
        let mut bonds = lock(&self.bonds);
        let slaves = bonds.slaves(peer);
        let counters = discover::received(slaves, &Tree::default()).unwrap_or_default();
        slaves.iter().map(|slave| slave.ifindex).zip(counters).collect()
    }
}

impl Bonds {
    fn slaves(&mut self, peer: IpAddr) -> &[Class] {
        let all: Vec<u32> = self.towards.values().flat_map(|bond| &bond.slaves).map(|slave| slave.ifindex).collect();
        if self.changes.as_mut().is_some_and(|changes| changes.drain(&all).unwrap_or(true)) {
            self.towards.values_mut().for_each(|bond| bond.stale = true);
        }
        let read = || BondRead { slaves: slaves_towards(peer), read: Instant::now(), stale: false };
        let bond = self.towards.entry(peer).or_insert_with(read);
        if bond.stale && bond.read.elapsed() >= BOND_HOLDS {
            *bond = read();
        }
        &bond.slaves
    }
}

fn slaves_towards(peer: IpAddr) -> Vec<Class> {
    match discover(&Request::back_to(peer), &Tree::default()) {
        // Whatever its hash goes by: packets come in on its slaves all the same.
        Ok(view) => view.slaves().to_vec(),
        Err(error) => {
            log::debug!("no way back to {peer}: {error}");
            Vec::new()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
