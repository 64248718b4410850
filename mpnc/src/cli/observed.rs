//! The kernel's own word on which slave each stream leaves by: the observer, where it is allowed and wanted.

use super::args::Args;
use super::prepare::{TruthOf, counters};
use crate::bpf::EbpfMode;
use crate::bpf::privilege::{self, Capability};
use crate::discover::{Class, PathView};
use crate::engine::Truth;
use crate::error::{Error, words};
use crate::observe::{Direction, Observer, Role};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a stream was seen to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Name of the slave that carried most of it.
    pub(super) slave: String,
    /// Bytes of frames that it carried, headers included.
    pub(super) bytes: u64,
}

/// A running observer, or none.
pub(super) struct Observed {
    observer: Option<Arc<Observer>>,
    /// Slaves by interface index.
    names: BTreeMap<u32, String>,
}

impl Observed {
    /// Attaches the observer to the slaves of the path's bond. If this is the last address to try, every privilege that is not needed
    /// any more is given up then.
    pub(super) fn start(args: &Args, view: &PathView, last: bool) -> Result<Self, Error> {
        let bonds = view.legs.iter().filter_map(|leg| leg.bond.as_ref());
        let names: BTreeMap<u32, String> =
            bonds.flat_map(|bond| &bond.slaves).map(|slave| (slave.ifindex, slave.name.clone())).collect();
        if names.is_empty() || args.ebpf == EbpfMode::Off {
            return Ok(Self { observer: None, names });
        }
        let slaves: Vec<(&str, u32)> = names.iter().map(|(ifindex, name)| (name.as_str(), *ifindex)).collect();
        match Observer::attach(&slaves, view.destination.port(), Role::Connector) {
            Ok(observer) => {
                log::info!("observing {} slaves ({:?})", slaves.len(), observer.backend());
                // What is left: reading the counters, and source ports below 1024 if a person asks for them.
                let mut keep = privilege::needed_to_read_maps().to_vec();
                keep.push(Capability::CAP_NET_BIND_SERVICE);
                if last && let Err(error) = privilege::keep_only(&keep) {
                    log::warn!("cannot give up privileges: {}", words(&error));
                }
                Ok(Self { observer: Some(Arc::new(observer)), names })
            }
            Err(error) if args.ebpf == EbpfMode::On => {
                Err(Error::Usage(format!("--ebpf on, but the slaves cannot be observed: {error}")))
            }
            Err(error) => {
                log::info!("the slaves are not observed: {error}");
                Ok(Self { observer: None, names })
            }
        }
    }

    /// What shows by which slave each stream leaves: the observer, or else the slaves' own counters.
    pub(super) fn truth(&self) -> TruthOf {
        match self.observer.clone() {
            Some(observer) => Arc::new(move |slaves| seen_by(Arc::clone(&observer), slaves)),
            None => Arc::new(counters),
        }
    }

    /// The slave by which each source port sent most, and how many bytes of frames.
    pub(super) fn read(&self) -> BTreeMap<u16, Seen> {
        let mut seen: BTreeMap<u16, Seen> = BTreeMap::new();
        let Some(observer) = &self.observer else { return seen };
        let counts = match observer.read() {
            Ok(counts) => counts,
            Err(error) => {
                log::warn!("cannot read what was observed: {error}");
                return seen;
            }
        };
        for count in counts.iter().filter(|count| count.direction == Direction::Egress) {
            let Some(slave) = self.names.get(&count.ifindex) else { continue };
            let better = seen.get(&count.local_port).is_none_or(|known| known.bytes < count.bytes);
            if better {
                seen.insert(count.local_port, Seen { slave: slave.clone(), bytes: count.bytes });
            }
        }
        seen
    }
}

fn seen_by(observer: Arc<Observer>, slaves: &[Class]) -> Truth {
    let index_of: BTreeMap<u32, u16> = (0..).zip(slaves).map(|(index, slave)| (slave.ifindex, index)).collect();
    Truth::Streams(Arc::new(move || {
        let counts = observer.read().unwrap_or_else(|error| {
            log::debug!("cannot read what was observed: {error}");
            Vec::new()
        });
        let out = counts.iter().filter(|count| count.direction == Direction::Egress);
        out.filter_map(|count| Some(((count.local_port, *index_of.get(&count.ifindex)?), count.bytes))).collect()
    }))
}
