//! How many streams each slave gets, and how many of those fall on each class of a second axis.
//!
//! Counting only; must not know ports, lanes or hashes.

use std::iter;

/// What one stream is counted on to carry, Mbit/s: one TCP is one processor's work at the receiver. Where to begin, not
/// measured: no such cards were at hand.
const ONE_STREAM: u32 = 25_000;

/// Streams that it takes to fill slaves of these speeds, Mbit/s, or 1 each where they are not known: one for each, and
/// one more for each further 25 Gbit/s begun.
pub(crate) fn by_speed(speeds: &[u32]) -> u16 {
    let streams = speeds.iter().map(|mbit| mbit.div_ceil(ONE_STREAM).max(1)).fold(0, u32::saturating_add);
    u16::try_from(streams).unwrap_or(u16::MAX)
}

/// Least that may lie unsent in a stream's socket, bytes: a block of the default size.
const UNSENT: u64 = 256 << 10;

/// Bytes that may lie unsent in the socket of a stream on slaves of these speeds, Mbit/s, or 1 each where they are not
/// known: what the fastest of them sends while a loop gets round to it (0.2 ms: `UNSENT` at 10 Gbit/s).
pub fn unsent(speeds: &[u32]) -> u32 {
    let fastest = speeds.iter().copied().max().unwrap_or(1);
    let stream = u64::from(fastest.div_ceil(fastest.div_ceil(ONE_STREAM).max(1)));
    u32::try_from((stream * UNSENT / 10_000).max(UNSENT)).unwrap_or(u32::MAX)
}

/// Streams per slave: one each while there are enough, the rest in proportion to the weights (the next stream goes to
/// the slave that would still give it most). Equal weights differ by at most one. A slave without weight gets none.
pub(crate) fn by_weight(streams: u16, weights: &[u32]) -> Vec<u16> {
    let mut counts = vec![0u16; weights.len()];
    let reached = |slave: &usize| weights[*slave] > 0;
    for _ in 0..streams {
        let best =
            (0..weights.len()).filter(reached).reduce(|a, b| if wants_more(&counts, weights, b, a) { b } else { a });
        if let Some(best) = best {
            counts[best] += 1;
        }
    }
    counts
}

/// Whether the next stream belongs rather to `a` than to `b`.
fn wants_more(counts: &[u16], weights: &[u32], a: usize, b: usize) -> bool {
    let empty = |i: usize| counts[i] == 0;
    if empty(a) != empty(b) {
        return empty(a);
    }
    let share = |i: usize, other: usize| u64::from(weights[i]) * (u64::from(counts[other]) + 1);
    share(a, b) > share(b, a)
}

/// Whether streams are as even as they can be: no count differs from another by more than one.
#[must_use]
pub fn is_even(counts: &[u16]) -> bool {
    let least = counts.iter().min().copied().unwrap_or(0);
    counts.iter().all(|count| *count <= least + 1)
}

/// A table of how many ports to take of each cell (row, column).
pub(crate) type Table = Vec<Vec<u16>>;

/// How many ports each row may get: exactly what its weight says, or, among equals, the even share or one more.
pub(crate) struct Rows {
    least: Vec<u16>,
    most: Vec<u16>,
    total: u16,
}

impl Rows {
    /// For `total` streams over slaves of these weights (at least one).
    pub(crate) fn new(total: u16, weights: &[u32]) -> Self {
        let counts = by_weight(total, weights);
        if weights.windows(2).any(|w| w[0] != w[1]) {
            return Self { least: counts.clone(), most: counts, total };
        }
        let least = counts.iter().min().copied().unwrap_or(0);
        let most = counts.iter().max().copied().unwrap_or(0);
        Self { least: vec![least; counts.len()], most: vec![most; counts.len()], total }
    }

    /// The first row that has fewer ports than it needs.
    pub(crate) fn short(&self, available: &Table) -> Option<usize> {
        let sum = |r: usize| available[r].iter().map(|n| u64::from(*n)).sum::<u64>();
        let below = |wanted: &[u16]| (0..wanted.len()).find(|&r| sum(r) < u64::from(wanted[r]));
        below(&self.least).or_else(|| below(&self.most))
    }
}

/// Takes `rows.total` ports, each row between its least and its most, as even over the columns as `available` allows,
/// and as many of those in `kept` (a part of `available`) as that leaves room for. `None` when the rows cannot be
/// filled.
///
/// A flow from rows to columns. First the rows' least, into columns up to the even share, then up to one more; then
/// what columns below their share lack, from rows that may give one more or from columns above their share; then the
/// rest. Where a table exists that is even both ways, this finds one: an augmenting path never takes from a row or a
/// column what it has. What is kept is filled in first at each step, and may then be moved aside. Where there is none,
/// units move from fuller columns to emptier ones at last, for as long as that makes them more even.
pub(crate) fn spread(rows: &Rows, available: &Table, kept: &Table) -> Option<Table> {
    let columns = available.first().map_or(0, Vec::len);
    let share = rows.total / u16::try_from(columns).ok().filter(|c| *c > 0)?;
    let mut flow = Filling { available: kept, table: vec![vec![0; columns]; available.len()], cap: share };
    // Where some columns have too few, the others get more in turn.
    let rest = || (share + 1..=rows.total).map(|cap| (available, cap));
    for (from, cap) in [(kept, share), (kept, share + 1), (available, share)].into_iter().chain(rest()) {
        (flow.available, flow.cap) = (from, cap);
        flow.fill(&rows.least, rows.total);
    }
    for from in [kept, available] {
        (flow.available, flow.cap) = (from, share);
        flow.fill(&rows.most, rows.total);
    }
    flow.level();
    for (from, cap) in iter::once((kept, share + 1)).chain(rest()) {
        (flow.available, flow.cap) = (from, cap);
        flow.fill(&rows.most, rows.total);
    }
    flow.available = available;
    flow.even_out(rows);
    let enough = (0..available.len()).all(|r| flow.row_sum(r) >= rows.least[r]);
    (enough && flow.total() == rows.total).then_some(flow.table)
}

/// The largest difference between two columns' sums.
#[cfg(test)]
fn unevenness(table: &Table) -> u16 {
    let columns = table.first().map_or(0, Vec::len);
    let sums: Vec<u16> = (0..columns).map(|c| table.iter().map(|row| row[c]).sum()).collect();
    sums.iter().max().unwrap_or(&0) - sums.iter().min().unwrap_or(&0)
}

struct Filling<'a> {
    available: &'a Table,
    table: Table,
    /// Columns below this take one more; others only pass on.
    cap: u16,
}

impl Filling<'_> {
    /// Adds to each row up to its bound, while the whole stays within `total`.
    fn fill(&mut self, bounds: &[u16], total: u16) {
        for (r, &bound) in bounds.iter().enumerate() {
            while self.row_sum(r) < bound && self.total() < total && self.augment(r) {}
        }
    }

    /// Moves from columns above the cap to columns below it.
    fn level(&mut self) {
        for c in 0..self.available[0].len() {
            while self.column_sum(c) > self.cap && self.relieve(c) {}
        }
    }

    /// Moves from fuller columns to emptier ones until no unit is left whose move would make them more even.
    fn even_out(&mut self, rows: &Rows) {
        let improve = |flow: &mut Self, c: usize| {
            flow.cap = flow.column_sum(c).saturating_sub(1);
            flow.relieve(c) || flow.exchange(c, rows)
        };
        let columns = 0..self.available[0].len();
        let sums = |flow: &Self| columns.clone().map(|c| flow.column_sum(c)).collect::<Vec<_>>();
        while !is_even(&sums(self)) && columns.clone().any(|c| improve(self, c)) {}
    }

    /// Sends one unit out of `column` elsewhere.
    fn relieve(&mut self, column: usize) -> bool {
        let mut seen = vec![false; self.available[0].len()];
        seen[column] = true;
        self.make_room(column, usize::MAX, &mut seen)
    }

    /// The same, while one row takes a unit that another has given up, wherever it was.
    fn exchange(&mut self, column: usize, rows: &Rows) -> bool {
        let all = self.table.len();
        let cells = (0..all).flat_map(|row| (0..self.available[0].len()).map(move |c| (row, c)));
        let gives = |(row, c): &(usize, usize)| self.table[*row][*c] > 0 && self.row_sum(*row) > rows.least[*row];
        let (givers, before) = (cells.filter(gives).collect::<Vec<_>>(), self.table.clone());
        givers.into_iter().any(|(giver, from)| {
            self.table[giver][from] -= 1;
            let takes = |flow: &mut Self, row| row != giver && flow.row_sum(row) < rows.most[row] && flow.augment(row);
            let moved = (from == column || self.relieve(column)) && (0..all).any(|row| takes(self, row));
            if !moved {
                self.table.clone_from(&before);
            }
            moved
        })
    }

    fn total(&self) -> u16 {
        (0..self.table.len()).map(|r| self.row_sum(r)).sum()
    }

    fn row_sum(&self, r: usize) -> u16 {
        self.table[r].iter().sum()
    }

    fn column_sum(&self, c: usize) -> u16 {
        self.table.iter().map(|row| row[c]).sum()
    }

    /// One more unit out of `row`, moving others aside where that is needed.
    fn augment(&mut self, row: usize) -> bool {
        let mut seen = vec![false; self.table[row].len()];
        self.push(row, &mut seen)
    }

    /// Into a column with room if there is one: then nothing moves.
    fn push(&mut self, row: usize, seen: &mut [bool]) -> bool {
        let free = |flow: &Self, c: usize| flow.table[row][c] < flow.available[row][c];
        if let Some(c) = (0..seen.len()).find(|&c| !seen[c] && free(self, c) && self.column_sum(c) < self.cap) {
            self.table[row][c] += 1;
            return true;
        }
        for c in 0..seen.len() {
            if !seen[c] && free(self, c) {
                seen[c] = true;
                if self.make_room(c, row, seen) {
                    self.table[row][c] += 1;
                    return true;
                }
            }
        }
        false
    }

    /// Sends one unit that another row has in `column` elsewhere.
    fn make_room(&mut self, column: usize, except: usize, seen: &mut [bool]) -> bool {
        for other in 0..self.table.len() {
            if other != except && self.table[other][column] > 0 && self.push(other, seen) {
                self.table[other][column] -= 1;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// With nothing to keep.
    fn fresh(rows: &Rows, available: &Table) -> Option<Table> {
        let none = available.iter().map(|row| vec![0; row.len()]).collect();
        spread(rows, available, &none)
    }

    #[test]
    fn as_many_streams_as_each_slave_takes_and_as_much_unsent_as_one_sends_meanwhile() {
        for (mbit, streams, kib) in
            [(1, 1, 256), (1_000, 1, 256), (10_000, 1, 256), (25_000, 1, 640), (100_000, 4, 640)]
        {
            assert_eq!((by_speed(&[mbit]), unsent(&[mbit]) >> 10), (streams, kib), "{mbit} Mbit/s");
        }
        assert_eq!((unsent(&[]) >> 10, unsent(&[1_000, 40_000]) >> 10), (256, 512));
    }

    #[test]
    fn one_more_or_less_is_even() {
        for even in [&[1, 1, 1, 1][..], &[2, 1, 1], &[1, 1, 0, 0], &[]] {
            assert!(is_even(even), "{even:?}");
        }
        assert!(!is_even(&[4, 0]));
        assert!(!is_even(&[1, 0, 2]));
    }

    #[test]
    fn every_slave_gets_one_before_any_gets_two() {
        assert_eq!(by_weight(3, &[10_000, 10_000, 1000]), [1, 1, 1]);
        assert_eq!(by_weight(2, &[1000, 10_000, 10_000]), [0, 1, 1]);
        assert_eq!(by_weight(4, &[1000, 10_000, 10_000]), [1, 2, 1]);
    }

    #[test]
    fn more_streams_follow_the_speeds() {
        assert_eq!(by_weight(12, &[40_000, 10_000, 10_000]), [8, 2, 2]);
        assert_eq!(by_weight(9, &[1, 1, 1, 1]), [3, 2, 2, 2]);
        assert_eq!(by_weight(5, &[]), [0; 0]);
    }

    #[test]
    fn spread_is_even_over_columns_where_the_cells_allow() {
        // Row 0 has only column 0: row 1 must leave it.
        let table = fresh(&Rows::new(4, &[1, 1]), &vec![vec![5, 0], vec![5, 5]]).unwrap();
        assert_eq!(table, [[2, 0], [0, 2]]);
        // A chain of moves: only row 2 has no choice.
        let cells = vec![vec![1, 1, 0], vec![1, 0, 1], vec![1, 0, 0]];
        assert_eq!(unevenness(&fresh(&Rows::new(3, &[1; 3]), &cells).unwrap()), 0);
    }

    #[test]
    fn the_odd_streams_go_to_the_rows_that_keep_columns_even() {
        // Rows 0 and 1 lead to column 0, rows 2 and 3 to column 1; 6 streams: one extra on each side.
        let cells = vec![vec![9, 0], vec![9, 0], vec![0, 9], vec![0, 9]];
        let table = fresh(&Rows::new(6, &[1; 4]), &cells).unwrap();
        assert_eq!(unevenness(&table), 0);
        assert!(table.iter().all(|row| (1..=2).contains(&row.iter().sum::<u16>())));
    }

    #[test]
    fn rows_come_first_and_columns_give_way() {
        let table = fresh(&Rows::new(4, &[1, 1]), &vec![vec![9, 0], vec![9, 0]]).unwrap();
        assert_eq!(table, [[2, 0], [2, 0]]);
        assert_eq!(unevenness(&table), 4);
        let rows = Rows::new(4, &[1, 1]);
        let cells = vec![vec![9, 0], vec![1, 0]];
        assert_eq!(fresh(&rows, &cells), None);
        assert_eq!(rows.short(&cells), Some(1));
        assert_eq!(fresh(&Rows::new(0, &[1]), &vec![vec![]]), None);
    }

    #[test]
    fn what_is_kept_stays_where_it_leaves_the_rest_even() {
        let many = vec![vec![9, 9], vec![9, 9], vec![9, 9]];
        let kept = vec![vec![1, 0], vec![0, 1], vec![0, 0]];
        assert_eq!(spread(&Rows::new(3, &[1; 3]), &many, &kept).unwrap()[..2], kept[..2]);
        let crowded = vec![vec![3, 0], vec![0, 0], vec![0, 0]];
        let table = spread(&Rows::new(3, &[1; 3]), &many, &crowded).unwrap();
        assert_eq!(table.iter().map(|row| row.iter().sum()).collect::<Vec<u16>>(), [1, 1, 1]);
        assert_eq!(table[0], [1, 0], "one of them stays");
    }

    proptest! {
        #[test]
        fn keeping_costs_no_evenness(
            cells in proptest::collection::vec(proptest::collection::vec((0u16..4, 0u16..3), 3), 1..5),
            streams in 1u16..14,
        ) {
            let kept: Table = cells.iter().map(|row| row.iter().map(|cell| cell.1).collect()).collect();
            let all: Table = cells.iter().map(|row| row.iter().map(|cell| cell.0 + cell.1).collect()).collect();
            let rows = Rows::new(streams, &vec![1; cells.len()]);
            let (with, without) = (spread(&rows, &all, &kept), fresh(&rows, &all));
            prop_assert_eq!(with.is_some(), without.is_some());
            if let (Some(with), Some(without)) = (with, without) {
                prop_assert!(unevenness(&with) <= unevenness(&without).max(1), "{:?} {:?}", with, without);
            }
        }
    }
}
