//! What really happens to the session's streams: which slave carries how much of each, by the kernel's own count.
//!
//! The programs count the session's one port only and touch no packet. Nothing stays behind on any exit, SIGKILL
//! included: the programs hang on file descriptors of this process, as tcx links (Linux 6.6) or, on older kernels, as
//! filters of packet sockets, never as clsact filters, which outlive their maker. Must not know plans, slaves' roles or
//! what follows from a count.

pub mod arrivals;
#[cfg(feature = "ebpf")]
mod attach;
#[cfg(not(feature = "ebpf"))]
#[path = "without.rs"]
mod attach;
#[cfg(feature = "ebpf")]
pub mod kernel_hash;
pub mod napi;
mod places;

use std::net::SocketAddr;
use std::sync::OnceLock;

use mpnc_ebpf::contract::global;

use crate::bpf::BpfError;
use crate::bpf::loss::Loss;

/// Which end of the session this host is: decides which of a packet's ports is the session's one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connects: the session port is the peer's.
    Connector,
    /// Listens: the session port is ours.
    Listener,
}

impl Role {
    /// What the programs go by: which packets are the session's (names in [`mpnc_ebpf::contract::global`]).
    #[must_use]
    pub fn globals(self, port: u16) -> [(&'static str, u32); 2] {
        [(global::SESSION_PORT, port.into()), (global::PORT_IS_LOCAL, u32::from(self == Self::Listener))]
    }
}

/// Seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Out of the slave: the bond chose it.
    Egress,
    /// In at the slave: the switch chose it.
    Ingress,
}

/// How the kernel programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// tcx links on the slaves (Linux 6.6). Needs `CAP_BPF` and `CAP_NET_ADMIN`.
    Tcx,
    /// Filters of one packet socket per slave, which keep nothing (any kernel). Needs `CAP_BPF` and `CAP_NET_RAW`;
    /// costs a clone of each packet's descriptor, for all traffic of the slave.
    PacketSocket,
}

/// One stream, one direction, one slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowCount {
    /// This host's port.
    pub local_port: u16,
    /// The other host as the packets name it (behind NAT: as translated).
    pub peer: SocketAddr,
    /// Interface index of the slave.
    pub ifindex: u32,
    /// Out or in.
    pub direction: Direction,
    /// Bytes of frames, headers included; of a frame that the NIC cuts or has joined, its headers once.
    pub bytes: u64,
    /// Frames as the stack handles them (one for a frame that the NIC cuts or has joined).
    pub packets: u64,
}

/// The programs at work, or about to be; gone when this value goes.
#[derive(Debug, Default)]
pub struct Observer {
    attached: OnceLock<attach::Attached>,
    /// That they could not be.
    failure: Loss,
}

impl Observer {
    /// Counts the session's frames on these slaves (name, interface index) from now on, in both directions. `port` is
    /// the session's one port. Takes the best backend that the kernel has.
    ///
    /// # Errors
    /// What is missing: the object, a capability, a kernel option, a slave.
    pub fn attach(slaves: &[(&str, u32)], port: u16, role: Role) -> Result<Self, BpfError> {
        if crate::bpf::privilege::kernel_at_least(6, 6) {
            match Self::attach_with(Backend::Tcx, slaves, port, role) {
                // A kernel of that number without CONFIG_NET_XGRESS has no tcx.
                Err(BpfError::Attach { source, .. })
                    if matches!(source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {}
                done => return done,
            }
        }
        Self::attach_with(Backend::PacketSocket, slaves, port, role)
    }

    /// As [`Observer::attach`], with this backend or not at all.
    ///
    /// # Errors
    /// As there.
    pub fn attach_with(backend: Backend, slaves: &[(&str, u32)], port: u16, role: Role) -> Result<Self, BpfError> {
        let attached = OnceLock::from(attach::Attached::new(backend, slaves, port, role)?);
        let observer = Self { attached, failure: Loss::default() };
        observer.failure.rule_out();
        Ok(observer)
    }

    /// Whether it may be attached, as far as that shows without doing so.
    ///
    /// # Errors
    /// What is missing: the object, a capability.
    pub fn may_attach() -> Result<(), BpfError> {
        attach::may_attach(crate::bpf::privilege::kernel_at_least(6, 6))
    }

    /// From now on it is what `other` is: one that was to be, and has been attached meanwhile.
    pub fn become_attached(&self, other: Self) {
        if let Some(attached) = other.attached.into_inner() {
            // One that counts already stays.
            let _ = self.attached.set(attached);
            self.failure.rule_out();
        }
    }

    /// That it was to be attached and could not be.
    pub fn failure(&self) -> &Loss {
        &self.failure
    }

    /// How the programs are attached; `None` while they are not.
    pub fn backend(&self) -> Option<Backend> {
        self.attached.get().map(attach::Attached::backend)
    }

    /// All counts since the start, in no order; none before it is attached. Costs two system calls per stream,
    /// direction and slave. Before Linux 6.0 the calling thread needs `CAP_BPF`
    /// ([`crate::bpf::privilege::needed_to_read_maps`]).
    ///
    /// # Errors
    /// [`BpfError::Read`].
    pub fn read(&self) -> Result<Vec<FlowCount>, BpfError> {
        self.attached.get().map_or_else(|| Ok(Vec::new()), attach::Attached::read)
    }

    /// Frames of the session that were not counted because the table of streams was full
    /// ([`mpnc_ebpf::contract::MAX_FLOWS`]); not 0 means that [`Observer::read`] is incomplete.
    ///
    /// # Errors
    /// [`BpfError::Read`].
    pub fn missed(&self) -> Result<u64, BpfError> {
        self.attached.get().map_or(Ok(0), attach::Attached::missed)
    }
}
