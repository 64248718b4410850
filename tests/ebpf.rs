//! The kernel programs in the running kernel: the hash bit for bit, steering and observing in network namespaces.
//!
//! Needs root (capabilities are enough for some) and the embedded object; prints a line that starts with `SKIP:` and passes
//! where one is missing.

#[path = "ebpf/bond.rs"]
mod bond;
#[path = "ebpf/frames.rs"]
mod frames;
#[path = "ebpf/hash.rs"]
mod hash;
#[path = "common/netns.rs"]
mod namespace;
#[path = "ebpf/net.rs"]
mod net;
#[path = "ebpf/observe.rs"]
mod observe;
#[path = "ebpf/steer.rs"]
mod steer;

use std::io::Write;

use caps::{CapSet, Capability};

/// False, and a loud line, unless these capabilities are there and, for those who load programs, the object.
fn able(test: &str, needed: &[Capability]) -> bool {
    let lacks = needed.iter().find(|&&cap| !caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false));
    if needed.contains(&Capability::CAP_BPF) && mpnc::bpf::embedded().is_none() {
        skip(test, "built without the eBPF object (cargo xtask build-ebpf, MPNC_EBPF_OBJECT)");
        return false;
    }
    if let Some(cap) = lacks {
        skip(test, &format!("needs {cap}: run as root"));
        return false;
    }
    true
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn skip(test: &str, reason: &str) {
    let line = format!("\nSKIP: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr");
}
