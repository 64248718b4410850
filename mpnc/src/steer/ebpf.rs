//! The eBPF selector: load, attach to the group, tell it whose receive queues are, read its counters.
//!
//! Must not know the rules by which it picks.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::ReusePortSocketFilter;
use mpnc_ebpf::contract::{global, map, program};

use crate::bpf::privilege;
use crate::bpf::{self, BpfError};

use super::Counts;

const WHAT: &str = "steering connections";

/// What the program counts, and what it goes by.
pub(super) struct Counters {
    steered: PerCpuArray<MapData, u64>,
    by_queue: PerCpuArray<MapData, u64>,
    queues: Mutex<HashMap<MapData, u32, u32>>,
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
        let mut take = |map| ebpf.take_map(map).ok_or_else(|| failed(map, &"not in the object"));
        Ok(Self {
            steered: PerCpuArray::try_from(take(map::STEERED)?).map_err(|e| failed(map::STEERED, &e))?,
            by_queue: PerCpuArray::try_from(take(map::STEERED_BY_QUEUE)?)
                .map_err(|e| failed(map::STEERED_BY_QUEUE, &e))?,
            queues: Mutex::new(HashMap::try_from(take(map::QUEUES)?).map_err(|e| failed(map::QUEUES, &e))?),
            workers,
        })
    }

    /// Connections per worker since the start, all of them and those that went by their receive queue.
    pub(super) fn read(&self) -> Result<Counts, BpfError> {
        let read = |counters: &PerCpuArray<MapData, u64>, name| -> Result<Vec<u64>, BpfError> {
            let of = |worker| counters.get(&worker, 0).map(|cpus| cpus.iter().sum()).map_err(|e| failed(name, &e));
            (0..self.workers).map(of).collect()
        };
        Ok(Counts { all: read(&self.steered, map::STEERED)?, by_queue: read(&self.by_queue, map::STEERED_BY_QUEUE)? })
    }

    /// From now on these receive queues have these workers, and others none.
    pub(super) fn serve(&self, queues: &[(u32, u32)]) -> Result<(), BpfError> {
        let mut map = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<u32> = map.keys().collect::<Result<_, _>>().map_err(|e| failed(map::QUEUES, &e))?;
        let gone = known.iter().filter(|known| !queues.iter().any(|(queue, _)| queue == *known));
        for queue in gone {
            map.remove(queue).map_err(|e| failed(map::QUEUES, &e))?;
        }
        for (queue, worker) in queues {
            map.insert(queue, worker, 0).map_err(|e| failed(map::QUEUES, &e))?;
        }
        Ok(())
    }
}

fn failed(map: &'static str, reason: &dyn ToString) -> BpfError {
    BpfError::Read { map, reason: reason.to_string() }
}
