//! Numbers far beyond any transfer: two sessions that move a petabyte, two that come to the end of 64 bits, two whose
//! streams come and go without end. The core counts extents, so these may be as large as their type allows; nothing
//! else is different from a transfer of megabytes.

use super::{Config, End, Event, Output, REMEMBERED, Session, StreamId, Terms, Time, Transmit};
use std::time::Duration;

const STREAMS: u32 = 4;
const BLOCK: u32 = u32::MAX;
const WINDOW: u64 = 64 * BLOCK as u64;

/// Sender, receiver.
struct Pair {
    sides: [Session; 2],
    ends: [Option<End>; 2],
    now: Time,
    /// Bytes to be read from the input, and whether that is its end.
    left: u64,
    /// Most characters that the sessions' debug form took: it lists every element of every collection.
    largest: usize,
}

impl Pair {
    /// At this offset, with so much to move.
    fn new(offset: u64, left: u64) -> Self {
        let config = |sends| Config {
            sends,
            receives: !sends,
            any_order: false,
            window: WINDOW,
            timeout: Duration::from_secs(30),
            rate: None,
        };
        let mut sides = [true, false].map(|sends| Session::new(config(sends), Time::default()));
        for side in &mut sides {
            side.forward_to(offset);
            let terms = Terms { window: WINDOW, block: BLOCK, bond: None };
            (0..STREAMS).for_each(|id| assert!(side.stream_up(StreamId(id), &terms, Time::default())));
        }
        Self { sides, ends: [None, None], now: Time::default(), left, largest: 0 }
    }

    fn is_running(&self) -> bool {
        self.ends.iter().any(Option::is_none)
    }

    /// One round: input, what each stream carries one way and then the other, output.
    fn round(&mut self, held: &mut u64) {
        self.now = self.now + Duration::from_micros(100);
        while self.left > 0 && *held + u64::from(BLOCK) <= WINDOW {
            let len = u32::try_from(self.left.min(u64::from(BLOCK))).unwrap();
            self.sides[0].input(len).unwrap();
            self.left -= u64::from(len);
            *held += u64::from(len);
        }
        if self.left == 0 {
            self.sides[0].input_end(0);
        }
        self.carry(0);
        self.largest = self.largest.max(if self.now.0.as_micros().is_multiple_of(25_600) { self.size() } else { 0 });
        while let Some(output) = self.sides[1].poll_output() {
            match output {
                Output::Write(extent) => drop(self.sides[1].written(extent)),
                Output::Finish { .. } => self.sides[1].output_finished(),
            }
        }
        self.carry(1);
        for (side, end) in self.sides.iter_mut().zip(&mut self.ends) {
            side.handle_timeout(self.now);
            while let Some(event) = side.poll_event() {
                match event {
                    Event::Release(extent) => *held -= u64::from(extent.len),
                    Event::Ended(how) => *end = Some(how),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// What side `from` has to say, a few things a stream, the last stream's first.
    fn carry(&mut self, from: usize) {
        let [a, b] = &mut self.sides;
        let (from, to) = if from == 0 { (a, b) } else { (b, a) };
        for id in (0..STREAMS).rev().map(StreamId) {
            for _ in 0..4 {
                let Some(item) = from.poll_transmit(id, self.now) else { break };
                to.heard(id, self.now);
                match item {
                    Transmit::Data(extent) => drop(to.handle_data(id, extent).unwrap()),
                    Transmit::Frame(frame) => to.handle_frame(id, frame, self.now).unwrap(),
                }
            }
        }
    }

    fn size(&self) -> usize {
        format!("{:?}", self.sides).len()
    }
}

#[test]
fn a_petabyte_wraps_nothing_and_grows_nothing() {
    const PETABYTE: u64 = 1 << 50;
    let (mut pair, mut held, mut early) = (Pair::new(0, PETABYTE), 0, 0);
    while pair.is_running() {
        pair.round(&mut held);
        if pair.left >= PETABYTE - (PETABYTE >> 4) {
            early = std::mem::take(&mut pair.largest).max(early);
        }
    }
    assert_eq!(pair.ends, [Some(End::Complete), Some(End::Complete)]);
    let [sender, receiver] = &pair.sides;
    assert_eq!((sender.sender().unwrap().delivered(), receiver.receiver().unwrap().delivered()), (PETABYTE, PETABYTE));
    // Numbers grow by some digits, lists may not.
    assert!(early > 0 && pair.largest * 10 <= early * 13, "state grew from {early} to {} characters", pair.largest);
}

#[test]
fn streams_that_come_and_go_for_ever_grow_nothing() {
    let mut pair = Pair::new(0, 0);
    let terms = Terms { window: WINDOW, block: BLOCK, bond: None };
    let sizes = [2000, 20_000].map(|streams| {
        for id in (STREAMS..streams).map(StreamId) {
            for side in &mut pair.sides {
                side.stream_up(id, &terms, pair.now);
                side.stream_down(id, false, pair.now);
                assert!(side.stream_stats().len() <= REMEMBERED + STREAMS as usize);
            }
        }
        pair.size()
    });
    assert!(sizes[1] * 10 <= sizes[0] * 13, "state grew from {} to {} characters", sizes[0], sizes[1]);
}

#[test]
fn the_last_offsets_of_64_bits_are_as_good_as_the_first() {
    let left = 1000 * u64::from(BLOCK);
    let (mut pair, mut held) = (Pair::new(u64::MAX - left, left), 0);
    while pair.is_running() {
        pair.round(&mut held);
    }
    assert_eq!(pair.ends, [Some(End::Complete), Some(End::Complete)]);
    assert_eq!(pair.sides[1].receiver().unwrap().delivered(), u64::MAX);
}
