//! The bond's program: loaded, attached to the bond's egress as a tcx link (Linux 6.6), and its maps.
//!
//! Everything goes with its file descriptors. From Linux 6.0 on the maps take no privilege, so none is needed once the
//! program is attached. Must not know how slots are chosen.

use std::fmt;
use std::io;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuHashMap};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use mpnc_ebpf::contract::{Agreement, BondNow, MAX_SLAVES, STREAM_KEY_LEN, map, program};

use crate::bpf::{self, BpfError, privilege};
use crate::observe::Role;

/// A stream's key, as the maps have it.
pub(super) type Key = [u8; STREAM_KEY_LEN];
/// What stands for a stream that is planned for no slave: no slot has this number.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// The program at work on one bond; gone when this value goes.
pub(super) struct Program {
    bond: Array<MapData, [u64; 5]>,
    usable: Array<MapData, u32>,
    slots: Array<MapData, u32>,
    planned: HashMap<MapData, Key, u32>,
    agreed: PerCpuHashMap<MapData, Key, [u64; 4]>,
    _ebpf: Ebpf,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Program {
    /// From now on for all that leaves `bond` (its name) in sessions of this port. Needs `CAP_BPF` and `CAP_NET_ADMIN`.
    /// `what` is done by it, in words.
    pub(super) fn attach(what: &'static str, bond: &str, (port, role): (u16, Role)) -> Result<Self, BpfError> {
        if bpf::embedded().is_none() {
            return Err(BpfError::NoObject);
        }
        privilege::require(what, privilege::FOR_CLASSIFIERS)?;
        let mut ebpf = bpf::load(what, &role.globals(port))?;
        // First in line, so that no other program hides a packet from ours.
        bpf::program(&mut ebpf, what, program::BOND_EGRESS, SchedClassifier::load)?
            .attach_with_options(bond, TcAttachType::Egress, TcAttachOptions::TcxOrder(LinkOrder::first()))
            .map_err(|error| BpfError::Attach {
                program: program::BOND_EGRESS,
                target: bond.to_owned(),
                source: bpf::io_cause(&error),
            })?;
        let (bond, usable, slots) = (ebpf.take_map(map::BOND), ebpf.take_map(map::USABLE), ebpf.take_map(map::SLOTS));
        let (planned, agreed) = (ebpf.take_map(map::PLANNED), ebpf.take_map(map::AGREED));
        let absent = |map| move || BpfError::Read { map, reason: "not in the object".to_owned() };
        Ok(Self {
            bond: bond.and_then(|m| m.try_into().ok()).ok_or_else(absent(map::BOND))?,
            usable: usable.and_then(|m| m.try_into().ok()).ok_or_else(absent(map::USABLE))?,
            slots: slots.and_then(|m| m.try_into().ok()).ok_or_else(absent(map::SLOTS))?,
            planned: planned.and_then(|m| m.try_into().ok()).ok_or_else(absent(map::PLANNED))?,
            agreed: agreed.and_then(|m| m.try_into().ok()).ok_or_else(absent(map::AGREED))?,
            _ebpf: ebpf,
        })
    }

    /// What the bond is at the moment.
    pub(super) fn set_bond(&mut self, now: BondNow) -> Result<(), BpfError> {
        self.bond.set(0, now.words(), 0).map_err(|error| unwritten(map::BOND, &error))
    }

    /// The interface of each slot, and of each index that the hash gives.
    pub(super) fn set_slaves(&mut self, slots: &[u32], usable: &[u32]) -> Result<(), BpfError> {
        let fill = |array: &mut Array<MapData, u32>, name, values: &[u32]| {
            let padded = values.iter().copied().chain(std::iter::repeat(0));
            (0..MAX_SLAVES)
                .zip(padded)
                .try_for_each(|(index, value)| array.set(index, value, 0))
                .map_err(|error| unwritten(name, &error))
        };
        fill(&mut self.slots, map::SLOTS, slots)?;
        fill(&mut self.usable, map::USABLE, usable)
    }

    /// The slot that a stream is planned for.
    pub(super) fn plan(&mut self, key: &Key, slot: u32) -> Result<(), BpfError> {
        self.planned.insert(key, slot, 0).map_err(|error| unwritten(map::PLANNED, &error))
    }

    /// A stream begins: what was counted of another one of the same name is not its.
    pub(super) fn begin(&mut self, key: &Key) {
        // There may have been none.
        let _ = self.agreed.remove(key);
    }

    /// The stream is no more.
    pub(super) fn forget(&mut self, key: &Key) {
        // It may never have been there.
        let _ = self.planned.remove(key);
    }

    /// What was counted of a stream so far.
    pub(super) fn agreement(&self, key: &Key) -> Option<Agreement> {
        let cpus = self.agreed.get(key, 0).ok()?;
        let sum = |field: usize| cpus.iter().map(|cpu| cpu[field]).sum();
        let would = cpus.iter().max_by_key(|cpu| cpu[0]).map_or(0, |cpu| cpu[3]);
        Some(Agreement::from_words([sum(0), sum(1), sum(2), would]))
    }
}

/// How many programs of others are attached to the bond's egress as tcx links; ours let pass what is not theirs.
/// `None`: there are some, and whose they are is not for us to know.
pub(super) fn others(bond: &str) -> Result<Option<usize>, io::Error> {
    match SchedClassifier::query_tcx(bond, TcAttachType::Egress) {
        Ok((_, programs)) => Ok(Some(programs.iter().filter(|other| !is_ours(other)).count())),
        // There is one. To know which takes CAP_SYS_ADMIN.
        Err(ProgramError::SyscallError(SyscallError { call: "bpf_prog_get_fd_by_id", .. })) => Ok(None),
        Err(error) => match bpf::io_cause(&error) {
            // No tcx, so none of its programs either.
            none if matches!(none.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Some(0)),
            other => Err(other),
        },
    }
}

/// By its name, as much of it as the kernel keeps.
fn is_ours(other: &ProgramInfo) -> bool {
    const KEPT: usize = 15;
    other.name_as_str().is_some_and(|name| program::BOND_EGRESS.get(..KEPT) == Some(name))
}

fn unwritten(map: &'static str, error: &dyn ToString) -> BpfError {
    BpfError::Read { map, reason: error.to_string() }
}
