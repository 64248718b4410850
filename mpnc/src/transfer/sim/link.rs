//! What the simulated network is made of: randomness from a seed, and streams with a rate, a delay and ways to fail.
//! Knows nothing of sessions but what they put on a stream.

use super::{Extent, Time, Transmit};
use crate::wire::Frame;
use std::collections::VecDeque;
use std::time::Duration;

/// A number that depends on every bit of another.
pub(crate) fn mix(z: u64) -> u64 {
    fastrand::Rng::with_seed(z).u64(..)
}

/// Randomness from a seed: the same on every machine.
pub(crate) struct Rng(fastrand::Rng);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What stands for the bytes of an extent: the input is a function of the offset.
pub(crate) fn payload(extent: Extent) -> u64 {
    mix(extent.offset ^ mix(u64::from(extent.len)))
}

/// What stands for the checksum of the whole: it depends on every payload and on their order.
pub(crate) fn combine(whole: u32, payload: u64) -> u32 {
    u32::try_from(mix(u64::from(whole) ^ payload) >> 32).unwrap_or(0)
}

/// Something under way.
pub(crate) struct Parcel {
    /// When it arrives.
    pub(crate) at: Time,
    pub(crate) item: Transmit,
    /// For data: see [`payload`].
    pub(crate) payload: u64,
}

/// One direction of one stream.
pub(crate) struct Pipe {
    pub(crate) queue: VecDeque<Parcel>,
    pub(crate) bytes: u64,
    /// When the link is free for the next parcel.
    free: Time,
    /// Whether the end that receives has it open.
    pub(crate) open: bool,
    /// The far end has closed: what is under way still arrives, then the end is seen; whether in good order.
    pub(crate) closing: Option<(Time, bool)>,
}

pub(crate) struct SimStream {
    /// Towards side 0, towards side 1.
    pub(crate) pipes: [Pipe; 2],
    /// Bytes a millisecond.
    rate: u64,
    pub(crate) delay: Duration,
    /// Until when nothing arrives.
    pub(crate) stalled: Time,
}

impl SimStream {
    pub(crate) fn new(rate: u64, delay: Duration, now: Time) -> Self {
        let pipe = || Pipe { queue: VecDeque::new(), bytes: 0, free: now, open: true, closing: None };
        Self { pipes: [pipe(), pipe()], rate, delay, stalled: now }
    }

    /// Puts something on the way towards side `to`.
    pub(crate) fn put(&mut self, to: usize, item: Transmit, damaged: bool, now: Time) {
        let weight = weight(&item);
        let payload = match &item {
            Transmit::Data(extent) => payload(*extent) ^ u64::from(damaged),
            Transmit::Frame(_) => 0,
        };
        let pipe = &mut self.pipes[to];
        pipe.free = pipe.free.max(now) + Duration::from_micros(weight * 1000 / self.rate);
        pipe.bytes += weight;
        pipe.queue.push_back(Parcel { at: pipe.free + self.delay, item, payload });
    }

    /// The next thing that has arrived at side `to`.
    pub(crate) fn take(&mut self, to: usize, now: Time) -> Option<Parcel> {
        let pipe = &mut self.pipes[to];
        let parcel = pipe.queue.pop_front_if(|parcel| parcel.at <= now)?;
        pipe.bytes -= weight(&parcel.item);
        Some(parcel)
    }

    /// Whether data is on its way, in either direction.
    pub(crate) fn has_data(&self) -> bool {
        let mut parcels = self.pipes.iter().flat_map(|pipe| &pipe.queue);
        parcels.any(|parcel| matches!(parcel.item, Transmit::Data(_)))
    }

    /// When something is to be noticed at side `to`.
    pub(crate) fn next_time(&self, to: usize) -> Option<Time> {
        let pipe = &self.pipes[to];
        let end = || pipe.closing.map(|(at, _)| at);
        let next = pipe.queue.front().map(|parcel| parcel.at).or_else(end).filter(|_| pipe.open)?;
        Some(next.max(self.stalled))
    }
}

fn weight(item: &Transmit) -> u64 {
    match item {
        Transmit::Data(extent) => u64::from(extent.len) + 24,
        Transmit::Frame(Frame::Ack(_)) => 48,
        Transmit::Frame(_) => 24,
    }
}
