//! How much each device has carried: `/proc/net/dev`, which is about this network namespace wherever `/sys` comes from.
//! No privilege needed.
//!
//! Must not know what follows from the numbers.

use super::{Class, Tree};
use std::collections::BTreeMap;

/// What a device has counted since it was made, everybody's traffic, frame headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    /// Both ways.
    pub(super) packets: u64,
    /// Both ways; CRC errors and the like among them (Documentation/networking/statistics.rst).
    pub(super) errors: u64,
}

/// Bytes sent by each of these devices since it was made, everybody's, frame headers included. Many drivers count at
/// once; some read their card every second or two. `None` if one cannot be read.
pub fn transmitted(slaves: &[Class], tree: &Tree) -> Option<Vec<u64>> {
    of_each(slaves, tree, |counted| counted.tx_bytes)
}

/// As [`transmitted`], received.
pub fn received(slaves: &[Class], tree: &Tree) -> Option<Vec<u64>> {
    of_each(slaves, tree, |counted| counted.rx_bytes)
}

fn of_each(slaves: &[Class], tree: &Tree, what: impl Fn(&Counted) -> u64) -> Option<Vec<u64>> {
    let all = if slaves.is_empty() { BTreeMap::new() } else { counted(tree) };
    slaves.iter().map(|slave| all.get(&slave.name).map(&what)).collect()
}

/// Every device of this network namespace by its printable name.
pub(super) fn counted(tree: &Tree) -> BTreeMap<String, Counted> {
    tree.read("proc/net/dev").unwrap_or_default().lines().filter_map(line).collect()
}

/// `  eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs ...`: received, then sent. No
/// name holds a colon.
fn line(line: &str) -> Option<(String, Counted)> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [rx_bytes, rx_packets, rx_errors, _, _, _, _, _, tx_bytes, tx_packets, tx_errors, ..] = numbers[..] else {
        return None;
    };
    let (packets, errors) = (rx_packets.wrapping_add(tx_packets), rx_errors.wrapping_add(tx_errors));
    Some((name.trim_start_matches(' ').to_owned(), Counted { rx_bytes, tx_bytes, packets, errors }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
Inter-|   Receive                                        |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:    1296      16    0    0    0     0          0         0     1297      17    0    0    0     0       0     0
verylongname-15: 5 6 1 0 0 0 0 0 7 8 2 0 0 0 0 0
";

    #[test]
    fn the_page_is_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path());
        let class = |name: &str| Class { name: name.into(), ifindex: 0, speed: None };
        assert_eq!(received(&[class("lo")], &tree), None);
        std::fs::create_dir_all(dir.path().join("proc/net")).unwrap();
        std::fs::write(dir.path().join("proc/net/dev"), PAGE).unwrap();
        assert_eq!(received(&[class("verylongname-15"), class("lo")], &tree), Some(vec![5, 1296]));
        assert_eq!(transmitted(&[class("lo")], &tree), Some(vec![1297]));
        assert_eq!(transmitted(&[class("lo"), class("e9")], &tree), None);
        let long = counted(&tree)["verylongname-15"];
        assert_eq!(long, Counted { rx_bytes: 5, tx_bytes: 7, packets: 14, errors: 3 });
    }
}
