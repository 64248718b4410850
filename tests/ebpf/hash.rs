//! The kernel's answer against the library's, for every policy, era and kind of frame.

use std::thread;

use aya::programs::{ReusePortSocketFilter, SchedClassifier, SocketFilter, TestRun, TestRunOptions};
use caps::Capability;
use fastrand::Rng;
use mpnc::bpf::{self, BpfError};
use mpnc::observe::kernel_hash;
use mpnc_ebpf::contract::{global, program};
use mpnc_ebpf::{ByteOrder, Era, Ether, Flow, Policy, hash};

use crate::frames::{Frame, Kind};

/// For each combination.
const PACKETS: u64 = 100_000;

const POLICIES: [Policy; 6] =
    [Policy::Layer2, Policy::Layer34, Policy::Layer23, Policy::Encap23, Policy::Encap34, Policy::VlanSrcmac];

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn the_kernel_computes_the_librarys_hash_bit_for_bit() {
    if !crate::able(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]) {
        return;
    }
    let halves = POLICIES.split_at(POLICIES.len() / 2);
    let compare = |policies: &'static [Policy]| {
        for (policy, era) in policies.iter().flat_map(|&p| Era::ALL.map(|era| (p, era))) {
            compare(policy, era);
        }
    };
    thread::scope(|scope| {
        scope.spawn(move || compare(halves.0));
        compare(halves.1);
    });
}

/// Loads the program for this policy and era, and asks it about every kind of frame.
fn compare(policy: Policy, era: Era) {
    const WHAT: &str = "testing the hash";
    let globals = [(global::HASH_POLICY, policy as u32), (global::HASH_ERA, era as u32)];
    let mut ebpf = bpf::load(WHAT, &globals).unwrap();
    let ask = bpf::program(&mut ebpf, WHAT, program::HASH_ASK, SchedClassifier::load).unwrap_or_else(|e| refused(&e));
    for (salt, kind) in (0..).zip(Kind::ALL) {
        let mut random = Rng::with_seed((policy as u64) << 16 | (era as u64) << 8 | salt);
        for _ in 0..PACKETS {
            let frame = Frame::random(&mut random, kind);
            let options = TestRunOptions { data_in: Some(&frame.bytes), ..TestRunOptions::default() };
            let kernel = ask.test_run(options).unwrap().return_value;
            assert_eq!(kernel, frame.hash(policy, era), "{policy:?} {era:?} {kind:?} {:02x?}", frame.bytes);
        }
    }
}

/// The same through mpnc's own door: planned flows, tagged and not.
#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn planned_flows_are_answered() {
    if !crate::able(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]) {
        return;
    }
    let mut flows = Vec::new();
    for (src, dst) in [("10.1.2.3", "10.1.2.77"), ("fd00::1:2:3", "fd00::9:8:77")] {
        for port in 30_000..30_100 {
            let flow = Flow::new(src.parse().unwrap(), dst.parse().unwrap(), port, 5001).unwrap();
            let vlan = (port % 3 == 0).then_some(port);
            flows.push((flow, Ether { src: [2, 0, 0, 0, 0, 1], dst: [2, 0, 0, 0, 0, 2], vlan }));
        }
    }
    for policy in POLICIES {
        let kernel = kernel_hash::ask(policy, Era::V5_18, &flows).unwrap();
        let library: Vec<u32> =
            flows.iter().map(|(f, e)| hash::hash(policy, Era::V5_18, ByteOrder::NATIVE, f, e)).collect();
        assert_eq!(kernel, library, "{policy:?}");
    }
}

/// Every program of the object passes the verifier, not only those that other tests happen to use.
#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn the_verifier_accepts_every_program() {
    const WHAT: &str = "testing the verifier";
    if !crate::able(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]) {
        return;
    }
    let mut ebpf = bpf::load(WHAT, &[]).unwrap();
    for name in [program::HASH_ASK, program::BOND_EGRESS, program::OBSERVE_EGRESS, program::OBSERVE_INGRESS] {
        bpf::program(&mut ebpf, WHAT, name, SchedClassifier::load).unwrap_or_else(|e| refused(&e));
    }
    bpf::program(&mut ebpf, WHAT, program::OBSERVE_TAP, SocketFilter::load).unwrap_or_else(|e| refused(&e));
    bpf::program(&mut ebpf, WHAT, program::STEER, ReusePortSocketFilter::load).unwrap_or_else(|e| refused(&e));
    assert_eq!(ebpf.programs().count(), 6, "a program that this test does not load");
}

/// The verifier's log is what a person needs to see.
fn refused(error: &BpfError) -> ! {
    if let BpfError::Load { log, .. } = error {
        panic!("{error}\n{log}");
    }
    panic!("{error}");
}
