//! Which slave carries which stream, worked out from counters: what each stream received and what each slave did, in
//! one span.
//!
//! The assignment of streams to slaves that explains the slaves' counters is sought exactly. A stream is told only
//! where every assignment that explains them about as well agrees on it, and only when two looks in a row agree:
//! streams of equal volume on slaves of equal volume could be exchanged for each other, and then nothing is said. Must
//! not know where counters come from.

/// A stream that has carried less than this, in bytes, is left out: what else a slave carries would drown it.
const LEAST: u64 = 64 << 10;
/// Less than this in all, in bytes, is no ground to judge by.
const LEAST_IN_ALL: u64 = 1 << 20;
/// Bytes of frames for each byte of payload: from none for headers (a NIC that does not count them, counters a little
/// late) to small packets. Beyond that, somebody else's traffic weighs too much.
const OVERHEAD: std::ops::RangeInclusive<f64> = 0.95..=1.2;
/// An explanation may leave this part of all bytes on wrong slaves: LACP, repeats, other traffic, clocks.
const RESIDUAL: f64 = 0.02;
/// Another explanation counts as different only if it is worse by this part of all bytes, and by this many times the
/// best one's residual.
const MARGIN: (f64, f64) = (0.01, 3.0);
/// Steps of the search after which the matter counts as unclear.
const STEPS: u32 = 100_000;
/// Looks after which the span begins anew, so that a stream that has moved is seen.
const SPAN: u32 = 8;

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Number of each stream, and payload bytes received on it.
    pub streams: Vec<(u32, u64)>,
    /// Name of each slave (its interface index), and bytes received by it, headers included.
    pub slaves: Vec<(u32, u64)>,
}

/// What has been seen since the set of streams and slaves was last another.
#[derive(Debug, Default)]
pub struct Attribution {
    first: Option<Look>,
    looks: u32,
    /// Place of each stream's slave by the last look, where it was clear.
    last: Vec<Option<usize>>,
}

impl Attribution {
    /// Takes in a look, and answers the streams whose slave is clear now, each with the slave's place in the look.
    pub fn look(&mut self, now: &Look) -> Vec<(u32, usize)> {
        let Some(first) = self.first.as_ref().filter(|first| self.looks < SPAN && first.is_alike(now)) else {
            *self = Self { first: Some(now.clone()), looks: 0, last: Vec::new() };
            return Vec::new();
        };
        self.looks += 1;
        let moved = |now: &[(u32, u64)], then: &[(u32, u64)]| -> Vec<u64> {
            now.iter().zip(then).map(|((_, now), (_, then))| now.saturating_sub(*then)).collect()
        };
        let clear = attribute(&moved(&now.streams, &first.streams), &moved(&now.slaves, &first.slaves));
        let last = std::mem::replace(&mut self.last, clear);
        let agreed = self.last.iter().zip(&last).zip(&now.streams);
        agreed.filter_map(|((now, last), (id, _))| now.filter(|_| now == last).map(|slave| (*id, slave))).collect()
    }
}

impl Look {
    /// Whether both are about the same streams and slaves.
    fn is_alike(&self, other: &Self) -> bool {
        let names = |counters: &[(u32, u64)]| counters.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        names(&self.streams) == names(&other.streams) && names(&self.slaves) == names(&other.slaves)
    }
}

/// The place of the slave that carried each stream, where that is clear; given bytes of payload and of frames in the
/// same span.
pub fn attribute(streams: &[u64], slaves: &[u64]) -> Vec<Option<usize>> {
    let unclear = vec![None; streams.len()];
    let (payload, frames): (u64, u64) = (streams.iter().sum(), slaves.iter().sum());
    if payload < LEAST_IN_ALL || slaves.len() < 2 || !OVERHEAD.contains(&ratio(frames, payload)) {
        return unclear;
    }
    // Headers are charged to the streams, in proportion: then both sides have the same sum, and what is too much on one
    // slave is missing on another.
    let charged =
        |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(frames) / u128::from(payload)).unwrap_or(u64::MAX);
    let mut order: Vec<(usize, u64)> =
        streams.iter().map(|bytes| charged(*bytes)).enumerate().filter(|(_, bytes)| *bytes >= LEAST).collect();
    order.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut search = Search::new(&order, slaves, frames);
    search.descend(0, 0);
    search.verdict(unclear)
}

/// Goes through the assignments, largest stream first, and leaves every branch that is worse than the best one by more
/// than the margin.
struct Search<'a> {
    order: &'a [(usize, u64)],
    slaves: &'a [u64],
    all: u64,
    carried: Vec<u64>,
    chosen: Vec<usize>,
    best: u64,
    /// For each stream of `order` and each slave: the least residual of an assignment that has the one on the other.
    least: Vec<Vec<u64>>,
    steps: u32,
}

impl<'a> Search<'a> {
    fn new(order: &'a [(usize, u64)], slaves: &'a [u64], all: u64) -> Self {
        let least = vec![vec![u64::MAX; slaves.len()]; order.len()];
        Self { order, slaves, all, carried: vec![0; slaves.len()], chosen: Vec::new(), best: u64::MAX, least, steps: 0 }
    }

    /// The worst residual that still counts as about as good as the best.
    fn limit(&self) -> u64 {
        let margin = part(self.all, MARGIN.0).max(part(self.best, MARGIN.1));
        self.best.saturating_add(margin).min(part(self.all, RESIDUAL + MARGIN.0))
    }

    /// `excess`: bytes too much on some slave so far; it only grows.
    fn descend(&mut self, depth: usize, excess: u64) {
        self.steps += 1;
        if excess > self.limit() || self.steps > STEPS {
            return;
        }
        let Some((_, bytes)) = self.order.get(depth) else {
            self.best = self.best.min(excess);
            for (least, slave) in self.least.iter_mut().zip(&self.chosen) {
                least[*slave] = least[*slave].min(excess);
            }
            return;
        };
        // The slave with most left first: it leads to a good explanation soon.
        let mut slaves: Vec<usize> = (0..self.slaves.len()).collect();
        slaves.sort_by_key(|slave| std::cmp::Reverse(self.slaves[*slave].saturating_sub(self.carried[*slave])));
        for slave in slaves {
            let room = self.slaves[slave].saturating_sub(self.carried[slave]);
            self.carried[slave] += bytes;
            self.chosen.push(slave);
            self.descend(depth + 1, excess + bytes.saturating_sub(room));
            self.chosen.pop();
            self.carried[slave] -= bytes;
        }
    }

    fn verdict(&self, mut unclear: Vec<Option<usize>>) -> Vec<Option<usize>> {
        if self.steps > STEPS || self.best > part(self.all, RESIDUAL) {
            return unclear;
        }
        for ((stream, _), least) in self.order.iter().zip(&self.least) {
            let mut possible = (0..least.len()).filter(|slave| least[*slave] <= self.limit());
            unclear[*stream] = possible.next().filter(|_| possible.next().is_none());
        }
        unclear
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than a few digits")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a tolerance needs no more than a few digits; the cast saturates"
)]
fn part(whole: u64, part: f64) -> u64 {
    (whole as f64 * part) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn one_slave_has_everything() {
        assert_eq!(attribute(&[5 * MIB, 6 * MIB, 7 * MIB], &[100, 19 * MIB, 2000]), [Some(1); 3]);
        let many = [3 * MIB; 24];
        assert_eq!(attribute(&many, &[0, 0, 75 * MIB, 0, 0, 0, 0, 0]), [Some(2); 24]);
    }

    #[test]
    fn streams_of_unlike_volume_are_told_apart() {
        let slaves = [9 * MIB + 5000, 3 * MIB, 14 * MIB - 9000];
        assert_eq!(attribute(&[8 * MIB, 3 * MIB, 6 * MIB, 9 * MIB], &slaves), [Some(2), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn what_could_be_exchanged_is_not_told() {
        assert_eq!(attribute(&[5 * MIB, 5 * MIB], &[5 * MIB, 5 * MIB]), [None; 2]);
        // Two halves on one slave and a whole on the other, or the other way round.
        assert_eq!(attribute(&[5 * MIB, 5 * MIB, 10 * MIB], &[10 * MIB, 10 * MIB]), [None; 3]);
        // The third is clear all the same.
        assert_eq!(attribute(&[5 * MIB, 5 * MIB, 2 * MIB], &[5 * MIB, 5 * MIB, 2 * MIB]), [None, None, Some(2)]);
    }

    #[test]
    fn little_or_other_traffic_is_no_ground() {
        assert_eq!(attribute(&[1000, 2000], &[3100, 0]), [None; 2]);
        assert_eq!(attribute(&[5 * MIB, 5 * MIB], &[20 * MIB, 0]), [None; 2]);
        assert_eq!(attribute(&[], &[5 * MIB, 0]), []);
        assert_eq!(attribute(&[5 * MIB], &[5 * MIB]), [None], "one slave is no bond to look into");
        // As much as the streams carried, but not where any of them could have been.
        assert_eq!(attribute(&[8 * MIB, 4 * MIB], &[6 * MIB, 6 * MIB]), [None; 2]);
        let idle = attribute(&[5 * MIB, 0], &[5 * MIB, 0]);
        assert_eq!(idle, [Some(0), None], "a stream that carries nothing is left out");
    }

    fn look(streams: [u64; 2], slaves: [u64; 2]) -> Look {
        Look { streams: vec![(7, streams[0]), (9, streams[1])], slaves: vec![(3, slaves[0]), (4, slaves[1])] }
    }

    #[test]
    fn two_looks_must_agree() {
        let mut attribution = Attribution::default();
        assert!(attribution.look(&look([100, 100], [1 << 40, 1 << 30])).is_empty());
        let (a, b) = (1 << 40, 1 << 30);
        assert!(attribution.look(&look([5 * MIB, 2 * MIB], [a + 7 * MIB, b])).is_empty());
        assert_eq!(attribution.look(&look([9 * MIB, 4 * MIB], [a + 13 * MIB, b])), [(7, 0), (9, 0)]);
        // It does not hold any more, and then only the next agreement counts.
        assert!(attribution.look(&look([20 * MIB, 5 * MIB], [a + 13 * MIB, b + 12 * MIB])).is_empty());
    }

    #[test]
    fn another_set_of_streams_begins_anew() {
        let mut attribution = Attribution::default();
        let grow = |n: u64| look([5 * n * MIB, 2 * n * MIB], [7 * n * MIB, 0]);
        (0..3).for_each(|n| drop(attribution.look(&grow(n))));
        let mut more = grow(3);
        more.streams.push((11, 0));
        assert!(attribution.look(&more).is_empty());
        assert!(attribution.look(&grow(4)).is_empty());
        assert!(attribution.look(&grow(5)).is_empty());
        assert_eq!(attribution.look(&grow(6)).len(), 2);
    }

    proptest! {
        /// Whatever is told is true, with noise as it occurs: headers, a few frames of others on each slave.
        #[test]
        fn nothing_wrong_is_told(
            streams in proptest::collection::vec((0u64..30 * MIB, 0usize..8), 1..10),
            count in 2usize..8,
            noise in proptest::collection::vec(0u64..20_000, 8),
        ) {
            let mut slaves: Vec<u64> = noise[..count].to_vec();
            for (bytes, slave) in &streams {
                slaves[slave % count] += bytes + bytes / 22;
            }
            let bytes: Vec<u64> = streams.iter().map(|(bytes, _)| *bytes).collect();
            // Then the margin is more than all of the noise.
            prop_assume!(bytes.iter().sum::<u64>() >= 16 * MIB);
            for (told, (_, slave)) in attribute(&bytes, &slaves).into_iter().zip(&streams) {
                prop_assert!(told.is_none_or(|told| told == slave % count));
            }
        }

        /// Volumes that differ clearly (powers of two) are always told.
        #[test]
        fn clear_volumes_are_told(places in proptest::collection::vec(0usize..4, 5)) {
            let streams: Vec<u64> = (0..5).map(|i| (4 * MIB) << i).collect();
            let mut slaves = [0; 4];
            for (bytes, place) in streams.iter().zip(&places) {
                slaves[*place] += bytes + bytes / 22;
            }
            let told: Vec<usize> = attribute(&streams, &slaves).into_iter().flatten().collect();
            prop_assert_eq!(told, places);
        }
    }
}
