//! The simulated world: time, the two sides, the streams between them, and what befalls these.

use super::link::{Rng, SimStream, ms};
use super::side::{Side, is_damaged};
use super::{BTreeMap, Config, End, Event, StreamId, Terms, Time, Transmit};
use crate::wire::BLOCK_RANGE;
use std::time::Duration;

pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// How much a stream takes before it says that it is full: a socket buffer.
const STREAM_BUFFER: u64 = 600 << 10;
/// More streams than these are not opened.
const STREAMS: usize = 12;
/// A run that takes more steps hangs; the longest of a million seeds took 10,000.
const STEPS: u32 = 1_000_000;

/// How often each kind of thing has happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Happened {
    resets: u64,
    half_deaths: u64,
    stalls: u64,
    holes: u64,
    damages: u64,
    jumps: u64,
    retirements: u64,
    suspicions: u64,
    duplicates: u64,
    outages: u64,
    bursts: u64,
    sleeps: u64,
}

impl Happened {
    fn all(&mut self) -> [&mut u64; 12] {
        [
            &mut self.resets,
            &mut self.half_deaths,
            &mut self.stalls,
            &mut self.holes,
            &mut self.damages,
            &mut self.jumps,
            &mut self.retirements,
            &mut self.suspicions,
            &mut self.duplicates,
            &mut self.outages,
            &mut self.bursts,
            &mut self.sleeps,
        ]
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, more) in self.all().into_iter().zip(other.all()) {
            *sum += *more;
        }
    }

    pub(super) fn everything(mut self) -> bool {
        self.all().iter().all(|count| **count > 0)
    }
}

pub(super) struct World {
    rng: Rng,
    now: Time,
    sides: [Side; 2],
    streams: BTreeMap<StreamId, SimStream>,
    next_stream: u32,
    /// When replacements of lost streams come up.
    replacements: Vec<Time>,
    windows: [u64; 2],
    block: u64,
    faults: bool,
    /// The shell reports what TCP has acknowledged.
    tcp_info: bool,
    /// A run of time in which every link is down.
    outage: Option<(Time, Time)>,
    /// Until when the shell lets one stream send alone, to see where it leaves.
    burst: Option<Time>,
    pub(super) happened: Happened,
}

impl World {
    pub(super) fn new(seed: u64, faults: bool) -> Self {
        let mut rng = Rng::new(seed);
        let block = u64::from(*BLOCK_RANGE.start()) << rng.below(7);
        let windows = [(); 2].map(|()| (block * 2) << rng.below(6));
        let window = windows[1];
        let duplex = rng.chance(25);
        // Now and then a rate at which the whole takes seconds: pauses of the sender's own are no stall.
        let rate = rng.chance(10).then(|| (window * 2).max(1 << 16));
        let total = if rng.chance(10) { rng.below(3) } else { rng.below(window * 6) };
        let back = if duplex { rng.below(windows[0] * 3) } else { 0 };
        let config = |side: usize, sends, receives| Config {
            sends,
            receives,
            any_order: false,
            window: windows[side],
            timeout: TIMEOUT,
            rate,
        };
        let outage = (faults && rng.chance(20)).then(|| {
            let from = Time(ms(rng.below(2000)));
            (from, from + ms(rng.below(50_000)))
        });
        let output_fails_at = (faults && rng.chance(5)).then(|| rng.below(total + 1));
        let mut world = Self {
            now: Time::default(),
            sides: [
                Side::new(config(0, true, duplex), block, total, None),
                Side::new(config(1, duplex, true), block, back, output_fails_at),
            ],
            streams: BTreeMap::new(),
            next_stream: 0,
            replacements: Vec::new(),
            windows,
            block,
            faults,
            tcp_info: rng.chance(50),
            outage,
            burst: None,
            happened: Happened { outages: u64::from(outage.is_some()), ..Happened::default() },
            rng,
        };
        for _ in 0..=world.rng.below(8) {
            let at = Time(ms(world.rng.below(50)));
            world.replacements.push(at);
        }
        world
    }

    /// Two to eight equal streams, all there from the start, more to send than will be; no accidents.
    pub(super) fn with_equal_streams(seed: u64) -> Self {
        let mut world = Self::new(seed, false);
        let block = 256 << 10;
        let window = (block * 16) << world.rng.below(5);
        let config = |sends| Config { sends, receives: !sends, any_order: false, window, timeout: TIMEOUT, rate: None };
        (world.windows, world.block, world.tcp_info) = ([window; 2], block, true);
        world.sides = [Side::new(config(true), block, 1 << 50, None), Side::new(config(false), block, 0, None)];
        world.sides.iter_mut().for_each(|side| side.pauses = false);
        world.replacements.clear();
        let rate = 1000 << world.rng.below(5);
        for _ in 0..2 + world.rng.below(7) {
            world.open_stream(rate * 8, ms(1));
        }
        world
    }

    /// Lets one stream vanish without a word; answers the longest time for which nothing arrived in order afterwards.
    pub(super) fn longest_pause_after_a_stream_vanished(&mut self) -> Duration {
        let from = Time(ms(1000 + self.rng.below(2000)));
        let to = from + ms(5000);
        let (mut received, mut since, mut longest) = (0, from, Duration::ZERO);
        while self.now < to {
            if self.now >= from
                && let Some(mut first) = self.streams.first_entry()
            {
                first.get_mut().stalled = Time(Duration::MAX);
            }
            self.advance();
            let now_received = self.sides[1].out;
            if now_received > received || self.now < from {
                (received, since) = (now_received, self.now);
            }
            longest = longest.max(self.now.since(since));
        }
        longest
    }

    /// Runs to the end of both sides, which now and then sleep both for so long, while the network goes on.
    pub(super) fn run_with_sleeps_of_both(&mut self, span: Duration) {
        while self.sides.iter().any(|side| side.end.is_none()) {
            self.advance();
            if self.rng.chance(5) {
                self.now = self.now + span;
            }
        }
    }

    /// Lets one side sleep for ever; answers how long the other waits for it.
    pub(super) fn wait_for_a_sleeper(&mut self) -> Duration {
        let from = Time(ms(self.rng.below(3000)));
        while self.sides[0].end.is_none() {
            if self.now >= from {
                self.sides[1].asleep = Time(Duration::MAX);
            }
            self.advance();
        }
        assert!(matches!(self.sides[0].end, Some(End::Lost { .. })), "{:?}", self.sides[0].end);
        self.now.since(from)
    }

    /// How both ended; checks what that claims.
    pub(super) fn ends(&self) -> [End; 2] {
        let [a, b] = &self.sides;
        a.check_complete(b);
        b.check_complete(a);
        [a.end.clone().unwrap(), b.end.clone().unwrap()]
    }

    /// Runs to the end of both sides.
    pub(super) fn run(&mut self) {
        for _ in 0..STEPS {
            self.advance();
            if self.sides.iter().all(|side| side.end.is_some()) {
                return;
            }
        }
        panic!("a hang: {:?} {:?}", self.sides[0].session, self.sides[1].session);
    }

    /// Does what is to be done now, and moves on to when something is to be done again.
    fn advance(&mut self) {
        let running = self.sides.iter().all(|side| side.end.is_none() && side.asleep <= self.now);
        if self.burst.take_if(|until| *until <= self.now).is_some() {
            self.sides[0].session.release();
        }
        if running && self.faults {
            self.befall();
        }
        if running && !self.is_out() {
            let due = self.replacements.extract_if(.., |at| *at <= self.now).count();
            for _ in 0..due.min(STREAMS.saturating_sub(self.streams.len())) {
                let (rate, delay) = (1 + (self.block << self.rng.below(8)) / 64, ms(self.rng.below(20)));
                self.open_stream(rate, delay);
            }
        }
        for i in 0..2 {
            if self.sides[i].asleep > self.now {
                continue;
            }
            let time = self.sides[i].wake(self.now);
            self.sides[i].read(&mut self.rng, self.now);
            self.deliver(i);
            self.sides[i].session.handle_timeout(time);
            self.attend(i);
            self.sides[i].check_patience(self.now);
            self.sides[i].write(&mut self.rng, self.now);
            self.transmit(i);
        }
        if self.sides.iter().any(|side| side.end.is_some()) {
            self.close_after_end();
        }
        self.now = self.next_time();
    }

    fn is_out(&self) -> bool {
        self.outage.is_some_and(|(from, to)| from <= self.now && self.now < to)
    }

    fn open_stream(&mut self, rate: u64, delay: Duration) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert(id, SimStream::new(rate, delay, self.now));
        for i in 0..2 {
            let block = u32::try_from(self.block).unwrap();
            let terms = Terms { window: self.windows[1 - i], block, bond: None };
            let time = self.sides[i].time(self.now);
            assert!(self.sides[i].session.stream_up(id, &terms, time));
            self.sides[i].touch(self.now);
        }
    }

    /// Side `i` has closed a stream: what it sent is on its way or lost, and the other side hears of it in time, or
    /// never.
    fn close(&mut self, id: StreamId, i: usize, orderly: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.pipes[i].open = false;
        let there = &mut stream.pipes[1 - i];
        if !orderly {
            let kept = self.rng.below(there.queue.len() as u64 + 1);
            there.queue.truncate(usize::try_from(kept).unwrap());
        }
        let seen_at = there.queue.back().map_or(self.now, |parcel| parcel.at) + stream.delay;
        there.closing.get_or_insert((seen_at, orderly));
        if stream.pipes.iter().all(|pipe| !pipe.open) {
            self.streams.remove(&id);
        }
        if i == 0 && !orderly {
            // The connector opens another.
            self.replacements.push(self.now + ms(1 + self.rng.below(300)));
        }
    }

    /// Side `i` notices that a stream is down.
    fn down(&mut self, id: StreamId, i: usize, orderly: bool) {
        let time = self.sides[i].time(self.now);
        self.sides[i].session.stream_down(id, orderly, time);
        self.sides[i].touch(self.now);
        self.close(id, i, orderly);
    }

    /// Side `i` sees or decides that a stream is dead.
    fn kill(&mut self, id: StreamId, i: usize) {
        if self.streams.get(&id).is_some_and(|stream| stream.pipes[i].open) {
            self.down(id, i, false);
        }
    }

    fn befall(&mut self) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            match self.rng.below(4000) {
                // Reset on both sides at once, or on one, and the other sees it later.
                0 => {
                    self.happened.resets += 1;
                    self.kill(id, 0);
                    self.kill(id, 1);
                }
                1 => {
                    self.happened.half_deaths += 1;
                    let side = usize::from(self.rng.chance(50));
                    self.kill(id, side);
                }
                2..6 => self.stall(id),
                // The plan has changed: a successor, and then the old one retires.
                6..10 if self.streams.len() < STREAMS => {
                    self.happened.retirements += 1;
                    self.open_stream(1 + self.block / 8, ms(5));
                    self.sides[0].session.retire(id);
                }
                10..13 => {
                    self.happened.bursts += 1;
                    self.burst = Some(self.now + ms(self.rng.below(300)));
                    self.sides[0].session.burst(id, self.rng.below(self.block * 3));
                }
                _ => {}
            }
        }
        if self.rng.below(5000) == 0 {
            // The clock jumps: a suspended laptop, a stopped virtual machine.
            self.happened.jumps += 1;
            self.now = self.now + ms(self.rng.below(100_000));
        }
        if self.rng.below(5000) == 0 {
            // One side is stopped, now and then for longer than the other's patience.
            self.happened.sleeps += 1;
            let longest = if self.rng.chance(20) { 100_000 } else { 3000 };
            let side = usize::from(self.rng.chance(50));
            self.sides[side].asleep = self.now + ms(self.rng.below(longest));
        }
    }

    /// Nothing arrives for a while, or never again.
    fn stall(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if self.rng.chance(10) {
            self.happened.holes += 1;
            stream.stalled = self.now + Duration::from_hours(1);
        } else {
            self.happened.stalls += 1;
            stream.stalled = stream.stalled.max(self.now + ms(self.rng.below(6000)));
        }
    }

    fn deliver(&mut self, i: usize) {
        if self.is_out() {
            return;
        }
        let (mut dead, mut closed) = (Vec::new(), Vec::new());
        let [a, b] = &mut self.sides;
        let (side, other) = if i == 0 { (a, b) } else { (b, a) };
        let live = |stream: &SimStream| stream.stalled <= self.now && stream.pipes[i].open;
        let (time, others) = (side.time(self.now), other.time(self.now));
        for (id, stream) in self.streams.iter_mut().filter(|(_, stream)| live(stream)) {
            let mut moved = false;
            while let Some(parcel) = stream.take(i, self.now) {
                moved = true;
                side.session.heard(*id, time);
                side.touch(self.now);
                if is_damaged(&parcel) {
                    self.happened.damages += 1;
                    dead.push(*id);
                    break;
                }
                match parcel.item {
                    Transmit::Data(extent) => {
                        self.happened.duplicates += u64::from(side.take_in(*id, extent, parcel.payload));
                    }
                    Transmit::Frame(frame) => {
                        side.session.handle_frame(*id, frame, time).expect("an honest peer is never blamed");
                    }
                }
            }
            if moved && self.tcp_info && stream.pipes[1 - i].open && other.asleep <= self.now {
                other.session.progress(*id, others);
            }
            let pipe = &stream.pipes[i];
            closed.extend(
                pipe.closing.filter(|(at, _)| pipe.queue.is_empty() && *at <= self.now).map(|end| (*id, end.1)),
            );
        }
        for id in dead {
            self.kill(id, i);
        }
        for (id, orderly) in closed {
            self.down(id, i, orderly);
        }
    }

    /// Acts on what the session says.
    fn attend(&mut self, i: usize) {
        while let Some(event) = self.sides[i].session.poll_event() {
            match event {
                Event::Release(extent) => Side::release(&mut self.sides, i, extent),
                Event::Drop(id) => self.close(id, i, false),
                Event::Retired(id) => {
                    let under_way = self.streams.get(&id).is_some_and(SimStream::has_data);
                    assert!(!under_way, "{id:?} is retired with data under way");
                    self.sides[i].touch(self.now);
                    self.close(id, i, true);
                }
                Event::Suspect(_) => {
                    self.happened.suspicions += 1;
                    self.replacements.push(self.now + ms(50));
                }
                Event::Recovered(_) | Event::Observed(..) | Event::PeerBond(_) => {}
                Event::Ended(end) => self.sides[i].end = Some(end),
            }
        }
    }

    fn transmit(&mut self, i: usize) {
        let time = self.sides[i].time(self.now);
        for (id, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.pipes[i].open) {
            while stream.pipes[1 - i].bytes < STREAM_BUFFER {
                let Some(item) = self.sides[i].session.poll_transmit(*id, time) else { break };
                if stream.pipes[1 - i].open {
                    stream.put(1 - i, item, self.faults && self.rng.below(3000) == 0, self.now);
                }
            }
        }
    }

    fn next_time(&self) -> Time {
        let arrivals = self.streams.values().flat_map(|stream| [stream.next_time(0), stream.next_time(1)]).flatten();
        let sides = self.sides.iter().filter_map(|side| side.next_time(self.now));
        let later = arrivals.chain(sides).chain(self.replacements.iter().copied()).chain(self.burst);
        let later = later.filter(|at| *at > self.now);
        // A millisecond: nothing here is as exact as that, and every step costs.
        let (soon, late) = (self.now + ms(1), self.now + ms(100));
        later.chain(self.outage.map(|(_, to)| to).filter(|to| *to > self.now)).min().unwrap_or(late).clamp(soon, late)
    }

    /// A side that has ended flushes, closes its streams and is gone.
    fn close_after_end(&mut self) {
        for i in 0..2 {
            let gone = self.sides[i].end.is_some();
            let flushed =
                self.streams.iter().filter(|(_, s)| gone && s.pipes[i].open && s.pipes[1 - i].queue.is_empty());
            let flushed: Vec<StreamId> = flushed.map(|(id, _)| *id).collect();
            for id in flushed {
                self.close(id, i, true);
            }
        }
    }
}
