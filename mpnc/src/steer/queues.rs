//! Which worker serves which receive queue. Pure.
//!
//! A stream's slave shows in its receive queue, and a worker that has its slaves for itself has as much to do as they
//! carry, however the switch has spread the streams. That holds where every slave is one worker's: with fewer slaves
//! than workers, which of a slave's queues a stream comes in on is the card's draw, and the lane code spreads exactly
//! what a draw would not.

/// Receive queues of one slave, by the kernel's number (NAPI); none where they are not known.
pub type Queues = Vec<u32>;

/// The worker of each queue of the bonds' slaves. Of a bond with fewer slaves than there are workers, or with a slave
/// whose queues are not known, no queue is anybody's: its streams go by their lane.
pub fn workers(bonds: &[Vec<Queues>], workers: u32) -> Vec<(u32, u32)> {
    let served = |slaves: &&Vec<Queues>| {
        workers > 1 && slaves.len() >= workers as usize && slaves.iter().all(|queues| !queues.is_empty())
    };
    let of_bond = |slaves: &Vec<Queues>| {
        let slaves = slaves.clone().into_iter().zip((0..workers).cycle());
        slaves.flat_map(|(queues, worker)| queues.into_iter().map(move |queue| (queue, worker)))
    };
    bonds.iter().filter(served).flat_map(of_bond).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    #[test]
    fn slaves_are_dealt_to_the_workers_with_all_their_queues() {
        let bond = vec![vec![11, 12], vec![21], vec![31], vec![41, 42]];
        assert_eq!(workers(slice::from_ref(&bond), 2), [(11, 0), (12, 0), (21, 1), (31, 0), (41, 1), (42, 1)]);
        assert_eq!(workers(&[bond], 3), [(11, 0), (12, 0), (21, 1), (31, 2), (41, 0), (42, 0)]);
    }

    #[test]
    fn where_slaves_are_few_or_not_known_the_lane_decides() {
        let (known, unknown) = (vec![vec![1], vec![2]], vec![vec![3], vec![]]);
        assert_eq!(workers(&[known.clone(), unknown], 2), [(1, 0), (2, 1)]);
        assert_eq!(workers(slice::from_ref(&known), 3), []);
        assert_eq!(workers(&[known], 1), []);
        assert_eq!(workers(&[], 2), []);
    }
}
