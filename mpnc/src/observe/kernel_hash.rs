//! The bond's hash as the kernel computes it, asked about planned flows.
//!
//! A second opinion on the plan, by the same formula over packet bytes; over real packets [`crate::place`] has it
//! computed, and what the bond really does is seen by [`super::Observer`] on its slaves. Must not know plans.

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use mpnc_ebpf::contract::{global, program};
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
    let mut ebpf = load(policy, era)?;
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

fn load(policy: Policy, era: Era) -> Result<Ebpf, BpfError> {
    if bpf::embedded().is_none() {
        return Err(BpfError::NoObject);
    }
    privilege::require(WHAT, privilege::FOR_CLASSIFIERS)?;
    bpf::load(WHAT, &[(global::HASH_POLICY, policy as u32), (global::HASH_ERA, era as u32)])
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
