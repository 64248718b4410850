//! Where the slave of a stream cannot be computed it is seen: candidates are opened, each shows its slave, an even set
//! is kept; even at the receiver's slaves too, where it tells them.
//!
//! Decides only. Must not know how a slave is seen, nor more of a stream than its number.

use std::collections::BTreeMap;

use crate::bond::is_even;
use crate::bond::quota::{Rows, Table, by_weight, spread};

/// Candidates for each slave at most: if streams fall on N slaves by chance, 8 N of them miss a given one with (1 -
/// 1/N)^(8N), once in 2900 times. The same holds for a receiver's slaves and a switch that hashes on ports.
pub(super) const TRIES_PER_SLAVE: u16 = 8;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// See on which slave this stream leaves.
    Look(u32),
    /// Open so many more.
    Open(u16),
    /// These streams are even over the slaves, and over the receiver's as far as was found. The others are not needed.
    Keep(Vec<u32>),
    /// Enough was tried. These streams are the best there is, and no stream reaches these slaves (by index).
    Short {
        /// The streams to keep.
        keep: Vec<u32>,
        /// Slaves without a stream.
        missed: Vec<u16>,
    },
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub(super) struct Survey {
    /// Streams wanted in all.
    streams: u16,
    /// Relative capacities of the slaves, by index.
    weights: Vec<u32>,
    /// Where each stream was seen; `None` where that could not be told.
    seen: BTreeMap<u32, Option<u16>>,
    /// On which of the receiver's slaves each stream arrives, and how many those are.
    arrives: BTreeMap<u32, u16>,
    arrival_slaves: u16,
    /// Candidates that may still be opened.
    tries: u16,
}

impl Survey {
    /// For `streams` streams over slaves of these relative capacities.
    pub(super) fn new(streams: u16, weights: &[u32]) -> Self {
        let slaves = u16::try_from(weights.len()).unwrap_or(u16::MAX);
        Self {
            streams,
            weights: weights.to_vec(),
            seen: BTreeMap::new(),
            arrives: BTreeMap::new(),
            arrival_slaves: 0,
            tries: slaves.saturating_mul(TRIES_PER_SLAVE),
        }
    }

    /// So many streams are wanted in all.
    pub(super) fn aim(&mut self, streams: u16) {
        self.streams = streams;
    }

    /// A stream was looked at: the slave it leaves by, or that this cannot be told.
    pub(super) fn saw(&mut self, stream: u32, slave: Option<u16>) {
        self.seen.insert(stream, slave.filter(|slave| usize::from(*slave) < self.weights.len()));
    }

    /// The receiver sees the stream on this one of its `slaves`.
    pub(super) fn arrives(&mut self, stream: u32, slave: u16, slaves: u16) {
        if slave < slaves {
            self.arrival_slaves = slaves;
            self.arrives.insert(stream, slave);
        }
    }

    /// Only these streams are still up.
    pub(super) fn retain(&mut self, up: &[u32]) {
        self.seen.retain(|stream, _| up.contains(stream));
        self.arrives.retain(|stream, _| up.contains(stream));
    }

    /// So many candidates were opened.
    pub(super) fn opened(&mut self, streams: u16) {
        self.tries = self.tries.saturating_sub(streams);
    }

    /// The slave on which a stream was seen.
    pub(super) fn slave_of(&self, stream: u32) -> Option<u16> {
        self.seen.get(&stream).copied().flatten()
    }

    /// What to do next, with these streams up.
    pub(super) fn next(&self, up: &[u32]) -> Step {
        let columns = self.columns(up);
        let table = self.table(up, columns);
        let none = vec![vec![0; usize::from(columns)]; self.weights.len()];
        let picked = spread(&Rows::new(self.streams, &self.weights), &table, &none);
        if let Some(picked) = &picked
            && (is_even(&sums(picked)) || self.tries == 0)
        {
            return Step::Keep(self.take(up, columns, picked.clone()));
        }
        if let Some(stream) = up.iter().find(|stream| !self.seen.contains_key(stream)) {
            return Step::Look(*stream);
        }
        if self.tries > 0 {
            // Most draws fall where there is no need of them.
            let missing = if picked.is_some() { 1 } else { self.missing(&table) };
            return Step::Open(missing.saturating_mul(2).min(self.tries));
        }
        let reached = |slave: u16| up.iter().any(|stream| self.slave_of(*stream) == Some(slave));
        let missed = (0..self.slaves()).filter(|slave| !reached(*slave)).collect();
        let keep = self.take(up, 1, self.most().into_iter().map(|most| vec![most]).collect());
        // Where nothing could be told, chance is better than nothing.
        Step::Short { keep: if keep.is_empty() { up.to_vec() } else { keep }, missed }
    }

    fn slaves(&self) -> u16 {
        u16::try_from(self.weights.len()).unwrap_or(u16::MAX)
    }

    /// The receiver's slaves if every stream that was seen here was seen there too; otherwise they are left out of
    /// account.
    fn columns(&self, up: &[u32]) -> u16 {
        let told = |stream: &u32| self.slave_of(*stream).is_none() || self.arrives_on(*stream).is_some();
        if self.arrival_slaves > 1 && up.iter().all(told) { self.arrival_slaves } else { 1 }
    }

    fn arrives_on(&self, stream: u32) -> Option<u16> {
        self.arrives.get(&stream).copied().filter(|slave| *slave < self.arrival_slaves)
    }

    /// The cell of a stream: its slave here, and there if that counts.
    fn cell(&self, stream: u32, columns: u16) -> Option<(usize, usize)> {
        let column = if columns > 1 { self.arrives_on(stream)? } else { 0 };
        Some((usize::from(self.slave_of(stream)?), usize::from(column)))
    }

    /// Streams in each cell.
    fn table(&self, up: &[u32], columns: u16) -> Table {
        let mut table = vec![vec![0; usize::from(columns)]; self.weights.len()];
        for (row, column) in up.iter().filter_map(|stream| self.cell(*stream, columns)) {
            table[row][column] += 1;
        }
        table
    }

    /// Most streams that each slave is to carry. With fewer streams than slaves any will do, as long as they are
    /// different ones.
    fn most(&self) -> Vec<u16> {
        by_weight(self.streams.max(self.slaves()), &self.weights)
    }

    fn missing(&self, table: &Table) -> u16 {
        let useful = self.most().iter().zip(table).map(|(most, row)| row.iter().sum::<u16>().min(*most)).sum();
        self.streams.saturating_sub(useful).max(1)
    }

    /// Out of each cell as many streams as `picks` says, oldest first.
    fn take(&self, up: &[u32], columns: u16, mut picks: Table) -> Vec<u32> {
        let mut taken = Vec::new();
        for stream in up {
            let Some((row, column)) = self.cell(*stream, columns) else { continue };
            if picks[row][column] > 0 && taken.len() < usize::from(self.streams) {
                picks[row][column] -= 1;
                taken.push(*stream);
            }
        }
        taken
    }
}

/// Streams in each column.
fn sums(table: &Table) -> Vec<u16> {
    let columns = table.first().map_or(0, Vec::len);
    (0..columns).map(|column| table.iter().map(|row| row[column]).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn survey(streams: u16, slaves: usize) -> Survey {
        Survey::new(streams, &vec![1; slaves])
    }

    #[test]
    fn streams_are_looked_at_until_the_set_is_even_and_the_rest_is_let_go() {
        let mut survey = survey(2, 2);
        let up = [3, 5, 8, 9];
        for (stream, slave) in [(3, 1), (5, 1), (8, 0)] {
            assert_eq!(survey.next(&up), Step::Look(stream));
            survey.saw(stream, Some(slave));
        }
        assert_eq!(survey.next(&up), Step::Keep(vec![3, 8]));
    }

    #[test]
    fn more_are_opened_while_a_slave_lacks_its_stream_but_not_for_ever() {
        let mut survey = survey(2, 2);
        survey.saw(1, Some(0));
        survey.saw(2, Some(0));
        let mut opened = 0;
        while let Step::Open(more) = survey.next(&[1, 2]) {
            survey.opened(more);
            opened += more;
        }
        assert_eq!(opened, 2 * TRIES_PER_SLAVE);
        assert_eq!(survey.next(&[1, 2]), Step::Short { keep: vec![1], missed: vec![1] });
    }

    #[test]
    fn what_cannot_be_told_is_not_counted_and_alone_is_kept() {
        let mut survey = survey(1, 2);
        survey.saw(1, None);
        survey.saw(2, Some(7));
        survey.opened(u16::MAX);
        assert_eq!(survey.next(&[1, 2]), Step::Short { keep: vec![1, 2], missed: vec![0, 1] });
        survey.saw(4, Some(1));
        assert_eq!(survey.next(&[1, 2, 4]), Step::Keep(vec![4]));
    }

    #[test]
    fn fewer_streams_than_slaves_need_only_be_apart() {
        let mut survey = survey(2, 4);
        survey.saw(1, Some(3));
        survey.saw(2, Some(3));
        assert!(matches!(survey.next(&[1, 2]), Step::Open(_)));
        survey.saw(3, Some(2));
        assert_eq!(survey.next(&[1, 2, 3]), Step::Keep(vec![1, 3]));
    }

    #[test]
    fn where_the_receiver_tells_its_slaves_the_set_is_even_there_too() {
        let mut survey = survey(2, 2);
        for (stream, slave) in [(1, 0), (2, 1)] {
            survey.saw(stream, Some(slave));
        }
        survey.arrives(1, 1, 2);
        assert_eq!(survey.next(&[1, 2]), Step::Keep(vec![1, 2]), "as long as not all is told");
        survey.arrives(2, 1, 2);
        assert_eq!(survey.next(&[1, 2]), Step::Open(2));
        survey.opened(2);
        assert_eq!(survey.next(&[1, 2, 3]), Step::Look(3));
        survey.saw(3, Some(1));
        survey.arrives(3, 0, 2);
        assert_eq!(survey.next(&[1, 2, 3]), Step::Keep(vec![1, 3]));
    }

    #[test]
    fn a_switch_that_ignores_ports_costs_a_bounded_number_of_tries() {
        let mut survey = survey(2, 2);
        for stream in 0..40 {
            survey.saw(stream, Some(u16::from(stream % 2 == 1)));
            survey.arrives(stream, 0, 2);
        }
        let up: Vec<u32> = (0..40).collect();
        while let Step::Open(more) = survey.next(&up) {
            survey.opened(more);
        }
        assert_eq!(survey.next(&up), Step::Keep(vec![0, 1]));
    }

    #[test]
    fn a_lost_stream_is_missed_again() {
        let mut survey = survey(2, 2);
        survey.saw(1, Some(0));
        survey.saw(2, Some(1));
        assert!(matches!(survey.next(&[1, 2]), Step::Keep(_)));
        assert_eq!(survey.next(&[1, 6]), Step::Look(6));
    }

    proptest! {
        #[test]
        fn it_ends_even_or_names_who_is_missed(
            slaves in 1usize..9, per in 1u16..4, draws in prop::collection::vec(0u16..9, 200),
        ) {
            let streams = u16::try_from(slaves).unwrap() * per;
            let mut survey = survey(streams, slaves);
            let mut up = Vec::new();
            let mut draws = draws.into_iter().map(|draw| draw % u16::try_from(slaves).unwrap());
            loop {
                match survey.next(&up) {
                    Step::Look(stream) => survey.saw(stream, draws.next()),
                    Step::Open(more) => {
                        survey.opened(more);
                        for _ in 0..more {
                            up.push(u32::try_from(up.len()).unwrap());
                        }
                    }
                    Step::Keep(keep) => {
                        for slave in 0..u16::try_from(slaves).unwrap() {
                            let kept = keep.iter().filter(|s| survey.slave_of(**s) == Some(slave));
                            prop_assert_eq!(kept.count(), usize::from(per));
                        }
                        break;
                    }
                    Step::Short { keep, missed } => {
                        prop_assert!(keep.len() < usize::from(streams) || missed.len() == slaves);
                        break;
                    }
                }
            }
        }
    }
}
