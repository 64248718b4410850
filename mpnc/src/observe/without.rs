//! In place of the observer's programs, where mpnc was built without the means to load them.

use super::{Backend, FlowCount, Role};
use crate::bpf::BpfError;

pub(super) fn may_attach(_has_tcx: bool) -> Result<(), BpfError> {
    Err(BpfError::NoFeature)
}

/// There are none.
#[derive(Debug)]
pub(super) enum Attached {}

impl Attached {
    pub(super) fn new(_: Backend, _slaves: &[(&str, u32)], _port: u16, _: Role) -> Result<Self, BpfError> {
        Err(BpfError::NoFeature)
    }

    pub(super) fn backend(&self) -> Backend {
        match *self {}
    }

    pub(super) fn read(&self) -> Result<Vec<FlowCount>, BpfError> {
        match *self {}
    }

    pub(super) fn missed(&self) -> Result<u64, BpfError> {
        match *self {}
    }
}
