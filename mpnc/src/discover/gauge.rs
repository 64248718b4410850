//! How much each slave has sent: the transmit counters of the devices. No privilege needed.
//!
//! Must not know what follows from them.

use super::{Class, Tree};

/// Bytes sent by each of these devices since it was made (`statistics/tx_bytes`), everybody's, frame headers included. Many drivers
/// count at once; some read their card every second or two. `None` if one cannot be read.
pub fn transmitted(slaves: &[Class], tree: &Tree) -> Option<Vec<u64>> {
    let counter = |slave: &Class| tree.device(&slave.name, "statistics/tx_bytes")?.trim().parse().ok();
    slaves.iter().map(counter).collect()
}
