//! The eBPF selector: load, attach to the group, read its counters.
//!
//! Must not know the rule by which it picks.

use std::fmt;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::ReusePortSocketFilter;
use mpnc_ebpf::contract::{global, map, program};

use crate::bpf::privilege;
use crate::bpf::{self, BpfError};

const WHAT: &str = "steering connections";

/// The program's own counters.
pub(super) struct Counters {
    steered: PerCpuArray<MapData, u64>,
    workers: u32,
}

/// Loads the selector for `workers` members and attaches it to the listener's group.
pub(super) fn attach(listener: &impl AsFd, workers: u32) -> Result<Counters, BpfError> {
    if bpf::embedded().is_none() {
        return Err(BpfError::NoObject);
    }
    privilege::require(WHAT, privilege::FOR_SELECTOR)?;
    let mut ebpf = bpf::load(WHAT, &[(global::WORKERS, workers)])?;
    let selector = bpf::program(&mut ebpf, WHAT, program::STEER, ReusePortSocketFilter::load)?;
    selector.attach(listener).map_err(|error| BpfError::Attach {
        program: program::STEER,
        target: "the listeners' group".to_owned(),
        source: bpf::io_cause(&error),
    })?;
    Counters::of(&mut ebpf, workers)
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    fn of(ebpf: &mut Ebpf, workers: u32) -> Result<Self, BpfError> {
        let steered = ebpf
            .take_map(map::STEERED)
            .and_then(|map| PerCpuArray::try_from(map).ok())
            .ok_or_else(|| failed(&"not in the object"))?;
        Ok(Self { steered, workers })
    }

    /// Connections per worker since the start.
    pub(super) fn read(&self) -> Result<Vec<u64>, BpfError> {
        let of = |worker| {
            let cpus = self.steered.get(&worker, 0);
            cpus.map(|cpus| cpus.iter().sum()).map_err(|e| failed(&e))
        };
        (0..self.workers).map(of).collect()
    }
}

fn failed(reason: &dyn ToString) -> BpfError {
    BpfError::Read { map: map::STEERED, reason: reason.to_string() }
}
