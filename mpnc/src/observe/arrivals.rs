//! On which slave of this host's bond a stream arrives: the receive queue that the kernel remembers for its socket, the interface
//! that the queue belongs to, the interface's place in the bond. No privilege; Linux 6.8 and newer.
//!
//! Must not know what is done about it.

use super::napi::Queues;
use crate::discover::{Class, Overrides, Request, Tree, discover};
use crate::sys::napi::incoming_id;
use crate::wire::Observation;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};

/// `Observation::source`: known from the socket's receive queue.
const BY_NAPI_ID: u16 = 1;

/// What has been learnt of this host's queues and bonds.
#[derive(Default)]
struct Known {
    queues: Queues,
    /// Queues that nobody knew: asked about once each.
    strange: Vec<NonZeroU32>,
    /// The slaves of the bond on the way to each peer.
    slaves: HashMap<IpAddr, Vec<Class>>,
}

/// A function that tells where a stream's packets arrive; `None` where the kernel cannot say.
///
/// A stream costs one getsockopt(2) each time; netlink is asked only about queues and peers not seen before.
pub fn sight() -> Option<impl Fn(BorrowedFd<'_>, SocketAddr) -> Option<Observation> + Send + Sync + 'static> {
    let queues = match Queues::read() {
        Ok(queues) => queues?,
        Err(error) => {
            log::debug!("cannot ask for receive queues: {error}");
            return None;
        }
    };
    let known = Mutex::new(Known { queues, ..Known::default() });
    Some(move |socket: BorrowedFd<'_>, peer: SocketAddr| {
        let id = incoming_id(&socket).ok().flatten()?;
        known.lock().unwrap_or_else(PoisonError::into_inner).look(id, peer.ip())
    })
}

impl Known {
    fn look(&mut self, id: NonZeroU32, peer: IpAddr) -> Option<Observation> {
        if self.queues.ifindex(id).is_none() && !self.strange.contains(&id) {
            self.strange.push(id);
            self.queues = Queues::read().ok().flatten()?;
        }
        let ifindex = self.queues.ifindex(id)?;
        let slaves = self.slaves.entry(peer).or_insert_with(|| slaves_towards(peer));
        let place = slaves.iter().position(|slave| slave.ifindex == ifindex);
        Some(Observation {
            ifindex,
            slave: place.and_then(|place| u16::try_from(place).ok()).unwrap_or(u16::MAX),
            slaves: u16::try_from(slaves.len()).unwrap_or(u16::MAX),
            source: BY_NAPI_ID,
        })
    }
}

/// The slaves of the bond that leads to the peer, which is the one its packets come in on.
fn slaves_towards(peer: IpAddr) -> Vec<Class> {
    let request = Request { destination: SocketAddr::new(peer, 1), source: None, overrides: Overrides::default() };
    match discover(&request, &Tree::default()) {
        Ok(view) => view.classes,
        Err(error) => {
            log::debug!("no way back to {peer}: {error}");
            Vec::new()
        }
    }
}
