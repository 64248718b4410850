//! In place of the program, where mpnc was built without the means to load one: it cannot be attached.

use crate::bpf::BpfError;
use crate::observe::Role;
use mpnc_ebpf::contract::{Agreement, BondNow, STREAM_KEY_LEN};

pub(super) type Key = [u8; STREAM_KEY_LEN];
pub(super) const NO_SLOT: u32 = u32::MAX;

/// There is none.
#[derive(Debug)]
pub(super) enum Program {}

impl Program {
    pub(super) fn attach(_what: &'static str, _bond: &str, _session: (u16, Role)) -> Result<Self, BpfError> {
        Err(BpfError::NoFeature)
    }

    pub(super) fn set_bond(&mut self, _now: BondNow) -> Result<(), BpfError> {
        match *self {}
    }

    pub(super) fn set_slaves(&mut self, _slots: &[u32], _usable: &[u32]) -> Result<(), BpfError> {
        match *self {}
    }

    pub(super) fn plan(&mut self, _key: &Key, _slot: u32) -> Result<(), BpfError> {
        match *self {}
    }

    pub(super) fn begin(&mut self, _key: &Key) {
        match *self {}
    }

    pub(super) fn forget(&mut self, _key: &Key) {
        match *self {}
    }

    pub(super) fn agreement(&self, _key: &Key) -> Option<Agreement> {
        match *self {}
    }
}

/// What there is cannot be seen.
#[expect(clippy::unnecessary_wraps, reason = "its other form may fail")]
pub(super) fn others(_bond: &str) -> std::io::Result<Option<usize>> {
    Ok(None)
}
