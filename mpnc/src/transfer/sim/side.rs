//! One simulated process: a session, its input and output, and books of its own about which bytes are where. The books
//! know what a session is for and nothing of how it does it; they are what a run is judged by.

use super::link::{Parcel, Rng, combine, ms, payload};
use super::world::TIMEOUT;
use super::{Arrival, Awake, BTreeMap, Config, End, Extent, Output, Session, Time, Transmit};
use crate::wire::Fault;
use std::collections::VecDeque;

pub(crate) struct Side {
    pub(crate) session: Session,
    window: u64,
    block: u64,
    /// All that the input will give, what is still to come, and when.
    pub(crate) input: u64,
    left: u64,
    input_at: Time,
    /// Stands for the checksum of all that was read.
    read: u32,
    /// Blocks held for sending; must stay within the window.
    held: u64,
    /// What has arrived and is not written: offset to length and payload.
    store: BTreeMap<u64, (u32, u64)>,
    stored: u64,
    /// To be written, and when the output is ready for the next.
    to_write: VecDeque<Output>,
    output_at: Time,
    output_fails_at: Option<u64>,
    /// Input and output keep it waiting now and then.
    pub(crate) pauses: bool,
    /// Bytes written so far, checked to be consecutive.
    pub(crate) out: u64,
    /// Stands for the checksum of them all.
    wrote: u32,
    pub(crate) end: Option<End>,
    /// When anything last arrived, or a stream came or went, as it counts time.
    touched: Time,
    /// Its own time.
    clock: Awake,
    /// Until when it does not run.
    pub(crate) asleep: Time,
}

impl Side {
    pub(crate) fn new(config: Config, block: u64, input: u64, output_fails_at: Option<u64>) -> Self {
        Self {
            session: Session::new(config, Time::default()),
            window: config.window,
            block,
            input,
            left: input,
            input_at: Time::default(),
            read: 0,
            held: 0,
            store: BTreeMap::new(),
            stored: 0,
            to_write: VecDeque::new(),
            output_at: Time::default(),
            output_fails_at,
            pauses: true,
            out: 0,
            wrote: 0,
            end: None,
            touched: Time::default(),
            clock: Awake::default(),
            asleep: Time::default(),
        }
    }

    /// It runs at `now`, and has a look at its clock: what that says.
    pub(crate) fn wake(&mut self, now: Time) -> Time {
        self.clock.look(now);
        self.clock.at(now)
    }

    /// What its clock says at `now`.
    pub(crate) fn time(&self, now: Time) -> Time {
        self.clock.at(now)
    }

    /// Something arrives, or a stream comes or goes.
    pub(crate) fn touch(&mut self, now: Time) {
        self.touched = self.clock.at(now);
    }

    /// The input ends here.
    pub(crate) fn stop_input(&mut self) {
        self.input -= self.left;
        self.left = 0;
    }

    /// The input gives nothing until then.
    pub(crate) fn starve(&mut self, until: Time) {
        self.input_at = until;
    }

    fn reads(&self) -> bool {
        self.end.is_none() && self.session.sender().is_some_and(|tx| tx.total().is_none())
    }

    /// Reads input while a buffer is free.
    pub(crate) fn read(&mut self, rng: &mut Rng, now: Time) {
        while self.reads() && self.input_at <= now && self.held + self.block <= self.window {
            if self.left == 0 {
                self.session.input_end(self.read);
                return;
            }
            let len = if rng.chance(80) { self.block } else { 1 + rng.below(self.block) }.min(self.left);
            let Some(extent) = self.session.input(u32::try_from(len).unwrap()) else { return };
            self.read = combine(self.read, payload(extent));
            self.left -= len;
            // A buffer is a whole block, however little is in it.
            self.held += self.block;
            if self.pauses && rng.chance(3) {
                self.input_at = now + ms(rng.below(100));
            }
        }
    }

    /// Takes in data with this payload, whose checksum was right; answers whether it was here already.
    pub(crate) fn take_in(&mut self, id: super::StreamId, extent: Extent, payload: u64) -> bool {
        self.session.judge(extent).expect("an honest peer is never blamed");
        let arrival = self.session.handle_data(id, extent).expect("an honest peer is never blamed");
        if arrival == Arrival::Fresh {
            self.stored += u64::from(extent.len);
            assert!(self.stored <= self.window, "{} bytes are held in a window of {}", self.stored, self.window);
            assert_eq!(self.store.insert(extent.offset, (extent.len, payload)), None, "nothing is kept twice");
        }
        arrival == Arrival::Duplicate
    }

    /// A buffer comes back from the session of side `own`: the other side must have what was in it.
    pub(crate) fn release(sides: &mut [Self; 2], own: usize, extent: Extent) {
        let other = &sides[1 - own];
        let kept = other.store.get(&extent.offset).is_some_and(|(len, _)| *len == extent.len);
        assert!(kept || extent.end().unwrap() <= other.out, "{extent:?} is given up before the peer has it");
        sides[own].held -= sides[own].block;
    }

    /// Writes what is in order.
    pub(crate) fn write(&mut self, rng: &mut Rng, now: Time) {
        while let Some(output) = self.session.poll_output() {
            self.to_write.push_back(output);
        }
        while self.output_at <= now && self.end.is_none() {
            match self.to_write.pop_front() {
                Some(Output::Write(extent)) => {
                    assert_eq!(extent.offset, self.out, "the output has no gap and no repetition");
                    let (len, bytes) = self.store.remove(&extent.offset).expect("only what has arrived is written");
                    assert_eq!((len, bytes), (extent.len, payload(extent)), "wrong bytes at {}", extent.offset);
                    self.stored -= u64::from(len);
                    self.out += u64::from(len);
                    self.wrote = combine(self.wrote, bytes);
                    if self.output_fails_at.is_some_and(|at| self.out > at) {
                        self.session.fail(Fault::new(Fault::OUTPUT, "disk full"));
                        return;
                    }
                    self.session.written(extent);
                }
                Some(Output::Finish { crc }) => {
                    assert_eq!(crc, self.wrote, "the whole is not what was sent");
                    self.session.output_finished();
                }
                None => return,
            }
            if self.pauses && rng.chance(2) {
                // A slow disk, or a reader that stalls for longer than any timeout.
                let stall = if rng.chance(2) { 40_000 } else { 200 };
                self.output_at = now + ms(rng.below(stall));
            }
        }
    }

    /// When it has something to do by itself.
    pub(crate) fn next_time(&self, now: Time) -> Option<Time> {
        if self.asleep > now {
            return Some(self.asleep);
        }
        let running = self.end.is_none();
        let writes = (running && !self.to_write.is_empty()).then_some(self.output_at);
        let reads = (self.reads() && self.held + self.block <= self.window).then_some(self.input_at);
        let due = |at: Time| now + at.since(self.clock.at(now));
        let session = self.session.poll_timeout().filter(|_| running).map(due);
        session.into_iter().chain(writes).chain(reads).min()
    }

    /// Silence is not waited out for longer than was agreed.
    pub(crate) fn check_patience(&self, now: Time) {
        let waited = self.clock.at(now).since(self.touched);
        assert!(
            self.end.is_some() || waited < TIMEOUT,
            "still waiting after a silence of {waited:?}: {:?}",
            self.session
        );
    }

    /// It has ended with all done: then nothing may be left over.
    pub(crate) fn check_complete(&self, other: &Self) {
        if self.end == Some(End::Complete) {
            assert!(self.session.receiver().is_none() || self.out == other.input, "complete means that all is here");
            assert!(other.session.receiver().is_none() || other.out == self.input, "complete means that all is there");
            assert_eq!(self.stored, 0, "what is written is not kept");
        }
    }
}

/// Data as the shell judges it: the checksum is right or it is not.
pub(crate) fn is_damaged(parcel: &Parcel) -> bool {
    matches!(&parcel.item, Transmit::Data(extent) if payload(*extent) != parcel.payload)
}
