//! Reading `/sys` and `/proc` under a root that tests can move, and the sysctls that the plan needs.
//!
//! `/proc/net` is this process's network namespace, as netlink is. `/sys/class/net` is that of whoever mounted `/sys`:
//! after `nsenter --net` it shows the devices of another one. So a device's files there are read only where they are
//! seen to be that device's.
//!
//! Must not know what the values mean beyond their text; `None` stands for unreadable, absent and malformed alike,
//! since containers hide any of these files.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::names::{is_escaped, printable};
use crate::bond::{PortPool, pool};

/// `ip_unprivileged_port_start` where it cannot be read (kernels before 4.11 have none).
const UNPRIVILEGED: u16 = 1024;
/// `ip_local_port_range` where it cannot be read: the kernel's default.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// A directory with `sys` and `proc` in it.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// A device, as whoever knows it knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    pub(super) name: &'a str,
    /// Interface index. Not enough by itself: every namespace counts from 1.
    pub(super) index: u32,
    /// Hardware address; empty where it is not known.
    pub(super) address: &'a [u8],
}

impl Default for Tree {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Tree {
    /// The tree under `root`; `/` is this host's.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file's text; what is no text in it is made printable.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        std::fs::read(self.root.join(path)).ok().map(|bytes| printable(&bytes))
    }

    /// An attribute of a network device, `attribute` relative to its directory; `None` as well where `/sys` shows
    /// another device of that name.
    pub(super) fn device(&self, device: Identity<'_>, attribute: &str) -> Option<String> {
        self.is_seen(device).then(|| self.attribute(device.name, attribute))?
    }

    fn is_seen(&self, device: Identity<'_>) -> bool {
        let is = |attribute: &str, wanted: &str| {
            self.attribute(device.name, attribute).is_some_and(|text| text.trim() == wanted)
        };
        let address: Vec<String> = device.address.iter().map(|byte| format!("{byte:02x}")).collect();
        is("ifindex", &device.index.to_string()) && (address.is_empty() || is("address", &address.join(":")))
    }

    /// An attribute of whichever device `/sys` shows by that name.
    pub(super) fn attribute(&self, name: &str, attribute: &str) -> Option<String> {
        self.read(self.entry("sys/class/net", name).join(attribute))
    }

    /// A bond's page, `/proc/net/bonding/<bond>`.
    pub(super) fn bond_page(&self, name: &str) -> Option<String> {
        self.read(self.entry("proc/net/bonding", name))
    }

    /// The file or directory of a device, found by its printable name.
    fn entry(&self, directory: &str, name: &str) -> PathBuf {
        let directory = Path::new(directory);
        let is_it = |entry: &std::fs::DirEntry| printable(entry.file_name().as_bytes()) == name;
        let escaped = is_escaped(name)
            .then(|| std::fs::read_dir(self.root.join(directory)).ok()?.flatten().find(is_it))
            .flatten();
        directory.join(escaped.map_or_else(|| name.into(), |entry| entry.file_name()))
    }

    /// Names in a directory, sorted.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| printable(e.file_name().as_bytes())).collect();
        names.sort();
        names
    }

    /// Names in the directory of whichever device `/sys` shows by that name.
    pub(super) fn list_device(&self, name: &str) -> Vec<String> {
        self.list(self.entry("sys/class/net", name))
    }

    /// Where a symbolic link of a device points, by its last component.
    pub(super) fn link_name(&self, name: &str, link: &str) -> Option<String> {
        let target = std::fs::read_link(self.root.join(self.entry("sys/class/net", name)).join(link)).ok()?;
        Some(printable(target.file_name()?.as_bytes()))
    }

    /// A sysctl by its path (`net/ipv4/ip_local_port_range`).
    pub fn sysctl(&self, name: &str) -> Option<String> {
        self.read(Path::new("proc/sys").join(name))
    }

    /// The kernel's release, as `uname -r` prints it.
    pub fn kernel_release(&self) -> String {
        self.sysctl("kernel/osrelease").map(|s| s.trim().to_owned()).unwrap_or_default()
    }

    /// The source ports that the system's settings leave to us.
    pub fn port_pool(&self) -> PortPool {
        let number = |name| self.sysctl(name).and_then(|s| s.trim().parse().ok());
        PortPool::of_system(
            number("net/ipv4/ip_unprivileged_port_start").unwrap_or(UNPRIVILEGED),
            self.ephemeral(),
            &self.reserved(),
        )
    }

    /// The source ports that the kernel itself chooses from, which filters let answers in to.
    pub fn kernel_ports(&self) -> PortPool {
        PortPool::of_kernel(self.ephemeral(), &self.reserved())
    }

    fn ephemeral(&self) -> (u16, u16) {
        self.sysctl("net/ipv4/ip_local_port_range").and_then(|s| pool::parse_ephemeral(&s)).unwrap_or(EPHEMERAL)
    }

    fn reserved(&self) -> Vec<(u16, u16)> {
        pool::parse_reserved(&self.sysctl("net/ipv4/ip_local_reserved_ports").unwrap_or_default())
    }

    /// The MTU of IPv6 on a device, which a router may have lowered: bytes of an IP packet.
    pub(super) fn v6_mtu(&self, device: &str) -> Option<u32> {
        self.sysctl(&format!("net/ipv6/conf/{device}/mtu"))?.trim().parse().ok()
    }

    /// `fib_multipath_hash_policy`: 0 addresses, 1 addresses and ports, 2 inner addresses, 3 chosen fields.
    pub fn multipath_policy(&self, v6: bool) -> Option<u8> {
        let family = if v6 { "ipv6" } else { "ipv4" };
        self.sysctl(&format!("net/{family}/fib_multipath_hash_policy"))?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_the_tree_and_defaults_from_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path());
        assert_eq!(tree.port_pool().to_string(), "1024-32767");
        assert_eq!(tree.kernel_ports().to_string(), "32768-60999");
        assert_eq!(tree.multipath_policy(false), None);
        let ipv4 = dir.path().join("proc/sys/net/ipv4");
        std::fs::create_dir_all(&ipv4).unwrap();
        std::fs::write(ipv4.join("ip_local_port_range"), "20000\t60999\n").unwrap();
        std::fs::write(ipv4.join("ip_local_reserved_ports"), "8080\n").unwrap();
        std::fs::write(ipv4.join("fib_multipath_hash_policy"), "1\n").unwrap();
        assert_eq!(tree.port_pool().to_string(), "1024-8079,8081-19999");
        assert_eq!(tree.multipath_policy(false), Some(1));
    }
}
