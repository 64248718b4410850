//! The kernel's own word on which slave carries each stream: the observer, where it is allowed and wanted; and the end
//! of all privilege.

use super::job::Moves;
use super::prepare::{LeavingOf, counters};
use crate::bpf::privilege::{self, Capability};
use crate::bpf::{BpfError, EbpfMode};
use crate::discover::{Class, PathView, Tree, bonded};
use crate::engine::Leaving;
use crate::error::{Error, words};
use crate::observe::{Direction, FlowCount, Observer, Role};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

/// The slave that carried most of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Busiest {
    /// Its name.
    pub(super) slave: String,
    /// Bytes of frames that it carried, headers included.
    pub(super) bytes: u64,
}

/// What the observer saw, by source port.
pub(super) type Truth = BTreeMap<u16, Busiest>;

/// A running observer, or none.
pub(super) struct Observed {
    observer: Option<Arc<Observer>>,
    role: Role,
    /// What of this side's data the summary is about: what it sends, or, if it sends none, what it receives.
    direction: Direction,
    /// Slaves by interface index.
    names: BTreeMap<u32, String>,
}

impl Observed {
    /// Attaches the observer to the slaves of the path's bond: before the first byte where streams are `measured`,
    /// beside the transfer where they are planned and only checked.
    pub(super) fn of_path(ebpf: EbpfMode, moves: Moves, view: &PathView, measured: bool) -> Result<Self, Error> {
        let bonds = view.legs.iter().filter_map(|leg| leg.bond.as_ref());
        let names = bonds.flat_map(|bond| &bond.slaves).map(|slave| (slave.ifindex, slave.name.clone())).collect();
        Self::start((ebpf, measured), moves, names, (view.destination.port(), Role::Connector))
    }

    /// Attaches the observer to the slaves of every bond of this host: who will connect, and over which, is not known
    /// yet.
    pub(super) fn of_host(ebpf: EbpfMode, moves: Moves, port: u16) -> Result<Self, Error> {
        Self::start((ebpf, false), moves, bonded(&Tree::default()), (port, Role::Listener))
    }

    fn start(
        (ebpf, at_once): (EbpfMode, bool),
        moves: Moves,
        names: BTreeMap<u32, String>,
        (port, role): (u16, Role),
    ) -> Result<Self, Error> {
        let direction = if moves.sends { Direction::Egress } else { Direction::Ingress };
        let mut observed = Self { observer: None, role, direction, names };
        // Without a slave there is nothing to observe, but a person who insists is told whether it could be done.
        if ebpf == EbpfMode::Off || ebpf == EbpfMode::Auto && observed.names.is_empty() {
            return Ok(observed);
        }
        // Whoever insists is told before anything is moved.
        if at_once || ebpf == EbpfMode::On {
            match observer(&observed.names, port, role) {
                Ok(observer) => observed.observer = Some(Arc::new(observer)),
                Err(error) if ebpf == EbpfMode::On => {
                    return Err(Error::Usage(format!("--ebpf on, but the slaves cannot be observed: {error}")));
                }
                Err(error) => log::info!("the slaves are not observed: {error}"),
            }
        } else {
            observed.observer = begin(observed.names.clone(), port, role);
        }
        Ok(observed)
    }

    /// What shows by which slave each stream leaves: the observer, or else the slaves' own counters.
    pub(super) fn leaving(&self) -> LeavingOf {
        match self.observer.clone() {
            Some(observer) => Arc::new(move |slaves| {
                if observer.failure().has_come() { counters(slaves) } else { seen_by(Arc::clone(&observer), slaves) }
            }),
            None => Arc::new(counters),
        }
    }

    /// For those who want to know while the session runs.
    pub(super) fn observer(&self) -> Option<Arc<Observer>> {
        self.observer.clone()
    }

    /// The name of a slave that was there at the start.
    pub(super) fn name(&self, ifindex: u32) -> Option<&str> {
        self.names.get(&ifindex).map(String::as_str)
    }

    /// The slave by which the streams with this peer went most, by source port, and how many bytes of frames. A
    /// connector has one peer, by whichever of its addresses.
    pub(super) fn read(&self, peer: IpAddr) -> Truth {
        let mut seen = Truth::new();
        let Some(observer) = &self.observer else { return seen };
        let counts = match observer.read() {
            Ok(counts) => counts,
            Err(error) => {
                log::warn!("cannot read what was observed: {error}");
                return seen;
            }
        };
        let is_its = |count: &FlowCount| self.role == Role::Connector || count.peer.ip() == peer;
        for count in counts.iter().filter(|count| count.direction == self.direction && is_its(count)) {
            let Some(slave) = self.names.get(&count.ifindex) else { continue };
            let port = match self.role {
                Role::Connector => count.local_port,
                Role::Listener => count.peer.port(),
            };
            let better = seen.get(&port).is_none_or(|known| known.bytes < count.bytes);
            if better {
                seen.insert(port, Busiest { slave: slave.clone(), bytes: count.bytes });
            }
        }
        seen
    }
}

fn observer(names: &BTreeMap<u32, String>, port: u16, role: Role) -> Result<Observer, BpfError> {
    let slaves: Vec<(&str, u32)> = names.iter().map(|(ifindex, name)| (name.as_str(), *ifindex)).collect();
    let observer = Observer::attach(&slaves, port, role)?;
    if let Some(backend) = observer.backend() {
        log::info!("observing {} slaves ({backend:?})", slaves.len());
    }
    Ok(observer)
}

/// Attaches the observer beside the transfer, whose first byte does not wait for it. `None`: it may not be.
fn begin(names: BTreeMap<u32, String>, port: u16, role: Role) -> Option<Arc<Observer>> {
    if let Err(error) = Observer::may_attach() {
        log::info!("the slaves are not observed: {error}");
        return None;
    }
    let begun = Arc::new(Observer::default());
    let to_be = Arc::clone(&begun);
    beside("observe", move || match observer(&names, port, role) {
        Ok(observer) => to_be.become_attached(observer),
        Err(error) => {
            to_be.failure().come();
            log::info!("the slaves are not observed: {error}");
        }
    });
    Some(begun)
}

/// Does what takes privilege on a thread of its own, which gives it up afterwards: rights are a thread's, so this one
/// still has them when the others have given up theirs.
pub(super) fn beside(name: &str, what: impl FnOnce() + Send + 'static) {
    let work = move || {
        what();
        if let Err(error) = privilege::keep_only(&[]) {
            log::debug!("cannot give up privileges: {}", words(&error));
        }
    };
    if let Err(error) = thread::Builder::new().name(name.into()).spawn(work) {
        log::warn!("no kernel program: cannot start a thread: {error}");
    }
}

fn seen_by(observer: Arc<Observer>, slaves: &[Class]) -> Leaving {
    let index_of: BTreeMap<u32, u16> = (0..).zip(slaves).map(|(index, slave)| (slave.ifindex, index)).collect();
    Leaving::Streams(Arc::new(move || {
        let counts = observer.read().unwrap_or_else(|error| {
            log::debug!("cannot read what was observed: {error}");
            Vec::new()
        });
        let out = counts.iter().filter(|count| count.direction == Direction::Egress);
        out.filter_map(|count| Some(((count.local_port, *index_of.get(&count.ifindex)?), count.bytes))).collect()
    }))
}

/// Gives up every privilege but those that are still needed: set-up is over. Reading the kernel programs' counters
/// takes one on old kernels; `more` is what else is left to do. A side that starts commands only lays them down.
pub(super) fn give_up_privileges(more: &[Capability], starts_commands: bool) {
    let keep = [privilege::needed_to_read_maps(), more].concat();
    let given = if starts_commands { privilege::lay_down(&keep) } else { privilege::keep_only(&keep) };
    if let Err(error) = given {
        log::warn!("cannot give up privileges: {}", words(&error));
    }
}
