//! A bond's state from all that tells of it: netlink's attributes, sysfs for the slaves' order and speed, proc for the rest.
//!
//! Must not know routes. Where sources disagree because something is changing, the caller reads again.

use super::links::{Link, Links, SlaveFacts, slave_of_tree};
use super::tree::Tree;
use crate::bond::{Bond, Mii, Mode, Policy, Slave, SlaveState, proc, sysfs};
use std::collections::BTreeMap;

/// The slaves of every bond of this host (`/sys/class/net/bonding_masters`): names by interface index.
pub fn bonded(tree: &Tree) -> BTreeMap<u32, String> {
    let bonds = tree.read("sys/class/net/bonding_masters").unwrap_or_default();
    let lists: Vec<String> = bonds.split_whitespace().filter_map(|bond| tree.device(bond, "bonding/slaves")).collect();
    let names = lists.iter().flat_map(|list| sysfs::slaves(list));
    names.filter_map(|name| Some((tree.device(name, "ifindex")?.trim().parse().ok()?, name.to_owned()))).collect()
}

/// Reads one bond. `None` when not even its mode can be learnt.
pub(super) fn read(links: &Links, tree: &Tree, link: &Link) -> Option<Bond> {
    let page = tree.read(format!("proc/net/bonding/{}", link.name)).and_then(|text| proc::bond(&link.name, &text));
    let bonding = |attribute: &str| tree.device(&link.name, &format!("bonding/{attribute}"));
    let facts = &link.bond;
    let mode = facts
        .mode
        .or_else(|| bonding("mode").and_then(|s| sysfs::mode(&s)))
        .or_else(|| page.as_ref().map(|p| p.mode))?;
    let policy = facts
        .policy
        .or_else(|| bonding("xmit_hash_policy").and_then(|s| sysfs::policy(&s)))
        .or_else(|| page.as_ref().map(|p| p.policy));
    let (slaves, ordered) = slaves(links, tree, link, page.as_ref(), mode);
    let number = |attribute: &str| bonding(attribute).and_then(|s| sysfs::number(&s));
    Some(Bond {
        name: link.name.clone(),
        ifindex: link.index,
        mode,
        policy: policy.unwrap_or(Policy::Layer2),
        // Kernels before 3.17 have no such option and always balance dynamically.
        dynamic_lb: facts
            .dynamic_lb
            .or_else(|| bonding("tlb_dynamic_lb").and_then(|s| sysfs::flag(&s)))
            .unwrap_or(true),
        aggregator: facts
            .aggregator
            .or_else(|| number("ad_aggregator"))
            .or_else(|| page.as_ref().and_then(|p| p.aggregator)),
        ports: facts.ports.or_else(|| number("ad_num_ports")).or_else(|| page.as_ref().and_then(|p| p.ports)),
        slaves,
        ordered,
    })
}

/// The slaves in the kernel's order (sysfs, else proc), or by interface index where neither tells it.
fn slaves(links: &Links, tree: &Tree, bond: &Link, page: Option<&Bond>, mode: Mode) -> (Vec<Slave>, bool) {
    let listed = tree.device(&bond.name, "bonding/slaves");
    let names: Option<Vec<String>> = listed
        .map(|text| sysfs::slaves(&text).into_iter().map(str::to_owned).collect())
        .or_else(|| page.map(|p| p.slaves.iter().map(|s| s.name.clone()).collect()));
    let ordered = names.is_some();
    let names = names.unwrap_or_else(|| links.members(bond.index).map(|l| l.name.clone()).collect());
    let on_page = |name: &str| page.and_then(|p| p.slaves.iter().find(|s| s.name == name));
    let slaves = names.iter().map(|name| slave(links, tree, name, on_page(name), mode)).collect();
    (slaves, ordered)
}

fn slave(links: &Links, tree: &Tree, name: &str, on_page: Option<&Slave>, mode: Mode) -> Slave {
    let link = links.named(name);
    let told = link.map(|l| l.slave.clone()).unwrap_or_default();
    let complete =
        told.state.is_some() && told.mii.is_some() && (mode != Mode::Ieee8023ad || told.aggregator.is_some());
    let more = if complete { SlaveFacts::default() } else { slave_of_tree(tree, name) };
    Slave {
        name: name.to_owned(),
        ifindex: link.map_or(0, |l| l.index),
        // Unknown state: the aggregator and the link decide.
        state: told.state.or(more.state).unwrap_or(SlaveState::Active),
        mii: told.mii.or(more.mii).or_else(|| on_page.map(|s| s.mii)).unwrap_or(Mii::Down),
        carrier: link.and_then(|l| l.carrier),
        aggregator: told.aggregator.or(more.aggregator).or_else(|| on_page.and_then(|s| s.aggregator)),
        speed: tree.device(name, "speed").and_then(|s| sysfs::speed(&s)).or_else(|| on_page.and_then(|s| s.speed)),
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
        assert!(bonded(&tree).is_empty(), "no bonding module, no slaves");
        let net = dir.path().join("sys/class/net");
        for (device, file, text) in [
            ("bond0", "bonding/slaves", "eth1 eth0\n"),
            ("bond7", "bonding/slaves", "\n"),
            ("eth0", "ifindex", "2\n"),
            ("eth1", "ifindex", "3\n"),
        ] {
            let path = net.join(device).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(net.join("bonding_masters"), "bond0 bond7\n").unwrap();
        assert_eq!(bonded(&tree), BTreeMap::from([(2, "eth0".into()), (3, "eth1".into())]));
    }
}
