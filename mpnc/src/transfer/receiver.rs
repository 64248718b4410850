//! The receiving half: extents in any order in, extents in order out, within the window; or out as they come, where the
//! output takes them at their offsets.

use super::{Extent, PeerFault, max_blocks};
use crate::stats::Hold;
use std::collections::{BTreeMap, VecDeque};

/// What to do with data whose header has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Wanted: make room for it.
    Fresh,
    /// Already here: read past it.
    Duplicate,
}

/// What the shell must do with the output next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Write this extent. It directly follows the one before, unless the receiver was made for an output that takes
    /// them in any order.
    Write(Extent),
    /// All is written: compare it with the sender's CRC-32 of the whole, flush it to where it cannot be lost, close it,
    /// and report.
    Finish {
        /// The sender's.
        crc: u32,
    },
}

/// Reorders what arrives. Invariant: `delivered <= received <= credit()`, with an ordered output `delivered <= handed
/// <= received` too, and what is stored lies between `delivered` and `credit()`.
#[derive(Debug)]
pub struct Receiver {
    /// Bytes the reorder window may span.
    window: u64,
    /// Whether the output takes blocks at their offsets, in any order.
    any_order: bool,
    /// Written to the output without a gap.
    delivered: u64,
    /// Bytes given to the shell for writing; of an ordered output that is without a gap.
    handed: u64,
    /// Written beyond the first gap: offset to length. Empty for an ordered output.
    ahead: BTreeMap<u64, u32>,
    /// Received without a gap.
    received: u64,
    /// To be handed out.
    ready: VecDeque<Extent>,
    /// Ends of the blocks that are in order and not written: however short, each has its cost.
    unwritten: VecDeque<u64>,
    /// Received beyond the first gap: offset to length.
    beyond: BTreeMap<u64, u32>,
    /// Where the data ends, and the CRC-32 of all of it, once the sender has said so.
    end: Option<(u64, u32)>,
    /// [`Output::Finish`] has been handed out.
    finishing: bool,
    /// The shell has confirmed it.
    finished: bool,
}

impl Receiver {
    /// An empty receiver that lets the sender go `window` bytes beyond what is delivered.
    #[must_use]
    pub fn new(window: u64) -> Self {
        Self {
            window,
            any_order: false,
            delivered: 0,
            handed: 0,
            ahead: BTreeMap::new(),
            received: 0,
            ready: VecDeque::new(),
            unwritten: VecDeque::new(),
            beyond: BTreeMap::new(),
            end: None,
            finishing: false,
            finished: false,
        }
    }

    /// The same for an output that takes blocks at their offsets: they are handed out as they arrive. What the peer
    /// sees is no different.
    #[must_use]
    pub fn in_any_order(window: u64) -> Self {
        Self { any_order: true, ..Self::new(window) }
    }

    /// As if everything below `offset` were transferred: of that only these counters remain.
    #[cfg(test)]
    pub(super) fn forward_to(&mut self, offset: u64) {
        (self.delivered, self.handed, self.received) = (offset, offset, offset);
    }

    /// Bytes written to the output.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes received without a gap.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// First offset that the sender may not use yet.
    #[must_use]
    pub fn credit(&self) -> u64 {
        self.delivered.saturating_add(self.window)
    }

    /// Length of the whole transfer, once known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.end.map(|(total, _)| total)
    }

    /// Whether everything is written and the output is closed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// What keeps the transfer from going faster at this moment, as far as this side can tell.
    #[must_use]
    pub fn hold(&self) -> Hold {
        let unwritten = self.received - self.delivered;
        match self.total() {
            _ if self.finished => Hold::Nothing,
            Some(total) if total == self.received => Hold::Output,
            _ if unwritten >= self.window / 4 => Hold::Output,
            _ => Hold::Arrival,
        }
    }

    /// Whether data with this header is wanted.
    ///
    /// # Errors
    /// The peer's fault, if no honest sender could have sent it now.
    pub fn judge(&self, extent: Extent) -> Result<Arrival, PeerFault> {
        let limit = self.total().map_or_else(|| self.credit(), |total| total.min(self.credit()));
        let outside = PeerFault::OutsideWindow { offset: extent.offset, len: extent.len, limit };
        let end = extent.end().filter(|end| extent.len > 0 && *end <= limit).ok_or(outside)?;
        if end <= self.received {
            return Ok(Arrival::Duplicate);
        }
        let overlap = Err(PeerFault::Overlap(extent.offset));
        if extent.offset < self.received {
            return overlap;
        }
        if let Some((offset, len)) = self.beyond.range(..end).next_back() {
            if *offset == extent.offset && *len == extent.len {
                return Ok(Arrival::Duplicate);
            }
            if offset + u64::from(*len) > extent.offset {
                return overlap;
            }
        }
        if self.beyond.len() + self.unwritten.len() >= max_blocks(self.window) {
            return Err(PeerFault::TooManyBlocks);
        }
        Ok(Arrival::Fresh)
    }

    /// Takes in data that has arrived whole and checked. The answer is judged anew: a second copy may have overtaken
    /// it.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn arrived(&mut self, extent: Extent) -> Result<Arrival, PeerFault> {
        let arrival = self.judge(extent)?;
        if arrival == Arrival::Fresh {
            self.beyond.insert(extent.offset, extent.len);
            if self.any_order {
                self.ready.push_back(extent);
            }
            while let Some(entry) = self.beyond.first_entry().filter(|entry| *entry.key() == self.received) {
                let (offset, len) = entry.remove_entry();
                if !self.any_order {
                    self.ready.push_back(Extent { offset, len });
                }
                self.received += u64::from(len);
                self.unwritten.push_back(self.received);
            }
        }
        Ok(arrival)
    }

    /// The sender says where its data ends.
    ///
    /// # Errors
    /// [`PeerFault::FalseEnd`] if that contradicts what it said or sent before.
    pub fn end(&mut self, total: u64, crc: u32) -> Result<(), PeerFault> {
        let highest = self.beyond.last_key_value().map_or(self.received, |(offset, len)| offset + u64::from(*len));
        if self.end.is_some_and(|known| known != (total, crc)) || total < highest {
            return Err(PeerFault::FalseEnd(total));
        }
        self.end = Some((total, crc));
        Ok(())
    }

    /// The next thing to do with the output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(extent) = self.ready.pop_front() {
            self.handed += u64::from(extent.len);
            return Some(Output::Write(extent));
        }
        // One who writes in order keeps a queue; of several the last must be through.
        let through = if self.any_order { self.delivered } else { self.handed };
        let (_, crc) = self.end.filter(|(total, _)| *total == through && !self.finishing)?;
        self.finishing = true;
        Some(Output::Finish { crc })
    }

    /// The output now holds this extent, which was handed out.
    pub fn written(&mut self, extent: Extent) {
        debug_assert!(extent.offset == self.delivered || self.any_order, "an ordered output is written in order");
        if extent.offset != self.delivered {
            self.ahead.insert(extent.offset, extent.len);
            return;
        }
        self.delivered += u64::from(extent.len);
        while let Some(entry) = self.ahead.first_entry().filter(|entry| *entry.key() == self.delivered) {
            self.delivered += u64::from(entry.remove());
        }
        debug_assert!(self.delivered <= self.received, "the shell writes only what it was handed");
        while self.unwritten.front().is_some_and(|end| *end <= self.delivered) {
            self.unwritten.pop_front();
        }
    }

    /// The output is flushed and closed.
    pub fn finished(&mut self) {
        debug_assert!(self.finishing && Some(self.delivered) == self.total(), "the shell finishes only when asked");
        self.finished = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(offset: u64, len: u32) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn blocks_come_out_in_order() {
        let mut receiver = Receiver::new(100);
        assert_eq!(receiver.arrived(extent(10, 5)), Ok(Arrival::Fresh));
        assert_eq!(receiver.poll_output(), None);
        assert_eq!(receiver.arrived(extent(0, 10)), Ok(Arrival::Fresh));
        assert_eq!(receiver.poll_output(), Some(Output::Write(extent(0, 10))));
        assert_eq!(receiver.poll_output(), Some(Output::Write(extent(10, 5))));
        assert_eq!(receiver.poll_output(), None);
        assert_eq!((receiver.received(), receiver.delivered(), receiver.credit()), (15, 0, 100));
        receiver.written(extent(0, 10));
        receiver.written(extent(10, 5));
        assert_eq!(receiver.credit(), 115);
    }

    #[test]
    fn a_slow_output_shows_as_what_is_not_written() {
        let mut receiver = Receiver::new(40);
        assert_eq!(receiver.hold(), Hold::Arrival);
        receiver.arrived(extent(0, 10)).unwrap();
        assert_eq!(receiver.hold(), Hold::Output);
        while receiver.poll_output().is_some() {}
        receiver.written(extent(0, 10));
        assert_eq!(receiver.hold(), Hold::Arrival);
        receiver.end(10, 0).unwrap();
        receiver.poll_output();
        assert_eq!(receiver.hold(), Hold::Output);
        receiver.finished();
        assert_eq!(receiver.hold(), Hold::Nothing);
    }

    #[test]
    fn the_second_copy_is_dropped_wherever_the_first_is() {
        let mut receiver = Receiver::new(100);
        receiver.arrived(extent(0, 10)).unwrap();
        receiver.arrived(extent(20, 10)).unwrap();
        assert_eq!(receiver.judge(extent(0, 10)), Ok(Arrival::Duplicate));
        assert_eq!(receiver.arrived(extent(20, 10)), Ok(Arrival::Duplicate));
    }

    #[test]
    fn data_outside_the_window_is_the_peers_fault() {
        let receiver = Receiver::new(100);
        for bad in [extent(95, 6), extent(u64::MAX, 1), extent(0, 0), extent(u64::MAX - 3, 100)] {
            assert!(matches!(receiver.judge(bad), Err(PeerFault::OutsideWindow { .. })), "{bad:?}");
        }
    }

    #[test]
    fn overlaps_are_the_peers_fault() {
        let mut receiver = Receiver::new(100);
        receiver.arrived(extent(0, 10)).unwrap();
        receiver.arrived(extent(20, 10)).unwrap();
        for bad in [extent(5, 10), extent(15, 10), extent(20, 5), extent(25, 10), extent(15, 30)] {
            assert_eq!(receiver.judge(bad), Err(PeerFault::Overlap(bad.offset)), "{bad:?}");
        }
    }

    #[test]
    fn tiny_blocks_cannot_fill_memory() {
        let mut receiver = Receiver::new(1 << 16);
        let mut offset = 1;
        let error = loop {
            match receiver.arrived(extent(offset, 1)) {
                Ok(_) => offset += 2,
                Err(error) => break error,
            }
        };
        assert_eq!(error, PeerFault::TooManyBlocks);
        assert_eq!(receiver.beyond.len(), max_blocks(1 << 16));
    }

    #[test]
    fn tiny_blocks_in_order_cannot_fill_memory_either() {
        let (mut receiver, most) = (Receiver::new(1 << 16), max_blocks(1 << 16) as u64);
        for offset in 0..most {
            assert_eq!(receiver.arrived(extent(offset, 1)), Ok(Arrival::Fresh));
            receiver.poll_output();
        }
        assert_eq!(receiver.arrived(extent(most, 1)), Err(PeerFault::TooManyBlocks));
        receiver.written(extent(0, 1));
        assert_eq!(receiver.arrived(extent(most, 1)), Ok(Arrival::Fresh));
    }

    #[test]
    fn the_end_comes_once_and_last() {
        let mut receiver = Receiver::new(100);
        receiver.arrived(extent(0, 10)).unwrap();
        assert_eq!(receiver.end(9, 0), Err(PeerFault::FalseEnd(9)));
        receiver.end(10, 0).unwrap();
        receiver.end(10, 0).unwrap();
        assert_eq!(receiver.end(11, 0), Err(PeerFault::FalseEnd(11)));
        assert!(matches!(receiver.judge(extent(10, 1)), Err(PeerFault::OutsideWindow { .. })));
        assert_eq!(receiver.poll_output(), Some(Output::Write(extent(0, 10))));
        assert_eq!(receiver.poll_output(), Some(Output::Finish { crc: 0 }));
        assert_eq!(receiver.poll_output(), None);
    }

    #[test]
    fn an_empty_transfer_finishes_at_once() {
        let mut receiver = Receiver::new(100);
        receiver.end(0, 0).unwrap();
        assert_eq!(receiver.poll_output(), Some(Output::Finish { crc: 0 }));
        receiver.finished();
        assert!(receiver.is_finished());
    }

    #[test]
    fn offsets_near_a_petabyte_and_beyond_do_not_wrap() {
        let mut receiver = Receiver::new(1 << 26);
        for base in [1 << 50, u64::MAX - 5000] {
            receiver.forward_to(base);
            assert_eq!(receiver.judge(extent(base, 4096)), Ok(Arrival::Fresh));
        }
        assert!(receiver.judge(extent(u64::MAX - 10, 4096)).is_err());
    }

    proptest! {
        /// Any order, with any repetitions: the output is the input.
        #[test]
        fn any_order_is_reordered(lens in proptest::collection::vec(1u32..50, 1..60), seed in any::<u64>()) {
            let mut offset = 0;
            let blocks: Vec<Extent> = lens.iter().map(|len| {
                let block = extent(offset, *len);
                offset += u64::from(*len);
                block
            }).collect();
            let mut receiver = Receiver::new(1 << 20);
            let mut order: Vec<usize> = (0..blocks.len()).chain(0..blocks.len()).collect();
            order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
            let mut out = 0;
            for i in order {
                receiver.arrived(blocks[i]).unwrap();
                while let Some(Output::Write(extent)) = receiver.poll_output() {
                    prop_assert_eq!(extent.offset, out);
                    out = extent.end().unwrap();
                    receiver.written(extent);
                }
            }
            prop_assert_eq!(out, offset);
        }

        /// An output that takes blocks where they belong: handed out as they arrive, written in another order still,
        /// told alike.
        #[test]
        fn any_order_is_written(lens in proptest::collection::vec(1u32..50, 1..60), seed in any::<u64>()) {
            let mut total = 0;
            let blocks: Vec<Extent> = lens.iter().map(|len| {
                let block = extent(total, *len);
                total += u64::from(*len);
                block
            }).collect();
            let key = |i: usize, turn: u32| (i as u64 + 1).wrapping_mul(seed | 1).rotate_left(turn);
            let mut order: Vec<usize> = (0..blocks.len()).collect();
            order.sort_by_key(|i| key(*i, 17));
            let mut receiver = Receiver::in_any_order(1 << 20);
            receiver.end(total, 7).unwrap();
            let mut handed = Vec::new();
            for i in order {
                receiver.arrived(blocks[i]).unwrap();
                prop_assert_eq!(receiver.poll_output(), Some(Output::Write(blocks[i])));
                handed.push(blocks[i]);
            }
            handed.sort_by_key(|block| key(usize::try_from(block.offset).unwrap(), 31));
            let mut held = vec![false; usize::try_from(total).unwrap()];
            for block in handed {
                prop_assert_eq!(receiver.poll_output(), None, "nothing is finished before all is written");
                let at = usize::try_from(block.offset).unwrap();
                held[at..at + block.len as usize].fill(true);
                receiver.written(block);
                let whole = held.iter().take_while(|byte| **byte).count() as u64;
                prop_assert_eq!(receiver.delivered(), whole, "delivered is what is written without a gap");
            }
            prop_assert_eq!(receiver.poll_output(), Some(Output::Finish { crc: 7 }));
            prop_assert_eq!((receiver.ahead.len(), receiver.unwritten.len(), receiver.beyond.len()), (0, 0, 0));
        }
    }
}
