//! The sending half: which extent goes to the stream that can take one now, and what must go out again.

use super::pace::Pace;
use super::{Extent, PeerFault, StreamId, Time, Traffic, max_blocks};
use crate::stats::Hold;
use crate::wire::Ack;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A block that its stream has not confirmed is late after this many times the usual turnaround ...
const LATE_TURNAROUNDS: u32 = 4;
/// ... but never sooner (scheduling noise) ...
const LATE_MIN: Duration = Duration::from_millis(100);
/// ... nor later than this: one stream must not hold the window for longer while others live.
const LATE_MAX: Duration = Duration::from_millis(900);
/// Most copies of one block under way at a time: the first, and two tries to overtake it.
const MAX_COPIES: u32 = 3;
/// How many of the oldest blocks are looked at for a late one: those gate the receiver.
const LATE_SCAN: usize = 64;

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Never sent, or every stream that carried it is lost.
    Waiting,
    /// Handed to `copies` streams, the last time at `at`.
    Sent { at: Time, copies: u32 },
    /// The receiver holds it and has checked it.
    Received,
}

#[derive(Debug)]
struct Block {
    extent: Extent,
    state: Stage,
}

/// What the sender knows of one stream.
#[derive(Debug, Default)]
struct Outbound {
    /// Blocks handed to it and not confirmed by it, oldest first (index of block).
    under_way: VecDeque<u64>,
    /// Data frames that it has confirmed.
    confirmed: u64,
    /// It makes no progress while others do: nothing new goes to it.
    suspended: bool,
    /// It is to be closed: it finishes what it has, and gets no more.
    draining: bool,
}

/// Who may take blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Every stream that can.
    All,
    /// None, until that is lifted.
    Nobody,
    /// This one alone, and so many bytes more. It can: when it is lost, suspended or drained, nobody has access.
    Only { stream: StreamId, left: u64 },
}

/// Cuts nothing and copies nothing: decides. Invariant: blocks are consecutive, `blocks[0]` is the oldest not received,
/// its absolute index is `first`.
#[derive(Debug)]
pub struct Sender {
    blocks: VecDeque<Block>,
    first: u64,
    /// Index of the first block that was never sent.
    fresh: u64,
    /// Ends of the blocks that were sent and, as far as the receiver has told, are not written: it keeps books of each.
    unwritten: VecDeque<u64>,
    /// Indices of blocks to be sent again.
    again: BTreeSet<u64>,
    /// Bytes taken in from the input.
    produced: u64,
    /// CRC-32 of the whole input, once that has ended at `produced`.
    whole: Option<u32>,
    /// What the receiver has told: written, allowed.
    delivered: u64,
    credit: u64,
    /// What the receiver has told: received without a gap.
    received: u64,
    /// What the receiver can hold.
    window: u64,
    max_blocks: usize,
    /// The rate to be kept, if there is one.
    pace: Option<Pace>,
    outbound: BTreeMap<StreamId, Outbound>,
    access: Access,
    /// Smoothed time from handing out a block until it is confirmed.
    turnaround: Option<Duration>,
    /// Blocks whose buffers the shell may drop.
    released: Vec<Extent>,
    /// Bytes handed out a second time.
    resent: u64,
}

impl Sender {
    /// A sender that may begin when [`Self::grant`] has told the receiver's window, and hands out at most `rate` bytes
    /// a second.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self {
            blocks: VecDeque::new(),
            first: 0,
            fresh: 0,
            unwritten: VecDeque::new(),
            again: BTreeSet::new(),
            produced: 0,
            whole: None,
            delivered: 0,
            credit: 0,
            received: 0,
            window: 0,
            max_blocks: 0,
            pace: rate.map(Pace::new),
            outbound: BTreeMap::new(),
            access: Access::All,
            turnaround: None,
            released: Vec::new(),
            resent: 0,
        }
    }

    /// As if everything below `offset` were transferred: of that only these counters remain.
    #[cfg(test)]
    pub(super) fn forward_to(&mut self, offset: u64) {
        (self.produced, self.delivered, self.received) = (offset, offset, offset);
    }

    /// The receiver's window in bytes, from its first frame.
    pub fn grant(&mut self, window: u64) {
        self.credit = self.credit.max(window);
        self.window = window;
        self.max_blocks = max_blocks(window);
    }

    /// Bytes taken in from the input.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.produced
    }

    /// Bytes that the receiver has written.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes sent more than once.
    #[must_use]
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// The length of the transfer, once the input has ended.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.whole.map(|_| self.produced)
    }

    /// The length of the transfer and the CRC-32 of it all, once the input has ended.
    #[must_use]
    pub fn end(&self) -> Option<(u64, u32)> {
        self.whole.map(|crc| (self.produced, crc))
    }

    /// Whether there is anything that was never sent but the receiver's credit forbids it.
    #[must_use]
    pub fn is_blocked_by_credit(&self) -> bool {
        self.block(self.fresh).is_some_and(|block| !self.is_allowed(block.extent))
    }

    /// Whether some block has never been handed to a stream.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.block(self.fresh).is_some()
    }

    /// What keeps the transfer from going faster at this moment; `room` says whether the input has a buffer to be read
    /// into.
    #[must_use]
    pub fn hold(&self, room: impl FnOnce() -> bool, now: Time) -> Hold {
        let paced = || self.pace.as_ref().is_some_and(|pace| !pace.is_free(now));
        if self.outbound.is_empty() {
            return Hold::Nothing;
        }
        if !self.again.is_empty() || self.next_fresh().is_some() {
            return if paced() { Hold::Rate } else { Hold::Links };
        }
        if self.has_backlog() {
            return self.held_by_window();
        }
        match self.whole {
            Some(_) if self.received < self.produced => Hold::Links,
            Some(_) => Hold::Output,
            None if room() => Hold::Input,
            None => self.held_by_window(),
        }
    }

    /// The window is full: of what has arrived and is not written, or of what is under way?
    fn held_by_window(&self) -> Hold {
        if self.received.saturating_sub(self.delivered) >= self.window / 2 { Hold::Output } else { Hold::Window }
    }

    /// The stream that carries the oldest block.
    #[must_use]
    pub fn gate(&self) -> Option<StreamId> {
        self.outbound.keys().copied().find(|stream| self.is_carrying(*stream, self.first))
    }

    /// The input has `len` more bytes.
    pub fn input(&mut self, len: u32) -> Extent {
        debug_assert!(len > 0 && self.whole.is_none(), "the input does not go on after its end");
        let extent = Extent { offset: self.produced, len };
        self.blocks.push_back(Block { extent, state: Stage::Waiting });
        self.produced += u64::from(len);
        extent
    }

    /// The input has ended; `crc` is the CRC-32 of all of it.
    pub fn input_end(&mut self, crc: u32) {
        self.whole = Some(crc);
    }

    /// A stream that can carry data.
    pub fn stream_up(&mut self, stream: StreamId) {
        self.outbound.entry(stream).or_default();
    }

    /// No stream takes a block until [`Self::release`] or [`Self::burst`].
    pub fn pause(&mut self) {
        self.access = Access::Nobody;
    }

    /// Until [`Self::release`] no other stream takes a block, and this one only so many bytes (rounded up to whole
    /// blocks): so that it is seen by itself where it leaves. When it cannot go on, this is a [`Self::pause`].
    pub fn burst(&mut self, stream: StreamId, bytes: u64) {
        let able = self.outbound.get(&stream).is_some_and(|outbound| !outbound.suspended && !outbound.draining);
        self.access = if able { Access::Only { stream, left: bytes } } else { Access::Nobody };
    }

    /// All streams may take blocks again.
    pub fn release(&mut self) {
        self.access = Access::All;
    }

    /// Bytes that the stream may still take of its burst; `None` if it has none.
    #[must_use]
    pub fn burst_left(&self, stream: StreamId) -> Option<u64> {
        match self.access {
            Access::Only { stream: only, left } if only == stream => Some(left),
            _ => None,
        }
    }

    /// What is under way, while not every stream may take blocks.
    #[must_use]
    pub fn traffic(&self) -> Option<Traffic> {
        let left = match self.access {
            Access::All => return None,
            Access::Nobody => None,
            Access::Only { left, .. } => Some(left),
        };
        Some(Traffic { idle: self.is_idle(), backlog: self.has_backlog(), left })
    }

    /// Whether no stream has a block under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outbound.values().all(|outbound| outbound.under_way.is_empty())
    }

    fn break_burst(&mut self, stream: StreamId) {
        if self.burst_left(stream).is_some() {
            self.access = Access::Nobody;
        }
    }

    /// A stream that can no longer: what it had not confirmed goes out again.
    pub fn stream_down(&mut self, stream: StreamId) {
        self.break_burst(stream);
        // A suspended stream's blocks have been put back already.
        if let Some(outbound) = self.outbound.remove(&stream).filter(|outbound| !outbound.suspended) {
            self.requeue(&outbound.under_way);
        }
    }

    /// Nothing moves on this stream while others progress: its blocks go out over others too, and it gets no new ones
    /// until [`Self::resume`].
    pub fn suspend(&mut self, stream: StreamId) {
        self.break_burst(stream);
        let Some(outbound) = self.outbound.get_mut(&stream) else { return };
        if !outbound.suspended {
            outbound.suspended = true;
            let under_way = outbound.under_way.clone();
            self.requeue(&under_way);
        }
    }

    /// The stream finishes what it has, and gets no more.
    pub fn drain(&mut self, stream: StreamId) {
        self.break_burst(stream);
        if let Some(outbound) = self.outbound.get_mut(&stream) {
            outbound.draining = true;
        }
    }

    /// It moves again.
    pub fn resume(&mut self, stream: StreamId) {
        if let Some(outbound) = self.outbound.get_mut(&stream) {
            outbound.suspended = false;
        }
    }

    /// Whether the stream has blocks that it has not confirmed.
    #[must_use]
    pub fn is_busy(&self, stream: StreamId) -> bool {
        self.outbound.get(&stream).is_some_and(|outbound| !outbound.under_way.is_empty())
    }

    fn requeue(&mut self, indices: &VecDeque<u64>) {
        for index in indices {
            let Some(block) = self.block_mut(*index) else { continue };
            match block.state {
                Stage::Sent { copies, at } if copies > 1 => block.state = Stage::Sent { at, copies: copies - 1 },
                Stage::Sent { .. } => {
                    block.state = Stage::Waiting;
                    self.again.insert(*index);
                }
                Stage::Waiting | Stage::Received => {}
            }
        }
    }

    fn block(&self, index: u64) -> Option<&Block> {
        self.blocks.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn block_mut(&mut self, index: u64) -> Option<&mut Block> {
        self.blocks.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn is_allowed(&self, extent: Extent) -> bool {
        extent.end().is_some_and(|end| end <= self.credit) && self.unwritten.len() < self.max_blocks
    }

    /// The next extent for a stream that can take one now: first what was lost, then what is new, then, when there is
    /// nothing else to do, a second copy of a late block that gates everybody.
    pub fn poll_data(&mut self, stream: StreamId, now: Time) -> Option<Extent> {
        if self.outbound.get(&stream).is_none_or(|outbound| outbound.suspended || outbound.draining) {
            return None;
        }
        if self.pace.as_ref().is_some_and(|pace| !pace.is_free(now)) {
            return None;
        }
        if self.access != Access::All && self.burst_left(stream).unwrap_or(0) == 0 {
            return None;
        }
        let index = self.next_lost(stream).or_else(|| self.next_fresh()).or_else(|| self.next_late(stream, now))?;
        let block = self.block_mut(index)?;
        let copies = match block.state {
            Stage::Sent { copies, .. } => copies + 1,
            Stage::Waiting | Stage::Received => 1,
        };
        block.state = Stage::Sent { at: now, copies };
        let extent = block.extent;
        if index == self.fresh {
            self.fresh += 1;
            self.unwritten.extend(extent.end());
        } else {
            self.resent += u64::from(extent.len);
        }
        if let Some(pace) = &mut self.pace {
            pace.sent(extent.len, now);
        }
        if let Access::Only { left, .. } = &mut self.access {
            *left = left.saturating_sub(u64::from(extent.len));
        }
        self.again.remove(&index);
        self.outbound.get_mut(&stream)?.under_way.push_back(index);
        Some(extent)
    }

    fn next_lost(&self, stream: StreamId) -> Option<u64> {
        self.again.iter().copied().find(|index| !self.is_carrying(stream, *index))
    }

    fn next_fresh(&self) -> Option<u64> {
        self.block(self.fresh).is_some_and(|block| self.is_allowed(block.extent)).then_some(self.fresh)
    }

    fn next_late(&self, stream: StreamId, now: Time) -> Option<u64> {
        let late = self.late_after();
        let sent = usize::try_from(self.fresh - self.first).unwrap_or(usize::MAX);
        let found = self.blocks.iter().take(sent.min(LATE_SCAN)).zip(self.first..).find(|(block, index)| {
            matches!(block.state, Stage::Sent { at, copies } if copies < MAX_COPIES && now.since(at) >= late)
                && !self.is_carrying(stream, *index)
        });
        found.map(|(_, index)| index)
    }

    fn is_carrying(&self, stream: StreamId, index: u64) -> bool {
        self.outbound.get(&stream).is_some_and(|outbound| outbound.under_way.contains(&index))
    }

    /// After how long a block that is under way counts as late.
    fn late_after(&self) -> Duration {
        self.turnaround.map_or(LATE_MAX, |usual| (usual * LATE_TURNAROUNDS).clamp(LATE_MIN, LATE_MAX))
    }

    /// When an idle stream should be asked again, because the oldest block becomes late, or the rate allows the next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.late_at().into_iter().chain(self.paced_until()).min()
    }

    /// When the next block may go out, if it is the rate alone that keeps it.
    fn paced_until(&self) -> Option<Time> {
        let ready = !self.again.is_empty() || self.next_fresh().is_some();
        self.pace.as_ref().filter(|_| ready && !self.outbound.is_empty()).map(Pace::next)
    }

    fn late_at(&self) -> Option<Time> {
        // The first block is not always the one that was sent first: it may have gone out again.
        let sent = self.blocks.iter().take(LATE_SCAN).filter_map(|block| match block.state {
            Stage::Sent { at, copies } if copies < MAX_COPIES => Some(at),
            _ => None,
        });
        let earliest = sent.min()?;
        (self.outbound.len() > 1).then(|| earliest + self.late_after())
    }

    /// The receiver says that all is written. Answers whether that can be: not while something was never handed to a
    /// stream.
    pub fn handle_done(&mut self, total: u64) -> bool {
        let right = self.total() == Some(total) && !self.has_backlog();
        if right {
            self.delivered = total;
        }
        right
    }

    /// Takes in what the receiver confirms on `stream`. Answers whether the stream itself has made progress.
    ///
    /// # Errors
    /// [`PeerFault::FalseAck`] if it confirms more than was sent.
    pub fn handle_ack(&mut self, stream: StreamId, ack: &Ack, now: Time) -> Result<bool, PeerFault> {
        let outbound = self.outbound.get_mut(&stream).ok_or(PeerFault::Unexpected("Ack"))?;
        let more = ack.frames.checked_sub(outbound.confirmed).ok_or(PeerFault::FalseAck)?;
        let more = usize::try_from(more).map_err(|_| PeerFault::FalseAck)?;
        if more > outbound.under_way.len() {
            return Err(PeerFault::FalseAck);
        }
        let confirmed: Vec<u64> = outbound.under_way.drain(..more).collect();
        outbound.confirmed = ack.frames;
        for index in &confirmed {
            self.confirm(*index, Some(now));
        }
        let sent = self.block(self.fresh).map_or(self.produced, |block| block.extent.offset);
        if ack.received > sent {
            return Err(PeerFault::FalseAck);
        }
        self.confirm_below(ack.received);
        self.delivered = self.delivered.max(ack.delivered);
        while self.unwritten.front().is_some_and(|end| *end <= self.delivered) {
            self.unwritten.pop_front();
        }
        self.received = self.received.max(ack.received);
        self.credit = self.credit.max(ack.credit);
        Ok(more > 0)
    }

    fn confirm_below(&mut self, received: u64) {
        while self.blocks.front().is_some_and(|block| block.extent.end().is_some_and(|end| end <= received)) {
            self.confirm(self.first, None);
        }
    }

    /// Marks a block as received; `now` if its own stream said so, which is when the turnaround can be measured.
    fn confirm(&mut self, index: u64, now: Option<Time>) {
        let Some(block) = self.block_mut(index) else { return };
        let (state, extent) = (block.state, block.extent);
        if state == Stage::Received {
            return;
        }
        block.state = Stage::Received;
        if let (Stage::Sent { at, copies: 1 }, Some(now)) = (state, now) {
            let sample = now.since(at);
            self.turnaround = Some(self.turnaround.map_or(sample, |usual| (usual * 7 + sample) / 8));
        }
        self.again.remove(&index);
        self.released.push(extent);
        while self.blocks.front().is_some_and(|block| block.state == Stage::Received) {
            self.blocks.pop_front();
            self.first += 1;
        }
    }

    /// The buffers that are no longer needed since the last call.
    pub fn take_released(&mut self) -> std::vec::Drain<'_, Extent> {
        self.released.drain(..)
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId(0);
    const B: StreamId = StreamId(1);

    fn ms(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    /// Two streams, `n` blocks of ten bytes.
    fn sender(n: u32) -> Sender {
        let mut sender = Sender::new(None);
        sender.grant(1 << 20);
        sender.stream_up(A);
        sender.stream_up(B);
        for _ in 0..n {
            sender.input(10);
        }
        sender
    }

    fn offset(extent: Option<Extent>) -> Option<u64> {
        extent.map(|extent| extent.offset)
    }

    fn ack(received: u64, frames: u64) -> Ack {
        Ack { delivered: received, received, credit: 1 << 20, frames }
    }

    #[test]
    fn the_stream_that_asks_gets_the_next_block() {
        let mut sender = sender(3);
        assert_eq!(offset(sender.poll_data(A, ms(0))), Some(0));
        assert_eq!(offset(sender.poll_data(A, ms(0))), Some(10));
        assert_eq!(offset(sender.poll_data(B, ms(0))), Some(20));
        assert_eq!(sender.poll_data(B, ms(0)), None);
    }

    #[test]
    fn credit_stops_new_blocks_and_an_ack_lets_them_go() {
        let mut sender = Sender::new(None);
        sender.grant(15);
        sender.stream_up(A);
        sender.input(10);
        sender.input(10);
        assert_eq!(offset(sender.poll_data(A, ms(0))), Some(0));
        assert_eq!(sender.poll_data(A, ms(0)), None);
        assert!(sender.is_blocked_by_credit());
        sender.handle_ack(A, &Ack { delivered: 10, received: 10, credit: 25, frames: 1 }, ms(1)).unwrap();
        assert_eq!(offset(sender.poll_data(A, ms(1))), Some(10));
    }

    #[test]
    fn a_lost_stream_loses_nothing() {
        let mut sender = sender(3);
        sender.poll_data(A, ms(0));
        sender.poll_data(B, ms(0));
        sender.poll_data(A, ms(0));
        sender.handle_ack(A, &ack(10, 1), ms(1)).unwrap();
        sender.stream_down(A);
        assert_eq!(offset(sender.poll_data(B, ms(2))), Some(20));
        assert_eq!(sender.poll_data(B, ms(2)), None);
        assert_eq!(sender.resent(), 10);
    }

    #[test]
    fn a_late_head_is_overtaken_by_an_idle_stream_but_not_on_its_own() {
        let mut sender = sender(1);
        sender.poll_data(A, ms(0));
        assert_eq!(sender.poll_data(B, ms(10)), None);
        assert_eq!(sender.poll_data(A, ms(5000)), None);
        assert_eq!(offset(sender.poll_data(B, ms(5000))), Some(0));
        sender.handle_ack(B, &ack(10, 1), ms(5001)).unwrap();
        assert_eq!(sender.take_released().count(), 1);
        assert_eq!(sender.handle_ack(A, &ack(10, 1), ms(6000)), Ok(true));
        assert_eq!(sender.take_released().count(), 0);
    }

    #[test]
    fn the_next_to_be_late_is_the_one_sent_earliest_not_the_first() {
        let mut sender = sender(2);
        sender.stream_up(StreamId(2));
        assert_eq!(offset(sender.poll_data(A, ms(0))), Some(0));
        assert_eq!(offset(sender.poll_data(B, ms(100))), Some(10));
        sender.stream_down(A);
        assert_eq!(offset(sender.poll_data(StreamId(2), ms(500))), Some(0), "it goes out again");
        assert_eq!(sender.poll_timeout(), Some(ms(100) + LATE_MAX));
    }

    #[test]
    fn a_suspended_stream_gives_its_blocks_to_others_and_gets_none() {
        let mut sender = sender(2);
        sender.poll_data(A, ms(0));
        sender.suspend(A);
        assert_eq!(sender.poll_data(A, ms(1)), None);
        assert_eq!(offset(sender.poll_data(B, ms(1))), Some(0));
        sender.resume(A);
        assert_eq!(offset(sender.poll_data(A, ms(1))), Some(10));
    }

    #[test]
    fn a_block_requeued_twice_goes_out_once_per_loss() {
        let mut sender = sender(1);
        sender.poll_data(A, ms(0));
        sender.suspend(A);
        sender.poll_data(B, ms(1));
        sender.stream_down(A);
        sender.stream_down(B);
        sender.stream_up(StreamId(2));
        assert_eq!(offset(sender.poll_data(StreamId(2), ms(2))), Some(0));
        assert_eq!(sender.poll_data(StreamId(2), ms(2)), None);
    }

    #[test]
    fn false_acknowledgements_are_the_peers_fault() {
        let mut sender = sender(2);
        sender.poll_data(A, ms(0));
        assert_eq!(sender.handle_ack(A, &ack(0, 2), ms(1)), Err(PeerFault::FalseAck));
        assert_eq!(sender.handle_ack(B, &ack(20, 0), ms(1)), Err(PeerFault::FalseAck));
        assert!(sender.handle_ack(StreamId(9), &ack(0, 0), ms(1)).is_err());
    }

    #[test]
    fn tiny_blocks_are_bounded_by_number_too() {
        let mut sender = Sender::new(None);
        sender.grant(1 << 16);
        sender.stream_up(A);
        for _ in 0..100 {
            sender.input(1);
        }
        let sent = std::iter::from_fn(|| sender.poll_data(A, ms(0))).count();
        assert_eq!(sent, max_blocks(1 << 16));
    }

    #[test]
    fn tiny_blocks_count_until_they_are_written() {
        let (mut sender, most) = (sender(100), 16);
        sender.grant(1 << 16);
        assert_eq!(std::iter::from_fn(|| sender.poll_data(A, ms(0))).count(), most);
        let held = Ack { delivered: 0, ..ack(160, 16) };
        sender.handle_ack(A, &held, ms(1)).unwrap();
        assert_eq!(sender.poll_data(A, ms(1)), None, "the receiver holds as many as it may");
        assert!(sender.is_blocked_by_credit());
        sender.handle_ack(A, &Ack { delivered: 45, ..held }, ms(2)).unwrap();
        assert_eq!(std::iter::from_fn(|| sender.poll_data(A, ms(2))).count(), 4);
    }

    #[test]
    fn a_rate_spaces_blocks_and_says_when_to_ask_again() {
        let mut sender = Sender::new(Some(1000));
        sender.grant(1 << 20);
        sender.stream_up(A);
        for _ in 0..14 {
            sender.input(10);
        }
        let mut at = Vec::new();
        let mut now = ms(1000);
        while let Some(next) = sender.poll_timeout().filter(|next| *next < ms(1100)) {
            now = now.max(next);
            while sender.poll_data(A, now).is_some() {
                at.push(now);
            }
            assert_eq!(sender.hold(|| true, now), if sender.has_backlog() { Hold::Rate } else { Hold::Input });
        }
        // A late start is caught up with ten blocks, the rest comes one by one.
        assert_eq!(at[..11], [ms(1000); 11]);
        assert_eq!(at[11..], [1010, 1020, 1030].map(ms));
    }

    #[test]
    fn during_a_burst_only_its_stream_takes_blocks_and_only_so_many() {
        let mut sender = sender(4);
        sender.burst(B, 15);
        assert_eq!(sender.poll_data(A, ms(0)), None);
        assert_eq!(offset(sender.poll_data(B, ms(0))), Some(0));
        assert_eq!(sender.burst_left(B), Some(5));
        assert_eq!(offset(sender.poll_data(B, ms(0))), Some(10));
        assert_eq!((sender.burst_left(B), sender.burst_left(A)), (Some(0), None));
        assert_eq!(sender.poll_data(B, ms(0)), None);
        assert!(!sender.is_idle());
        sender.handle_ack(B, &ack(20, 2), ms(1)).unwrap();
        assert!(sender.is_idle());
        sender.release();
        assert_eq!(offset(sender.poll_data(A, ms(1))), Some(20));
    }

    #[test]
    fn a_burst_ends_with_its_stream() {
        for end in [Sender::stream_down, Sender::suspend, Sender::drain] {
            let mut sender = sender(2);
            sender.burst(B, 1000);
            sender.poll_data(B, ms(0));
            end(&mut sender, B);
            assert_eq!(sender.burst_left(B), None);
            assert_eq!(sender.poll_data(A, ms(0)), None, "what was held stays held");
            sender.burst(B, 1000);
            assert_eq!(sender.burst_left(B), None, "a stream that cannot send has no burst");
            sender.release();
            assert!(sender.poll_data(A, ms(0)).is_some());
        }
    }

    #[test]
    fn what_is_in_the_way_follows_from_the_acknowledgements() {
        let mut sender = Sender::new(None);
        assert_eq!(sender.hold(|| true, ms(0)), Hold::Nothing);
        sender.grant(20);
        sender.stream_up(A);
        assert_eq!(sender.hold(|| true, ms(0)), Hold::Input);
        assert_eq!(sender.hold(|| false, ms(0)), Hold::Window);
        for _ in 0..3 {
            sender.input(10);
        }
        assert_eq!(sender.hold(|| true, ms(0)), Hold::Links);
        while sender.poll_data(A, ms(0)).is_some() {}
        assert_eq!((sender.hold(|| true, ms(0)), sender.gate()), (Hold::Window, Some(A)));
        sender.handle_ack(A, &Ack { delivered: 0, received: 20, credit: 20, frames: 2 }, ms(1)).unwrap();
        assert_eq!((sender.hold(|| true, ms(1)), sender.gate()), (Hold::Output, None));
        sender.handle_ack(A, &Ack { delivered: 20, received: 20, credit: 40, frames: 2 }, ms(1)).unwrap();
        sender.input_end(0);
        sender.poll_data(A, ms(2));
        assert_eq!(sender.hold(|| true, ms(2)), Hold::Links);
        sender.handle_ack(A, &Ack { delivered: 20, received: 30, credit: 40, frames: 3 }, ms(3)).unwrap();
        assert_eq!(sender.hold(|| true, ms(3)), Hold::Output);
    }
}
