//! The kernel programs in the running kernel: the hash bit for bit, steering and observing in network namespaces.
//!
//! Needs root (capabilities are enough for some) and the embedded object: a plain `cargo test` ignores these, `cargo
//! xtask test` runs them, also in virtual machines.

#[path = "ebpf/bond.rs"]
mod bond;
#[path = "ebpf/frames.rs"]
mod frames;
#[path = "ebpf/hash.rs"]
mod hash;
#[path = "common/netns.rs"]
mod namespace;
#[path = "common/needs.rs"]
mod needs;
#[path = "ebpf/net.rs"]
mod net;
#[path = "ebpf/observe.rs"]
mod observe;
#[path = "common/skip.rs"]
mod skip;
#[path = "ebpf/steer.rs"]
mod steer;

use caps::{CapSet, Capability};

/// Whether these capabilities are there and, for those who load programs, the object. If not, the running test is
/// skipped and has to return.
#[track_caller]
fn able(needed: &[Capability]) -> bool {
    let lacks = needed.iter().find(|&&cap| !caps::has_cap(None, CapSet::Effective, cap).unwrap_or(false));
    if needed.contains(&Capability::CAP_BPF) && mpnc::bpf::embedded().is_none() {
        needs::missing("built without the eBPF object (MPNC_EBPF_OBJECT is empty?)");
        return false;
    }
    if let Some(cap) = lacks {
        needs::missing(&format!("needs {cap}: run as root"));
        return false;
    }
    true
}
