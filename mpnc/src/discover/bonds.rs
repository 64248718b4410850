//! A bond's state from all that tells of it: netlink's attributes, the bond's page in proc for the slaves' order and
//! speed, and sysfs for what those lack.
//!
//! Must not know routes. Where sources disagree because something is changing, the caller reads again.

use super::links::{Kind, Link, Links, SlaveFacts, slave_of_tree};
use super::tree::Tree;
use crate::bond::{Bond, Mii, Mode, Slave, SlaveState, proc, sysfs};
use std::collections::BTreeMap;

/// The slaves of every bond of this network namespace: names by interface index.
pub fn bonded(tree: &Tree) -> BTreeMap<u32, String> {
    members_of_bonds(&Links::read(tree))
}

fn members_of_bonds(links: &Links) -> BTreeMap<u32, String> {
    let slaves = links.of_kind(&Kind::Bond).flat_map(|bond| links.members(bond.index));
    slaves.map(|slave| (slave.index, slave.name.clone())).collect()
}

/// Every bond of this network namespace.
pub fn bonds(tree: &Tree) -> Vec<Bond> {
    let links = Links::read(tree);
    links.of_kind(&Kind::Bond).filter_map(|link| read(&links, tree, link)).collect()
}

/// Reads one bond. `None` when not even its mode can be learnt.
pub(super) fn read(links: &Links, tree: &Tree, link: &Link) -> Option<Bond> {
    let page = tree.bond_page(&link.name).and_then(|text| proc::bond(&link.name, &text));
    let bonding = |attribute: &str| tree.device(link.identity(), &format!("bonding/{attribute}"));
    let facts = &link.bond;
    let mode = facts
        .mode
        .or_else(|| bonding("mode").and_then(|s| sysfs::mode(&s)))
        .or_else(|| page.as_ref().map(|p| p.mode))?;
    let policy = facts
        .policy
        .or_else(|| bonding("xmit_hash_policy").and_then(|s| sysfs::policy(&s)))
        .or_else(|| page.as_ref().and_then(|p| p.policy));
    let (slaves, ordered) = slaves(links, tree, link, page.as_ref(), mode);
    let number = |attribute: &str| bonding(attribute).and_then(|s| sysfs::number(&s));
    Some(Bond {
        name: link.name.clone(),
        ifindex: link.index,
        mode,
        policy,
        // Kernels before 3.17 have no such option and always balance dynamically.
        dynamic_lb: facts
            .dynamic_lb
            .or_else(|| bonding("tlb_dynamic_lb").and_then(|s| sysfs::flag(&s)))
            .unwrap_or(true),
        aggregator: facts
            .aggregator
            .or_else(|| number("ad_aggregator"))
            .or_else(|| page.as_ref().and_then(|p| p.aggregator)),
        slaves,
        ordered,
    })
}

/// The slaves in the kernel's order (proc, else sysfs), or by interface index where neither tells it.
fn slaves(links: &Links, tree: &Tree, bond: &Link, page: Option<&Bond>, mode: Mode) -> (Vec<Slave>, bool) {
    let on_page = |name: &str| page.and_then(|p| p.slaves.iter().find(|s| s.name == name));
    let in_sysfs = || -> Option<Vec<String>> {
        let listed = tree.device(bond.identity(), "bonding/slaves")?;
        let names: Vec<String> = sysfs::slaves(&listed).into_iter().map(str::to_owned).collect();
        // A bond that is alike in another namespace has other slaves.
        names.iter().all(|name| links.members(bond.index).any(|link| link.name == *name)).then_some(names)
    };
    let names = page.map(|p| p.slaves.iter().map(|s| s.name.clone()).collect()).or_else(in_sysfs);
    let ordered = names.is_some();
    let names = names.unwrap_or_else(|| links.members(bond.index).map(|l| l.name.clone()).collect());
    let slave = |name: &String| {
        let link = links.members(bond.index).find(|link| link.name == *name);
        slave(tree, name, link, on_page(name), mode)
    };
    (names.iter().map(slave).collect(), ordered)
}

fn slave(tree: &Tree, name: &str, link: Option<&Link>, on_page: Option<&Slave>, mode: Mode) -> Slave {
    let told = link.map(|l| l.slave.clone()).unwrap_or_default();
    let of_lacp = told.aggregator.is_some() && told.lacp.0.is_some() && told.lacp.1.is_some();
    let complete = told.state.is_some() && told.mii.is_some() && (mode != Mode::Ieee8023ad || of_lacp);
    let read = |attribute: &str| tree.device(link?.identity(), attribute);
    let more = if complete { SlaveFacts::default() } else { slave_of_tree(read) };
    Slave {
        name: name.to_owned(),
        ifindex: link.map_or(0, |l| l.index),
        // Unknown state: the aggregator and the link decide.
        state: told.state.or(more.state).unwrap_or(SlaveState::Active),
        mii: told.mii.or(more.mii).or_else(|| on_page.map(|s| s.mii)).unwrap_or(Mii::Down),
        carrier: link.and_then(|l| l.carrier),
        aggregator: told.aggregator.or(more.aggregator).or_else(|| on_page.and_then(|s| s.aggregator)),
        lacp: told.lacp.0.or(more.lacp.0).zip(told.lacp.1.or(more.lacp.1)),
        speed: read("speed").and_then(|s| sysfs::speed(&s)).or_else(|| on_page.and_then(|s| s.speed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_slave_of_every_bond_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path());
        let bonded = || members_of_bonds(&Links::from_tree(&tree));
        assert!(bonded().is_empty(), "no bonding module, no slaves");
        let net = dir.path().join("sys/class/net");
        for (device, file, text) in [
            ("bond0", "ifindex", "7\n"),
            ("bond0", "uevent", "DEVTYPE=bond\n"),
            ("bond7", "ifindex", "8\n"),
            ("bond7", "uevent", "DEVTYPE=bond\n"),
            ("eth0", "ifindex", "2\n"),
            ("eth1", "ifindex", "3\n"),
            ("eth2", "ifindex", "4\n"),
        ] {
            let path = net.join(device).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for slave in ["eth0", "eth1"] {
            std::os::unix::fs::symlink("../bond0", net.join(slave).join("master")).unwrap();
        }
        assert_eq!(bonded(), BTreeMap::from([(2, "eth0".into()), (3, "eth1".into())]));
    }
}
