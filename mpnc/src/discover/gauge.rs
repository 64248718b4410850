//! How much each slave has carried: the byte counters of the devices. No privilege needed.
//!
//! Must not know what follows from them.

use super::{Class, Tree};

/// Bytes sent by each of these devices since it was made (`statistics/tx_bytes`), everybody's, frame headers included. Many drivers
/// count at once; some read their card every second or two. `None` if one cannot be read.
pub fn transmitted(slaves: &[Class], tree: &Tree) -> Option<Vec<u64>> {
    counters(slaves, tree, "tx_bytes")
}

/// As [`transmitted`], received (`statistics/rx_bytes`).
pub fn received(slaves: &[Class], tree: &Tree) -> Option<Vec<u64>> {
    counters(slaves, tree, "rx_bytes")
}

fn counters(slaves: &[Class], tree: &Tree, name: &str) -> Option<Vec<u64>> {
    let counter = |slave: &Class| tree.device(&slave.name, &format!("statistics/{name}"))?.trim().parse().ok();
    slaves.iter().map(counter).collect()
}
