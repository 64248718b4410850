//! The bond's hash as the kernel computes it: asked about planned flows, or counted over what a device sends.
//!
//! A second opinion on the plan, by the same formula over real packet bytes; what the bond really does is seen by
//! [`super::Observer`] on its slaves. Must not know plans.

use std::fmt;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions};
use mpnc_ebpf::contract::{MAX_SLAVES, Traffic, global, map, program};
use mpnc_ebpf::flow::{Family, PROTO_TCP};
use mpnc_ebpf::{Era, Ether, Flow, Policy};

use crate::bpf::privilege;
use crate::bpf::{self, BpfError};

const WHAT: &str = "asking the kernel for the bond's hash";

/// The hash of each flow's packets by the program in the kernel (`BPF_PROG_TEST_RUN`; nothing is sent). Under
/// [`Policy::Encap34`] this is the value for forwarded packets, as in [`mpnc_ebpf::hash::hash`].
///
/// # Errors
/// What is missing: the object, `CAP_BPF` and `CAP_NET_ADMIN`, a kernel option.
pub fn ask(policy: Policy, era: Era, flows: &[(Flow, Ether)]) -> Result<Vec<u32>, BpfError> {
    let mut ebpf = load(policy, era, 1)?;
    let ask = bpf::program(&mut ebpf, WHAT, program::HASH_ASK, SchedClassifier::load)?;
    let one = |(flow, ether): &(Flow, Ether)| {
        let frame = frame(flow, ether);
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let answer = ask.test_run(options).map_err(|error| BpfError::Attach {
            program: program::HASH_ASK,
            target: "a test packet (BPF_PROG_TEST_RUN)".to_owned(),
            source: bpf::io_cause(&error),
        })?;
        Ok(answer.return_value)
    };
    flows.iter().map(one).collect()
}

/// Counts what a device sends by the index that the hash gives; ends when dropped.
pub struct HashCounter {
    counts: PerCpuArray<MapData, [u64; 2]>,
    slaves: u32,
    _ebpf: Ebpf,
}

impl fmt::Debug for HashCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashCounter").field("slaves", &self.slaves).finish_non_exhaustive()
    }
}

impl HashCounter {
    /// From now on, for everything that leaves `device` (the bond), with the hash modulo `slaves`. Linux 6.6 (tcx).
    ///
    /// # Errors
    /// As [`ask`]; `EINVAL` where the kernel has no tcx; more slaves than [`MAX_SLAVES`].
    pub fn attach(device: &str, policy: Policy, era: Era, slaves: u32) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Attach { program: program::HASH_COUNT, target: device.to_owned(), source };
        if slaves > MAX_SLAVES {
            return Err(failed(std::io::ErrorKind::InvalidInput.into()));
        }
        let mut ebpf = load(policy, era, slaves)?;
        bpf::program(&mut ebpf, WHAT, program::HASH_COUNT, SchedClassifier::load)?
            .attach_with_options(device, TcAttachType::Egress, TcAttachOptions::TcxOrder(LinkOrder::first()))
            .map_err(|error| failed(bpf::io_cause(&error)))?;
        let counts = ebpf.take_map(map::HASH_COUNTS).and_then(|map| map.try_into().ok());
        let counts = counts.ok_or_else(|| unread(&"not in the object"))?;
        Ok(Self { counts, slaves, _ebpf: ebpf })
    }

    /// Per index, since the start.
    ///
    /// # Errors
    /// [`BpfError::Read`].
    pub fn read(&self) -> Result<Vec<Traffic>, BpfError> {
        let of = |index| {
            let cpus = self.counts.get(&index, 0).map_err(|error| unread(&error))?;
            let sum = |field: usize| cpus.iter().map(|cpu| cpu[field]).sum();
            Ok(Traffic { bytes: sum(0), packets: sum(1) })
        };
        (0..self.slaves).map(of).collect()
    }
}

fn load(policy: Policy, era: Era, slaves: u32) -> Result<Ebpf, BpfError> {
    if bpf::embedded().is_none() {
        return Err(BpfError::NoObject);
    }
    privilege::require(WHAT, privilege::FOR_CLASSIFIERS)?;
    let globals = [(global::HASH_POLICY, policy as u32), (global::HASH_ERA, era as u32), (global::HASH_SLAVES, slaves)];
    bpf::load(WHAT, &globals)
}

/// A TCP segment of this flow, without payload.
fn frame(flow: &Flow, ether: &Ether) -> Vec<u8> {
    const TCP_HEADER: usize = 20;
    const ETHERTYPE_8021Q: u16 = 0x8100;
    let mut frame = [ether.dst, ether.src].concat();
    if let Some(tci) = ether.vlan {
        frame.extend(ETHERTYPE_8021Q.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(flow.family.ethertype().to_be_bytes());
    let words = |address: &[u32; 4], count: usize| address[..count].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let (header, count): (Vec<u8>, _) = match flow.family {
        Family::V4 => ([&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, PROTO_TCP][..], &[0; 2]].concat(), 1),
        Family::V6 => (vec![0x60, 0, 0, 0, 0, 20, PROTO_TCP, 64], 4),
    };
    let (src, dst): (Vec<u8>, Vec<u8>) = (words(&flow.src, count), words(&flow.dst, count));
    frame.extend([header, src, dst].concat());
    frame.extend(flow.ports.to_ne_bytes());
    frame.resize(frame.len() + TCP_HEADER - 4, 0);
    frame
}

fn unread(reason: &dyn ToString) -> BpfError {
    BpfError::Read { map: map::HASH_COUNTS, reason: reason.to_string() }
}
