//! What the doctor wants to know of this host on a path: MTUs, LACP, counters, sysctls. Reads files, changes nothing.
//!
//! Must not know what is good or bad about them (that is [`crate::doctor`]).

use super::gauge::{Counted, counted};
use super::links::{Link, Links};
use super::tree::Tree;
use super::view::PathView;
use crate::bond::{Bond, Mii, Slave, sysfs};
use crate::doctor::{self, Counters, Device, Facts, Windows};
use std::collections::BTreeMap;

/// Reads the facts of this host on `view`'s path, as they are now.
pub fn vitals(view: &PathView, tree: &Tree) -> Facts {
    let now = Now { tree, links: &Links::read(tree), counted: &counted(tree) };
    let bonds = view.legs.iter().filter_map(|leg| leg.bond.as_ref());
    let way = view.legs.first().map_or(&[][..], |leg| &leg.layers);
    Facts {
        kernel: view.kernel.clone(),
        address: view.source,
        way: way.iter().map(|layer| now.device(&layer.name, layer.ifindex)).collect(),
        bonds: bonds.map(|bond| now.bond(bond)).collect(),
        windows: windows(tree),
        conntrack: number(tree, "net/netfilter/nf_conntrack_count").zip(number(tree, "net/netfilter/nf_conntrack_max")),
        notes: view.notes.clone(),
    }
}

/// What there is to read at one moment.
struct Now<'a> {
    tree: &'a Tree,
    links: &'a Links,
    counted: &'a BTreeMap<String, Counted>,
}

impl Now<'_> {
    fn device(&self, name: &str, index: u32) -> Device {
        let link = self.links.get(index);
        let speed = link.and_then(|link| self.tree.device(link.identity(), "speed"));
        Device {
            name: name.to_owned(),
            mtu: link.and_then(|link| link.mtu),
            speed: speed.and_then(|text| sysfs::speed(&text)),
        }
    }

    fn bond(&self, bond: &Bond) -> doctor::BondState {
        let usable = bond.usable();
        doctor::BondState {
            name: bond.name.clone(),
            mode: bond.mode.name().to_owned(),
            policy: bond.policy_name().to_owned(),
            slaves: bond.slaves.iter().map(|slave| self.slave(slave, usable.contains(&slave))).collect(),
        }
    }

    fn slave(&self, slave: &Slave, usable: bool) -> doctor::Slave {
        let link = self.links.get(slave.ifindex);
        let duplex = link.and_then(|link| self.tree.device(link.identity(), "duplex"));
        doctor::Slave {
            device: Device { speed: slave.speed, ..self.device(&slave.name, slave.ifindex) },
            usable,
            up: slave.mii == Mii::Up && slave.carrier != Some(false),
            duplex: duplex.map(|text| text.trim().to_owned()),
            lacp: slave.lacp,
            counters: self.counters(&slave.name, link),
        }
    }

    fn counters(&self, name: &str, link: Option<&Link>) -> Counters {
        let Counted { rx_bytes, packets, errors, .. } = self.counted.get(name).copied().unwrap_or_default();
        let carrier_changes = link.and_then(|link| link.carrier_changes).unwrap_or(0);
        Counters { rx_bytes, packets, errors, carrier_changes }
    }
}

fn windows(tree: &Tree) -> Windows {
    let last = |name| tree.sysctl(name).and_then(|text| text.split_whitespace().last()?.parse().ok());
    Windows {
        rmem: last("net/ipv4/tcp_rmem"),
        wmem: last("net/ipv4/tcp_wmem"),
        scaling: number(tree, "net/ipv4/tcp_window_scaling").map(|value| value != 0),
    }
}

fn number(tree: &Tree, sysctl: &str) -> Option<u64> {
    tree.sysctl(sysctl)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_slaves_files_are_read_and_absent_ones_are_unknown() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("ifindex", "7\n"),
            ("mtu", "9000\n"),
            ("speed", "10000\n"),
            ("duplex", "full\n"),
            ("carrier_changes", "3\n"),
            ("bonding_slave/ad_actor_oper_port_state", "63\n"),
            ("bonding_slave/ad_partner_oper_port_state", "61\n"),
        ] {
            write(dir.path(), &format!("sys/class/net/e0/{file}"), text);
        }
        write(dir.path(), "proc/net/dev", "  e0: 1234 0 2 0 0 0 0 0 0 0 1 0 0 0 0 0\n");
        write(dir.path(), "proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
        let tree = Tree::at(dir.path());
        let links = Links::from_tree(&tree);
        let now = Now { tree: &tree, links: &links, counted: &counted(&tree) };
        assert_eq!(now.device("e0", 7), Device { name: "e0".into(), mtu: Some(9000), speed: Some(10_000) });
        let e0 = links.get(7).unwrap();
        let found = Counters { rx_bytes: 1234, packets: 0, errors: 3, carrier_changes: 3 };
        assert_eq!(now.counters("e0", Some(e0)), found);
        assert_eq!(e0.slave.lacp, (Some(63), Some(61)));
        assert_eq!(now.device("e1", 8).mtu, None);
        assert_eq!(windows(&tree), Windows { rmem: Some(6_291_456), wmem: None, scaling: None });
    }
}
