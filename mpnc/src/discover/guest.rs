//! Whether a network card is real, or made by somebody else: a hypervisor for its guest, or a card for whoever is given
//! one of its virtual functions. Links that share the load beneath such a card are out of sight.
//!
//! Must not know routes. Where nothing is told a card is real.

use super::tree::{Identity, Tree};

/// Drivers of cards that exist in software or firmware only: of hypervisors and clouds, and of virtual functions that
/// have a driver of their own. (`vif`: Xen's xen-netfront.)
const DRIVERS: [&str; 17] = [
    "cxgb4vf",
    "ena",
    "gve",
    "gvnic",
    "hv_netvsc",
    "i40evf",
    "iavf",
    "ibmveth",
    "ibmvnic",
    "igbvf",
    "ixgbevf",
    "mana",
    "rvu_nicvf",
    "vif",
    "virtio_net",
    "vmxnet3",
    "xen_netfront",
];
/// In the name of the maker or the product: what no real machine has.
const MACHINES: [&str; 5] = ["KVM", "QEMU", "VMware", "VirtualBox", "Virtual Machine"];
/// `XENFEAT_dom0` (include/xen/interface/features.h): the domain that has the real cards.
const XEN_DOM0: u32 = 1 << 11;

/// Whether the card is such a one.
pub(super) fn is_made(tree: &Tree, card: Identity<'_>) -> bool {
    if tree.device(card, "ifindex").is_none() {
        return false;
    }
    let link = |link: &str| tree.link_name(card.name, link);
    match link("device/driver") {
        // Devices without a driver are no cards: bridges, dummies, tunnels.
        None => false,
        Some(driver) => DRIVERS.contains(&driver.as_str()) || link("device/physfn").is_some() || is_guest(tree),
    }
}

/// Whether this machine is a guest: one that may have been given a virtual function with its real card's driver.
fn is_guest(tree: &Tree) -> bool {
    let features = tree.read("sys/hypervisor/properties/features");
    let features = features.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    if features.is_some_and(|features| features & XEN_DOM0 != 0) {
        return false;
    }
    let flagged = |line: &str| line.starts_with("flags") && line.split_ascii_whitespace().any(|f| f == "hypervisor");
    let named = |file: &str| {
        let text = tree.read(format!("sys/class/dmi/id/{file}")).unwrap_or_default();
        MACHINES.iter().any(|name| text.contains(name))
    };
    tree.read("proc/cpuinfo").is_some_and(|text| text.lines().any(flagged))
        || tree.read("sys/hypervisor/type").is_some()
        || tree.read("proc/device-tree/hypervisor/compatible").is_some()
        || named("sys_vendor")
        || named("product_name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A machine with these files and one card, e0, that has this driver.
    fn machine(driver: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path().join("sys/class/net/e0");
        fs::create_dir_all(card.join("device")).unwrap();
        fs::write(card.join("ifindex"), "2\n").unwrap();
        if !driver.is_empty() {
            symlink(format!("../../../bus/pci/drivers/{driver}"), card.join("device/driver")).unwrap();
        }
        for (file, text) in files {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        dir
    }

    fn made(dir: &tempfile::TempDir) -> bool {
        is_made(&Tree::at(dir.path()), Identity { name: "e0", index: 2, address: &[] })
    }

    const CPU: &str = "processor\t: 0\nflags\t\t: fpu sse2 aes";
    const GUEST: (&str, &str) = ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 hypervisor aes\n");

    #[test]
    fn cards_that_only_guests_have_are_known_by_their_driver() {
        for driver in ["virtio_net", "vmxnet3", "hv_netvsc", "vif", "ena", "iavf"] {
            assert!(made(&machine(driver, &[("proc/cpuinfo", CPU)])), "{driver}");
        }
        let other = Identity { name: "e0", index: 3, address: &[] };
        assert!(!is_made(&Tree::at(machine("ena", &[]).path()), other), "another namespace's");
    }

    #[test]
    fn a_real_machines_card_is_real_and_a_virtual_function_of_it_is_not() {
        let bare = [("proc/cpuinfo", CPU), ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n")];
        assert!(!made(&machine("mlx5_core", &bare)));
        assert!(!made(&machine("", &bare)));
        let with_vf = machine("mlx5_core", &bare);
        symlink("../0000:3b:00.0", with_vf.path().join("sys/class/net/e0/device/physfn")).unwrap();
        assert!(made(&with_vf));
    }

    #[test]
    fn in_a_guest_any_card_may_be_a_virtual_function() {
        assert!(made(&machine("mlx5_core", &[GUEST])));
        assert!(!made(&machine("", &[GUEST])), "a dummy is none");
        assert!(made(&machine("mlx5_core", &[("sys/class/dmi/id/product_name", "KVM Virtual Machine\n")])));
        assert!(made(&machine("e1000", &[("sys/hypervisor/type", "xen\n")])));
        let dom0 = [GUEST, ("sys/hypervisor/type", "xen\n"), ("sys/hypervisor/properties/features", "00002705\n")];
        assert!(made(&machine("ixgbe", &dom0)));
        let dom0 = [GUEST, ("sys/hypervisor/type", "xen\n"), ("sys/hypervisor/properties/features", "00002f05\n")];
        assert!(!made(&machine("ixgbe", &dom0)), "Xen's dom0 has the real cards");
    }
}
