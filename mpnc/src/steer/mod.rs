//! Which worker of the receiver gets a connection: eBPF, else classic BPF, else the kernel's own hash.
//!
//! Both programs follow one rule, the lane code in the source port ([`mpnc_ebpf::contract::worker`]), so that a
//! session's streams spread exactly, whoever its sender is. The eBPF one goes by the receive queue first, where
//! [`queues`] says whose that is. Must not know sessions, streams or what workers do.

mod cbpf;
#[cfg(feature = "ebpf")]
mod ebpf;
pub mod queues;
pub mod workers;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;

use mpnc_ebpf::contract::MAX_WORKERS;

use crate::bpf::{BpfError, EbpfMode};
use crate::sys::reuseport;

/// What picks the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// The eBPF program; it counts what it steered.
    Ebpf,
    /// The classic BPF program; no privilege.
    Cbpf,
    /// The kernel's hash of the connection, with a secret of its own: spreads by chance. Right for any number of
    /// workers.
    Kernel,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Cbpf => "cbpf",
            Self::Kernel => "kernel",
        })
    }
}

/// `--steering`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SteeringMode {
    /// The first that works, best first.
    #[default]
    Auto,
    /// This one or an error.
    Only(Steering),
}

impl SteeringMode {
    /// The spellings of the command line.
    pub const NAMES: [&str; 4] = ["auto", "ebpf", "cbpf", "kernel"];
}

impl FromStr for SteeringMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "ebpf" => Ok(Self::Only(Steering::Ebpf)),
            "cbpf" => Ok(Self::Only(Steering::Cbpf)),
            "kernel" => Ok(Self::Only(Steering::Kernel)),
            _ => Err(format!("'{text}' is none of auto, ebpf, cbpf, kernel")),
        }
    }
}

/// Why the wanted steering is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// More workers than lanes.
    #[error("{0} workers cannot be steered: the lane code in the source port tells {MAX_WORKERS} apart at most")]
    TooManyWorkers(usize),
    /// `--steering ebpf --ebpf off`.
    #[error("steering by eBPF was asked for and eBPF switched off: drop one of --steering ebpf, --ebpf off")]
    Contradiction,
    /// The eBPF program could not be used.
    #[error("steering by eBPF: {0}")]
    Ebpf(#[from] BpfError),
    /// The classic program could not be attached.
    #[error("steering by classic BPF: attaching to the listeners' group (SO_ATTACH_REUSEPORT_CBPF, Linux 4.6): {0}")]
    Cbpf(#[source] io::Error),
}

/// Connections per worker, by the program's own count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub all: Vec<u64>,
    /// Of these, those that went by their receive queue, not by their lane.
    pub by_queue: Vec<u64>,
}

/// Steering at work. The program belongs to the listeners' group and goes when the last of them closes; dropping this
/// value only gives up the counters.
#[derive(Debug)]
pub struct Active {
    steering: Steering,
    /// What was tried before and why it did not work.
    fallbacks: Vec<SteerError>,
    #[cfg(feature = "ebpf")]
    counters: Option<ebpf::Counters>,
}

impl Active {
    fn new(steering: Steering, fallbacks: Vec<SteerError>) -> Self {
        Self {
            steering,
            fallbacks,
            #[cfg(feature = "ebpf")]
            counters: None,
        }
    }

    /// What picks the worker now.
    pub fn steering(&self) -> Steering {
        self.steering
    }

    /// Why nothing better does; empty when it is the best or was asked for.
    pub fn fallbacks(&self) -> &[SteerError] {
        &self.fallbacks
    }

    /// Gives receive queues their workers, for connections to come; where steering is not by eBPF, does nothing. Blocks
    /// no longer than a few calls to the kernel.
    ///
    /// # Errors
    /// [`BpfError::Read`].
    pub fn serve(&self, queues: &[(u32, u32)]) -> Result<(), BpfError> {
        #[cfg(feature = "ebpf")]
        if let Some(counters) = &self.counters {
            return counters.serve(queues);
        }
        let _ = queues;
        Ok(())
    }

    /// What the program itself counted: the proof that it ran. Only eBPF can count.
    ///
    /// # Errors
    /// [`BpfError::Read`].
    pub fn counts(&self) -> Result<Option<Counts>, BpfError> {
        #[cfg(feature = "ebpf")]
        if let Some(counters) = &self.counters {
            return counters.read().map(Some);
        }
        Ok(None)
    }
}

/// Lets `mode` pick the member of the group for each new connection. `listeners` are all of one `SO_REUSEPORT` group,
/// in the order in which they are put into listening, before or after this: worker `i` is the `i`-th. Nobody else may
/// join the group afterwards.
///
/// A group of one has a program as well, so that whoever joins it gets nothing unless he replaces that; where nobody
/// says which, the classic one, which costs nothing to load.
///
/// # Errors
/// With [`SteeringMode::Auto`] only [`SteerError::TooManyWorkers`], and [`SteerError::Ebpf`] under [`EbpfMode::On`];
/// otherwise what kept the wanted one from working.
pub fn attach<L: AsFd>(listeners: &[L], mode: SteeringMode, ebpf: EbpfMode) -> Result<Active, SteerError> {
    let workers = u32::try_from(listeners.len())
        .ok()
        .filter(|&workers| workers <= MAX_WORKERS)
        .ok_or(SteerError::TooManyWorkers(listeners.len()))?;
    let Some(first) = listeners.first() else {
        return Ok(Active::new(Steering::Kernel, Vec::new()));
    };
    match mode {
        SteeringMode::Only(Steering::Ebpf) if ebpf == EbpfMode::Off => Err(SteerError::Contradiction),
        SteeringMode::Only(Steering::Ebpf) => attach_ebpf(first, workers),
        SteeringMode::Only(Steering::Cbpf) => attach_cbpf(first, workers),
        SteeringMode::Only(Steering::Kernel) => Ok(Active::new(Steering::Kernel, Vec::new())),
        SteeringMode::Auto if workers == 1 => first_that_works(first, workers, EbpfMode::Off),
        SteeringMode::Auto => first_that_works(first, workers, ebpf),
    }
}

fn first_that_works(listener: &impl AsFd, workers: u32, ebpf: EbpfMode) -> Result<Active, SteerError> {
    let mut fallbacks = Vec::new();
    if ebpf != EbpfMode::Off {
        match attach_ebpf(listener, workers) {
            Ok(active) => return Ok(active),
            Err(error) if ebpf == EbpfMode::On => return Err(error),
            Err(error) => fallbacks.push(error),
        }
    }
    match attach_cbpf(listener, workers) {
        Ok(active) => Ok(Active { fallbacks, ..active }),
        Err(error) => {
            fallbacks.push(error);
            Ok(Active::new(Steering::Kernel, fallbacks))
        }
    }
}

fn attach_cbpf(listener: &impl AsFd, workers: u32) -> Result<Active, SteerError> {
    reuseport::attach_classic(listener, &cbpf::program(workers)).map_err(SteerError::Cbpf)?;
    Ok(Active::new(Steering::Cbpf, Vec::new()))
}

#[cfg(feature = "ebpf")]
fn attach_ebpf(listener: &impl AsFd, workers: u32) -> Result<Active, SteerError> {
    let counters = ebpf::attach(listener, workers)?;
    Ok(Active { counters: Some(counters), ..Active::new(Steering::Ebpf, Vec::new()) })
}

#[cfg(not(feature = "ebpf"))]
fn attach_ebpf(_listener: &impl AsFd, _workers: u32) -> Result<Active, SteerError> {
    Err(BpfError::NoFeature.into())
}

#[cfg(test)]
mod tests;
