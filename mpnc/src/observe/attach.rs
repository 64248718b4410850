//! The observer's programs: load, attach by either backend, read the maps.
//!
//! Must not know what the counts are for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, SocketFilter, TcAttachType};
use mpnc_ebpf::contract::{self, FLOW_KEY_LEN, FlowKey, map, program};
use socket2::Socket;

use super::{Backend, Direction, FlowCount, Role};
use crate::bpf::privilege;
use crate::bpf::{self, BpfError};
use crate::sys::packet;

const WHAT: &str = "observing the slaves";

/// Whether object and rights are there for the backend that the kernel has.
pub(super) fn may_attach(has_tcx: bool) -> Result<(), BpfError> {
    if bpf::embedded().is_none() {
        return Err(BpfError::NoObject);
    }
    let needed = if has_tcx { privilege::FOR_CLASSIFIERS } else { privilege::FOR_PACKET_SOCKETS };
    privilege::require(WHAT, needed)
}

/// Programs, links and maps; all go with their file descriptors.
pub(super) struct Attached {
    backend: Backend,
    flows: PerCpuHashMap<MapData, [u8; FLOW_KEY_LEN], [u64; 2]>,
    missed: PerCpuArray<MapData, u64>,
    /// Holds the tcx links.
    _ebpf: Ebpf,
    /// Hold the filters.
    _sockets: Vec<Socket>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").finish_non_exhaustive()
    }
}

impl Attached {
    pub(super) fn new(backend: Backend, slaves: &[(&str, u32)], port: u16, role: Role) -> Result<Self, BpfError> {
        may_attach(backend == Backend::Tcx)?;
        let mut ebpf = bpf::load(WHAT, &role.globals(port))?;
        let mut sockets = Vec::new();
        match backend {
            Backend::Tcx => attach_tcx(&mut ebpf, slaves)?,
            Backend::PacketSocket => sockets = attach_sockets(&mut ebpf, slaves)?,
        }
        let flows = ebpf.take_map(map::FLOWS);
        let missed = ebpf.take_map(map::FLOWS_MISSED);
        let absent = || failed(&"not in the object");
        Ok(Self {
            backend,
            flows: flows.and_then(|m| m.try_into().ok()).ok_or_else(absent)?,
            missed: missed.and_then(|m| m.try_into().ok()).ok_or_else(absent)?,
            _ebpf: ebpf,
            _sockets: sockets,
        })
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    pub(super) fn read(&self) -> Result<Vec<FlowCount>, BpfError> {
        let one = |(key, cpus): ([u8; FLOW_KEY_LEN], aya::maps::PerCpuValues<[u64; 2]>)| {
            let key = FlowKey::from_bytes(&key);
            FlowCount {
                local_port: key.local_port,
                peer: SocketAddr::new(address(&key), key.peer_port),
                ifindex: key.ifindex,
                direction: if key.direction == contract::EGRESS { Direction::Egress } else { Direction::Ingress },
                bytes: cpus.iter().map(|[bytes, _]| bytes).sum(),
                packets: cpus.iter().map(|[_, packets]| packets).sum(),
            }
        };
        self.flows.iter().map(|entry| entry.map(one).map_err(|e| failed(&e))).collect()
    }

    pub(super) fn missed(&self) -> Result<u64, BpfError> {
        let cpus = self.missed.get(&0, 0).map_err(|e| failed(&e))?;
        Ok(cpus.iter().sum())
    }
}

/// First in line on each slave, so that no other program hides a packet from ours.
fn attach_tcx(ebpf: &mut Ebpf, slaves: &[(&str, u32)]) -> Result<(), BpfError> {
    let both = [(program::OBSERVE_EGRESS, TcAttachType::Egress), (program::OBSERVE_INGRESS, TcAttachType::Ingress)];
    for (name, direction) in both {
        let classifier = bpf::program(ebpf, WHAT, name, SchedClassifier::load)?;
        for (slave, _) in slaves {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            classifier.attach_with_options(slave, direction, options).map_err(|error| BpfError::Attach {
                program: name,
                target: (*slave).to_owned(),
                source: bpf::io_cause(&error),
            })?;
        }
    }
    Ok(())
}

/// One packet socket per slave. The filter goes on before the socket is bound, so that nothing is ever queued.
fn attach_sockets(ebpf: &mut Ebpf, slaves: &[(&str, u32)]) -> Result<Vec<Socket>, BpfError> {
    let tap = bpf::program(ebpf, WHAT, program::OBSERVE_TAP, SocketFilter::load)?;
    let mut sockets = Vec::with_capacity(slaves.len());
    for (slave, ifindex) in slaves {
        let attach = |source| BpfError::Attach {
            program: program::OBSERVE_TAP,
            target: format!("a packet socket on {slave}"),
            source,
        };
        let socket = packet::open().map_err(|source| match source.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => {
                BpfError::KernelOption { what: WHAT, option: "packet sockets (CONFIG_PACKET)", source }
            }
            _ => attach(source),
        })?;
        tap.attach(&socket).map_err(|error| attach(bpf::io_cause(&error)))?;
        packet::bind(&socket, *ifindex).map_err(attach)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn address(key: &FlowKey) -> IpAddr {
    let [a, b, c, d] = key.peer.map(u32::to_ne_bytes);
    if key.version == 4 {
        return Ipv4Addr::from(a).into();
    }
    let mut octets = [0; 16];
    for (to, from) in octets.chunks_exact_mut(4).zip([a, b, c, d]) {
        to.copy_from_slice(&from);
    }
    Ipv6Addr::from(octets).into()
}

fn failed(reason: &dyn ToString) -> BpfError {
    BpfError::Read { map: map::FLOWS, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_back_as_the_header_had_them() {
        let mut key = FlowKey {
            peer: [u32::from_ne_bytes([10, 1, 2, 3]), 0, 0, 0],
            ifindex: 3,
            local_port: 1,
            peer_port: 2,
            direction: contract::EGRESS,
            version: 4,
            zero: 0,
        };
        assert_eq!(address(&key), IpAddr::from([10, 1, 2, 3]));
        let v6: Ipv6Addr = "fd00::9:8:77".parse().unwrap();
        for (word, bytes) in key.peer.iter_mut().zip(v6.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        key.version = 6;
        assert_eq!(address(&key), IpAddr::from(v6));
    }
}
