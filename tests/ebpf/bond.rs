//! Real 802.3ad bonds, back to back: where the hash says that a stream goes, and where the observer sees it go, at both
//! ends.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use caps::Capability;
use fastrand::Rng;
use mpnc::bpf::privilege::kernel_at_least;
use mpnc::observe::{Direction, FlowCount, Observer, Role};
use mpnc_ebpf::{ByteOrder, Era, Flow, hash};

use crate::net::{Namespace, connect, ifindex, namespace};

const PORT: u16 = 31_337;
/// Random source ports per bond, half over IPv4 and half over IPv6.
const PORTS: usize = 200;

/// Two hosts, `slaves` cables, a bond on each end.
struct Bonds {
    ends: [Namespace; 2],
    /// Interface indices in the order of enslaving, per end.
    order: [Vec<u32>; 2],
}

impl Bonds {
    /// `None`: this kernel has no bonding.
    fn new(slaves: usize) -> Option<Self> {
        let ends = [namespace(), namespace()];
        for end in &ends {
            let bond = "type bond mode 802.3ad xmit_hash_policy layer3+4 miimon 100 lacp_rate fast";
            let add = ["-n", end.name(), "link", "add", "bond0"].into_iter().chain(bond.split(' '));
            if !Command::new("ip").args(add).status().is_ok_and(|status| status.success()) {
                return None;
            }
        }
        for i in 0..slaves {
            let name = format!("s{i}");
            ends[0].ip(&format!("link add {name} type veth peer name {name} netns {}", ends[1].name()));
        }
        // The order of the slaves is the order of enslaving, not of their indices: the two ends differ here.
        let forward: Vec<usize> = (0..slaves).collect();
        let backward = forward.iter().rev().copied().collect();
        let order = [(&ends[0], backward), (&ends[1], forward)].map(|(end, order)| enslave(end, &order));
        let bonds = Self { ends, order };
        for (end, host) in bonds.ends.iter().zip(1..) {
            end.ip(&format!("addr add 10.8.0.{host}/24 dev bond0"));
            end.ip(&format!("addr add fd08::{host}/64 dev bond0 nodad"));
            end.ip("link set bond0 up");
        }
        bonds.wait_for_one_aggregator(slaves);
        Some(bonds)
    }

    fn wait_for_one_aggregator(&self, slaves: usize) {
        let settled = |end: &Namespace| end.ip("-d link show bond0").contains(&format!("ad_num_ports {slaves} "));
        // LACP needs some seconds; it is not what is tested.
        for _ in 0..300 {
            if self.ends.iter().all(settled) {
                return thread::sleep(Duration::from_secs(1));
            }
            thread::sleep(Duration::from_millis(200));
        }
        panic!("the bonds of {slaves} slaves did not come up");
    }

    fn observer(&self, end: usize, role: Role) -> Observer {
        let indices = &self.order[end];
        let name = |i: usize| (format!("s{i}"), ifindex(&self.ends[end], &format!("s{i}")));
        let named: Vec<(String, u32)> = (0..indices.len()).map(name).collect();
        let slaves: Vec<(&str, u32)> = named.iter().map(|(name, index)| (name.as_str(), *index)).collect();
        self.ends[end].enter(|| Observer::attach(&slaves, PORT, role)).unwrap()
    }
}

fn enslave(end: &Namespace, order: &[usize]) -> Vec<u32> {
    let one = |i: &usize| {
        let name = format!("s{i}");
        end.ip(&format!("link set {name} master bond0"));
        end.ip(&format!("link set {name} up"));
        ifindex(end, &name)
    };
    order.iter().map(one).collect()
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn predicted_slave_is_observed_slave_for_every_port() {
    let rights = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_SYS_ADMIN];
    if !crate::able(&rights) {
        return;
    }
    for slaves in [2, 3, 4, 5, 8] {
        let Some(bonds) = Bonds::new(slaves) else {
            return crate::skip::elsewhere("this kernel has no bonding (run it in the lab's virtual machine)");
        };
        check(&bonds, slaves);
    }
}

fn check(bonds: &Bonds, slaves: usize) {
    let [sender, receiver] = [(0, Role::Connector), (1, Role::Listener)].map(|(end, role)| bonds.observer(end, role));
    let listener = bonds.ends[1].enter(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, PORT))).unwrap();
    let mut random = Rng::with_seed(slaves as u64);
    let hosts: [[IpAddr; 2]; 2] = ["10.8.0.1 10.8.0.2", "fd08::1 fd08::2"]
        .map(|pair| [0, 1].map(|i| pair.split(' ').nth(i).unwrap().parse().unwrap()));
    let mut flows = Vec::new();
    bonds.ends[0].enter(|| {
        while flows.len() < PORTS {
            let [from, to] = hosts[flows.len() % 2];
            let port = 1_024 + random.u16(..30_000);
            let flow = Flow::new(from, to, port, PORT).unwrap();
            if flows.contains(&flow) {
                continue;
            }
            drop(connect((from, port).into(), (to, PORT).into()));
            drop(listener.accept().unwrap());
            flows.push(flow);
        }
    });
    let seen = [sender.read().unwrap(), receiver.read().unwrap()];
    for flow in &flows {
        let port = flow.sport();
        let out = slave_of(&seen[0], |c| c.local_port == port && same_family(c, flow));
        assert_eq!(out, vec![predict(flow, &bonds.order[0])], "{slaves} slaves, out from {port}");
        let back = slave_of(&seen[1], |c| c.peer.port() == port && same_family(c, flow));
        assert_eq!(back, vec![predict(&flow.reversed(), &bonds.order[1])], "{slaves} slaves, back to {port}");
    }
}

fn same_family(count: &FlowCount, flow: &Flow) -> bool {
    matches!(count.peer, SocketAddr::V4(_)) == matches!(flow.family, mpnc_ebpf::Family::V4)
}

fn slave_of(counts: &[FlowCount], is: impl Fn(&FlowCount) -> bool) -> Vec<u32> {
    counts.iter().filter(|c| c.direction == Direction::Egress && is(c)).map(|c| c.ifindex).collect()
}

/// All kernels that can run these tests shift.
fn predict(flow: &Flow, order: &[u32]) -> u32 {
    let era = if kernel_at_least(5, 18) { Era::V5_18 } else { Era::V4_14 };
    let hash = hash::layer34(era, ByteOrder::NATIVE, flow);
    order[hash as usize % order.len()]
}
