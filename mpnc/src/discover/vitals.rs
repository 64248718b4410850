//! What the doctor wants to know of this host on a path: MTUs, LACP, counters, sysctls. Reads files, changes nothing.
//!
//! Must not know what is good or bad about them (that is [`crate::doctor`]).

use super::tree::Tree;
use super::view::PathView;
use crate::bond::model::policy_name;
use crate::bond::{Bond, Mii, Slave, sysfs};
use crate::doctor::{self, Counters, Device, Facts, Windows};

/// Reads the facts of this host on `view`'s path, as they are now.
pub fn vitals(view: &PathView, tree: &Tree) -> Facts {
    let bonds = view.legs.iter().filter_map(|leg| leg.bond.as_ref());
    let way = view.legs.first().map_or(&[][..], |leg| &leg.layers);
    Facts {
        kernel: view.kernel.clone(),
        address: view.source,
        way: way.iter().map(|layer| device(tree, &layer.name)).collect(),
        bonds: bonds.map(|bond| bond_now(tree, bond)).collect(),
        windows: windows(tree),
        conntrack: number(tree, "net/netfilter/nf_conntrack_count").zip(number(tree, "net/netfilter/nf_conntrack_max")),
        notes: view.notes.clone(),
    }
}

fn device(tree: &Tree, name: &str) -> Device {
    Device {
        name: name.to_owned(),
        mtu: attribute(tree, name, "mtu"),
        speed: tree.device(name, "speed").and_then(|text| sysfs::speed(&text)),
    }
}

fn bond_now(tree: &Tree, bond: &Bond) -> doctor::Bond {
    let usable = bond.usable();
    doctor::Bond {
        name: bond.name.clone(),
        mode: bond.mode.name().to_owned(),
        policy: policy_name(bond.policy).to_owned(),
        slaves: bond.slaves.iter().map(|slave| slave_now(tree, slave, usable.contains(&slave))).collect(),
    }
}

fn slave_now(tree: &Tree, slave: &Slave, usable: bool) -> doctor::Slave {
    let name = slave.name.as_str();
    let state = |whose: &str| attribute(tree, name, &format!("bonding_slave/ad_{whose}_oper_port_state"));
    doctor::Slave {
        device: Device { speed: slave.speed, ..device(tree, name) },
        usable,
        up: slave.mii == Mii::Up && slave.carrier != Some(false),
        duplex: tree.device(name, "duplex").map(|text| text.trim().to_owned()),
        lacp: state("actor").zip(state("partner")),
        counters: counters(tree, name),
    }
}

/// `rx_crc_errors` and the like are counted in `rx_errors` (Documentation/networking/statistics.rst).
fn counters(tree: &Tree, name: &str) -> Counters {
    let count = |of: &str| attribute::<u64>(tree, name, &format!("statistics/{of}")).unwrap_or(0);
    Counters {
        rx_bytes: count("rx_bytes"),
        packets: count("rx_packets") + count("tx_packets"),
        errors: count("rx_errors") + count("tx_errors"),
        carrier_changes: attribute(tree, name, "carrier_changes").unwrap_or(0),
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

fn attribute<T: std::str::FromStr>(tree: &Tree, device: &str, name: &str) -> Option<T> {
    tree.device(device, name)?.trim().parse().ok()
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
            ("mtu", "9000\n"),
            ("speed", "10000\n"),
            ("duplex", "full\n"),
            ("carrier_changes", "3\n"),
            ("statistics/rx_bytes", "1234\n"),
            ("statistics/rx_errors", "2\n"),
            ("statistics/tx_errors", "1\n"),
            ("bonding_slave/ad_actor_oper_port_state", "63\n"),
            ("bonding_slave/ad_partner_oper_port_state", "61\n"),
        ] {
            write(dir.path(), &format!("sys/class/net/e0/{file}"), text);
        }
        write(dir.path(), "proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
        let tree = Tree::at(dir.path());
        assert_eq!(device(&tree, "e0"), Device { name: "e0".into(), mtu: Some(9000), speed: Some(10_000) });
        let counted = Counters { rx_bytes: 1234, packets: 0, errors: 3, carrier_changes: 3 };
        assert_eq!(counters(&tree, "e0"), counted);
        assert_eq!(windows(&tree), Windows { rmem: Some(6_291_456), wmem: None, scaling: None });
        assert_eq!(attribute::<u8>(&tree, "e0", "bonding_slave/ad_partner_oper_port_state"), Some(61));
        assert_eq!(device(&tree, "e1").mtu, None);
    }
}
