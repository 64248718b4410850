//! Capabilities: which are there, and how to be rid of them once the kernel programs run.
//!
//! A file capability is enough, root is not needed. Must not know who needs what.

use std::io;

pub use caps::Capability;
use caps::{CapSet, CapsHashSet};

use super::BpfError;

/// What loading, running and attaching classifiers takes.
pub const FOR_CLASSIFIERS: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
/// What loading a socket filter and opening packet sockets takes.
pub const FOR_PACKET_SOCKETS: &[Capability] = &[Capability::CAP_BPF, Capability::CAP_NET_RAW];
/// What loading a socket filter takes; attaching it to one's own sockets takes nothing.
pub const FOR_SELECTOR: &[Capability] = &[Capability::CAP_BPF];

/// Which of `needed` this thread lacks. `CAP_SYS_ADMIN` stands in for `CAP_BPF`, which Linux 5.8 split off from it.
pub fn missing(needed: &[Capability]) -> Vec<Capability> {
    // Unreadable sets mean a kernel without capabilities (2.6.24 or older): then nothing is missing.
    let Ok(have) = caps::read(None, CapSet::Effective) else {
        return Vec::new();
    };
    let has = |cap: Capability| {
        have.contains(&cap) || (cap == Capability::CAP_BPF && have.contains(&Capability::CAP_SYS_ADMIN))
    };
    needed.iter().copied().filter(|&cap| !has(cap)).collect()
}

/// Whether this thread may do `what`, which takes `needed`.
///
/// # Errors
/// [`BpfError::Capability`], naming what is missing.
pub fn require(what: &'static str, needed: &'static [Capability]) -> Result<(), BpfError> {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    Err(BpfError::Capability { what, missing, needed })
}

/// Lays down every capability of this thread except `keep`: what it does from here on is done without. They stay
/// permitted, for the commands that root starts: execve(2) gives those root's rights in any case, and would forget the
/// parent-death signal if that were more than was permitted before (`commit_creds`, kernel/cred.c, 6.12).
///
/// # Errors
/// The system's own.
pub fn lay_down(keep: &[Capability]) -> io::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = permitted.into_iter().filter(|cap| keep.contains(cap)).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)
}

/// Gives up every capability of this thread except `keep`, for good. Threads started from here on inherit that, so this
/// belongs after set-up (programs attached, files opened) and before the first thread. Root keeps its files, but loses
/// the right to open others'.
///
/// # Errors
/// The system's own; the sets are then as the last successful step left them.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = permitted.into_iter().filter(|cap| keep.contains(cap)).collect();
    if caps::read(None, CapSet::Ambient).is_ok_and(|set| !set.is_empty()) {
        caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}

/// What reading a map takes on this kernel: nothing from Linux 6.0 on (commit c8644cd0efe7), `CAP_BPF` before, where
/// `kernel.unprivileged_bpf_disabled` shuts every bpf command.
pub fn needed_to_read_maps() -> &'static [Capability] {
    if kernel_at_least(6, 0) { &[] } else { &[Capability::CAP_BPF] }
}

/// Whether the running kernel's release is at least `major.minor`. Vendor kernels keep the number and move the
/// features, so this decides only where asking the kernel itself is not possible.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release_of(&release) >= (major, minor)
}

fn release_of(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `CAP_BPF and CAP_NET_ADMIN`, for people.
pub fn names(caps: &[Capability]) -> String {
    let names: Vec<String> = caps.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

/// `cap_bpf,cap_net_admin`, for setcap(8).
pub fn setcap(caps: &[Capability]) -> String {
    let names: Vec<String> = caps.iter().map(|cap| cap.to_string().to_lowercase()).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_rights_are_missing_and_stay_so() {
        // Capabilities are a thread's own: this one ends with the test.
        std::thread::spawn(|| {
            keep_only(&[]).unwrap();
            let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
            assert_eq!(missing(&needed), needed);
            assert!(caps::raise(None, CapSet::Effective, Capability::CAP_BPF).is_err());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn rights_that_are_laid_down_are_not_used_but_there() {
        std::thread::spawn(|| {
            let permitted = caps::read(None, CapSet::Permitted).unwrap();
            lay_down(&[]).unwrap();
            let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
            assert_eq!(missing(&needed), needed);
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), permitted);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn releases_are_read_from_the_left() {
        assert_eq!(release_of("6.1.0-18-amd64"), (6, 1));
        assert_eq!(release_of("5.10.223"), (5, 10));
        assert_eq!(release_of("6.12-rc1+"), (6, 12));
        assert_eq!(release_of(""), (0, 0));
        assert!(kernel_at_least(3, 0));
        assert!(!kernel_at_least(99, 0));
    }
}
