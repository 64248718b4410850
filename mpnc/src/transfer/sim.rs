//! Whole transfers in simulated time: two sessions joined by streams that are slow, stall, die, damage data and come back, all from one seed.
//!
//! Every run must deliver exactly the input, or both sides must say that they failed; and no side may ever hold more than its window.
//! A failure prints its seed; `MPNC_SIM_SEED=<seed>` replays it alone, `MPNC_SIM_RUNS=<n>` sets how many seeds a test tries.

use super::*;
use crate::wire::{BLOCK_RANGE, Fault, Frame};
use std::collections::{BTreeMap, VecDeque};

/// SplitMix64 (Steele, Lea, Flood 2014): enough randomness for a simulation, and the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

use std::time::Duration;

/// One direction of one stream.
#[derive(Default)]
struct Pipe {
    /// What is under way: arrival time, what, damaged.
    queue: VecDeque<(Time, Transmit, bool)>,
    bytes: u64,
    /// When the link is free for the next frame.
    free: Time,
}

struct SimStream {
    /// Towards side 0, towards side 1.
    pipes: [Pipe; 2],
    /// Bytes a millisecond.
    rate: u64,
    delay: Duration,
    /// Until when nothing arrives.
    stalled: Time,
}

struct Side {
    session: Session,
    /// Bytes still to come from the input, and when.
    input: u64,
    input_at: Time,
    /// Blocks held for sending; must stay within the window.
    held: u64,
    /// To be written, and when the output is ready for the next.
    to_write: VecDeque<Output>,
    output_at: Time,
    /// Bytes written so far, checked to be consecutive.
    out: u64,
    end: Option<End>,
}

struct World {
    rng: Rng,
    now: Time,
    sides: [Side; 2],
    streams: BTreeMap<StreamId, SimStream>,
    next_stream: u32,
    /// When replacements of lost streams come up.
    replacements: Vec<Time>,
    window: u64,
    block: u64,
    faults: bool,
    /// A run of time in which every link is down.
    outage: Option<(Time, Time)>,
    output_fails_at: Option<u64>,
}

const TIMEOUT: Duration = Duration::from_secs(30);
/// How much a stream takes before it says that it is full: a socket buffer.
const STREAM_BUFFER: u64 = 600 << 10;

impl World {
    fn new(seed: u64, faults: bool) -> Self {
        let mut rng = Rng(seed);
        let block = u64::from(*BLOCK_RANGE.start()) << rng.below(7);
        let window = (block * 2) << rng.below(8);
        let duplex = rng.chance(25);
        // Now and then a rate at which the whole takes seconds: pauses of the sender's own are no stall.
        let rate = rng.chance(10).then(|| (window * 2).max(1 << 16));
        let total = if rng.chance(10) { rng.below(3) } else { rng.below(window * 6) };
        let config = |sends, receives| Config { sends, receives, window, timeout: TIMEOUT, rate };
        let side = |sends, receives, input| Side {
            session: Session::new(config(sends, receives), Time::default()),
            input,
            input_at: Time::default(),
            held: 0,
            to_write: VecDeque::new(),
            output_at: Time::default(),
            out: 0,
            end: None,
        };
        let back = if duplex { rng.below(window * 3) } else { 0 };
        let outage = (faults && rng.chance(20)).then(|| {
            let from = Time(ms(rng.below(2000)));
            (from, from + ms(rng.below(50_000)))
        });
        let output_fails_at = (faults && rng.chance(5)).then(|| rng.below(total + 1));
        let mut world = Self {
            now: Time::default(),
            sides: [side(true, duplex, total), side(duplex, true, back)],
            streams: BTreeMap::new(),
            next_stream: 0,
            replacements: Vec::new(),
            window,
            block,
            faults,
            outage,
            output_fails_at,
            rng,
        };
        for _ in 0..=world.rng.below(8) {
            let at = Time(ms(world.rng.below(50)));
            world.replacements.push(at);
        }
        world
    }

    fn is_out(&self) -> bool {
        self.outage.is_some_and(|(from, to)| from <= self.now && self.now < to)
    }

    fn open_stream(&mut self) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let pipe = || Pipe { queue: VecDeque::new(), bytes: 0, free: self.now };
        let stream = SimStream {
            pipes: [pipe(), pipe()],
            rate: 1 + (self.block << self.rng.below(8)) / 64,
            delay: ms(self.rng.below(20)),
            stalled: self.now,
        };
        self.streams.insert(id, stream);
        let terms = Terms { window: self.window, block: u32::try_from(self.block).unwrap(), bond: None };
        for side in &mut self.sides {
            side.session.stream_up(id, &terms, self.now);
        }
    }

    fn kill_stream(&mut self, id: StreamId) {
        if self.streams.remove(&id).is_some() {
            let orderly = self.rng.chance(10) && self.streams.len() > 1;
            for side in &mut self.sides {
                side.session.stream_down(id, orderly, self.now);
            }
            let at = self.now + ms(1 + self.rng.below(300));
            self.replacements.push(at);
        }
    }

    fn inject(&mut self) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            match self.rng.below(2000) {
                0 => self.kill_stream(id),
                // The plan has changed: a successor, and then the old one retires.
                3 | 4 if self.streams.len() < 12 => {
                    self.open_stream();
                    self.sides[0].session.retire(id);
                }
                1 | 2 => {
                    let until = self.now + ms(self.rng.below(6000));
                    self.streams.get_mut(&id).unwrap().stalled = until;
                }
                _ => {}
            }
        }
        if self.rng.below(5000) == 0 {
            // The clock jumps: a suspended laptop, a stopped virtual machine.
            self.now = self.now + ms(self.rng.below(3000));
        }
    }

    /// Reads input, writes output, moves frames; answers when the next thing can happen.
    fn step(&mut self) -> Option<Time> {
        if self.faults && self.sides.iter().all(|side| side.end.is_none()) {
            self.inject();
        }
        if !self.is_out() && self.sides.iter().all(|side| side.end.is_none()) {
            let room = 12usize.saturating_sub(self.streams.len());
            let due = self.replacements.iter().filter(|at| **at <= self.now).count();
            self.replacements.retain(|at| *at > self.now);
            (0..due.min(room)).for_each(|_| self.open_stream());
        }
        for i in 0..2 {
            self.feed(i);
            self.deliver(i);
            self.sides[i].session.handle_timeout(self.now);
            self.drain(i);
            self.write(i);
            self.transmit(i);
        }
        self.next_time()
    }

    fn feed(&mut self, i: usize) {
        let (now, window, block) = (self.now, self.window, self.block);
        let side = &mut self.sides[i];
        while side.session.sender().is_some_and(|tx| tx.total().is_none())
            && side.input_at <= now
            && side.held + block <= window
        {
            if side.input == 0 {
                side.session.input_end();
                return;
            }
            let len = if self.rng.chance(80) { block } else { 1 + self.rng.below(block) }.min(side.input);
            if side.session.input(u32::try_from(len).unwrap()).is_none() {
                return;
            }
            side.input -= len;
            // A buffer is a whole block, however little is in it.
            side.held += block;
            if self.rng.chance(3) {
                side.input_at = now + ms(self.rng.below(100));
            }
        }
    }

    fn deliver(&mut self, i: usize) {
        if self.is_out() {
            return;
        }
        let now = self.now;
        let mut dead = Vec::new();
        for (id, stream) in self.streams.iter_mut().filter(|(_, stream)| stream.stalled <= now) {
            let pipe = &mut stream.pipes[i];
            while let Some((_, item, damaged)) = pipe.queue.pop_front_if(|(at, ..)| *at <= now) {
                pipe.bytes -= weight(&item);
                let side = &mut self.sides[i];
                side.session.heard(*id, now);
                match item {
                    Transmit::Data(_) if damaged => {
                        dead.push(*id);
                        break;
                    }
                    Transmit::Data(extent) => {
                        side.session.judge(extent).expect("an honest peer is never blamed");
                        side.session.handle_data(*id, extent).expect("an honest peer is never blamed");
                    }
                    Transmit::Frame(frame) => {
                        side.session.handle_frame(*id, frame, now).expect("an honest peer is never blamed");
                    }
                }
            }
        }
        for id in dead {
            self.kill_stream(id);
        }
    }

    fn drain(&mut self, i: usize) {
        let mut drop = Vec::new();
        let block = self.block;
        let side = &mut self.sides[i];
        while let Some(event) = side.session.poll_event() {
            match event {
                Event::Release(_) => side.held -= block,
                Event::Drop(id) => drop.push(id),
                // The other side closes when its own half is flushed; nothing may be lost by then.
                Event::Retired(_) => {}
                Event::Suspect(_) => self.replacements.push(self.now + ms(50)),
                Event::Ended(end) => side.end = Some(end),
            }
        }
        while let Some(output) = side.session.poll_output() {
            side.to_write.push_back(output);
        }
        for id in drop {
            self.kill_stream(id);
        }
    }

    fn write(&mut self, i: usize) {
        let side = &mut self.sides[i];
        if let Some(rx) = side.session.receiver() {
            assert!(rx.received() - rx.delivered() <= self.window, "the window is never exceeded");
        }
        while side.output_at <= self.now && side.end.is_none() {
            match side.to_write.pop_front() {
                Some(Output::Write(extent)) => {
                    assert_eq!(extent.offset, side.out, "the output has no gap and no repetition");
                    side.out += u64::from(extent.len);
                    if i == 1 && self.output_fails_at.is_some_and(|at| side.out > at) {
                        side.session.fail(Fault::new(Fault::OUTPUT, "disk full"));
                        return;
                    }
                    side.session.written(side.out);
                }
                Some(Output::Finish) => side.session.output_finished(),
                None => return,
            }
            if self.rng.chance(2) {
                // A slow disk, or a reader that stalls for longer than any timeout.
                let stall = if self.rng.chance(2) { 40_000 } else { 200 };
                side.output_at = self.now + ms(self.rng.below(stall));
            }
        }
    }

    fn transmit(&mut self, i: usize) {
        let now = self.now;
        for (id, stream) in &mut self.streams {
            let pipe = &mut stream.pipes[1 - i];
            while pipe.bytes < STREAM_BUFFER {
                let Some(item) = self.sides[i].session.poll_transmit(*id, now) else { break };
                let weight = weight(&item);
                pipe.free = pipe.free.max(now) + Duration::from_micros(weight * 1000 / stream.rate);
                pipe.bytes += weight;
                let damaged = self.faults && self.rng.below(3000) == 0;
                pipe.queue.push_back((pipe.free + stream.delay, item, damaged));
            }
        }
    }

    fn next_time(&self) -> Option<Time> {
        let mut times: Vec<Time> = self.replacements.clone();
        for (i, side) in self.sides.iter().enumerate() {
            if side.end.is_none() {
                times.extend(side.session.poll_timeout());
                if !side.to_write.is_empty() {
                    times.push(side.output_at);
                }
                times.extend(side.session.sender().filter(|tx| tx.total().is_none()).map(|_| side.input_at));
            }
            let arrivals = self
                .streams
                .values()
                .filter_map(|stream| stream.pipes[i].queue.front().map(|(at, ..)| (*at).max(stream.stalled)));
            times.extend(arrivals);
        }
        times.retain(|at| *at > self.now);
        times.extend(self.outage.map(|(_, to)| to).filter(|to| *to > self.now));
        times.into_iter().min().map(|at| at.max(self.now + Duration::from_micros(200)))
    }

    /// Runs to the end of both sides.
    fn run(&mut self) {
        for _ in 0..2_000_000 {
            let next = self.step();
            if self.sides.iter().all(|side| side.end.is_some()) {
                return;
            }
            if self.sides.iter().any(|side| side.end.is_some()) {
                self.close_after_end();
            }
            self.now = next
                .unwrap_or_else(|| self.now + ms(100))
                .min(self.now + ms(100))
                .max(self.now + Duration::from_micros(1));
        }
        panic!("a hang: {:?} {:?}", self.sides[0].session, self.sides[1].session);
    }

    /// A side that has ended flushes, closes its streams and is gone.
    fn close_after_end(&mut self) {
        let gone = usize::from(self.sides[0].end.is_none());
        let flushed: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.pipes[1 - gone].queue.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in flushed {
            self.streams.remove(&id);
            self.sides[1 - gone].session.stream_down(id, true, self.now);
        }
    }
}

fn weight(item: &Transmit) -> u64 {
    match item {
        Transmit::Data(extent) => u64::from(extent.len) + 24,
        Transmit::Frame(Frame::Ack(_)) => 48,
        Transmit::Frame(_) => 24,
    }
}

/// One transfer from one seed.
fn check(seed: u64, faults: bool) -> [End; 2] {
    let mut world = World::new(seed, faults);
    let inputs = [world.sides[0].input, world.sides[1].input];
    world.run();
    let [a, b] = &world.sides;
    let ends = [a.end.clone().unwrap(), b.end.clone().unwrap()];
    for (i, (this, other)) in [(a, b), (b, a)].into_iter().enumerate() {
        if ends[i] == End::Complete {
            assert!(this.session.receiver().is_none() || this.out == inputs[1 - i], "complete means that all is here");
            assert!(other.session.receiver().is_none() || other.out == inputs[i], "complete means that all is there");
        }
    }
    if !faults {
        assert_eq!(ends, [End::Complete, End::Complete], "without faults every transfer completes");
    }
    // One side may complete where the other could not hear of it any more; but then the other knows that it has all.
    match &ends {
        [End::Complete, End::Complete | End::Unconfirmed] | [End::Unconfirmed, End::Complete] => {}
        [End::Complete, other] | [other, End::Complete] => panic!("one side completed, the other ended with {other:?}"),
        _ => {}
    }
    ends
}

fn runs(default: u64) -> u64 {
    std::env::var("MPNC_SIM_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Runs `check` for many seeds and names the one that fails.
fn check_seeds(name: &str, n: u64, faults: bool) -> Vec<[End; 2]> {
    if let Some(seed) = std::env::var("MPNC_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return vec![check(seed, faults)];
    }
    let seeds = (0..n).map(|i| i.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ n);
    seeds
        .map(|seed| {
            std::panic::catch_unwind(|| check(seed, faults)).unwrap_or_else(|_| {
                panic!("{name} failed: MPNC_SIM_SEED={seed} replays it");
            })
        })
        .collect()
}

#[test]
fn healthy_streams_of_any_speed_deliver_everything() {
    check_seeds("healthy", runs(2000), false);
}

#[test]
fn streams_that_die_stall_and_damage_data_lose_nothing() {
    let n = runs(2000);
    let ends = check_seeds("faults", n, true);
    let complete = ends.iter().filter(|ends| **ends == [End::Complete, End::Complete]).count();
    // The faults must be survivable as a rule, or the test would only show that sessions can fail.
    assert!(ends.len() == 1 || complete * 10 > ends.len() * 7, "only {complete} of {} completed", ends.len());
}
