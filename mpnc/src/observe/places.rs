//! From the observer's counts, which only grow, to the slave that each stream comes in on now.
//!
//! Pure. Must not know where counts come from.

use super::FlowCount;
use std::collections::HashMap;
use std::net::IpAddr;

/// A stream, as packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    /// This host's port.
    pub(super) local_port: u16,
    pub(super) peer: IpAddr,
    pub(super) peer_port: u16,
}

/// The slave (by interface index) that each stream came in on most since the reading before the last.
#[derive(Debug, Default)]
pub(super) struct Places {
    bytes: HashMap<(Tuple, u32), u64>,
    now: HashMap<Tuple, u32>,
}

impl Places {
    /// Takes in a reading. A stream that carried nothing since the last one stays where it was.
    pub(super) fn update<'a>(&mut self, counts: impl Iterator<Item = &'a FlowCount>) {
        let before = std::mem::take(&mut self.bytes);
        let mut most: HashMap<Tuple, (u64, u32)> = HashMap::new();
        for count in counts {
            let flow = Tuple { local_port: count.local_port, peer: count.peer.ip(), peer_port: count.peer.port() };
            let key = (flow, count.ifindex);
            self.bytes.insert(key, count.bytes);
            let moved = count.bytes.saturating_sub(before.get(&key).copied().unwrap_or(0));
            let most = most.entry(flow).or_default();
            *most = (*most).max((moved, count.ifindex));
        }
        // Those that the observer has forgotten are long over.
        self.now.retain(|flow, _| most.contains_key(flow));
        let carried = most.into_iter().filter(|(_, (moved, _))| *moved > 0);
        self.now.extend(carried.map(|(flow, (_, ifindex))| (flow, ifindex)));
    }

    pub(super) fn of(&self, flow: Tuple) -> Option<u32> {
        self.now.get(&flow).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Direction;
    use super::*;

    fn count(peer_port: u16, ifindex: u32, bytes: u64) -> FlowCount {
        let peer = ([192, 0, 2, 1], peer_port).into();
        FlowCount { local_port: 31_337, peer, ifindex, direction: Direction::Ingress, bytes, packets: 1 }
    }

    fn place(places: &Places, peer_port: u16) -> Option<u32> {
        places.of(Tuple { local_port: 31_337, peer: [192, 0, 2, 1].into(), peer_port })
    }

    #[test]
    fn a_stream_is_where_its_last_bytes_were() {
        let mut places = Places::default();
        assert_eq!(place(&places, 1000), None);
        places.update([count(1000, 3, 5_000_000), count(1002, 4, 7)].iter());
        assert_eq!((place(&places, 1000), place(&places, 1002)), (Some(3), Some(4)));
        // It has moved, though the old slave has carried more in all.
        places.update([count(1000, 3, 5_000_000), count(1000, 4, 20_000), count(1002, 4, 7)].iter());
        assert_eq!((place(&places, 1000), place(&places, 1002)), (Some(4), Some(4)));
        assert_eq!(place(&places, 1004), None);
        places.update([count(1002, 4, 7)].iter());
        assert_eq!((place(&places, 1000), place(&places, 1002)), (None, Some(4)));
    }
}
