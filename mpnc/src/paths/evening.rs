//! Even at both ends: where streams leave is computed, where they arrive is seen by the receiver, and streams that
//! crowd one of its slaves are replaced by others of the same sending slave until the arrivals are even too. The
//! receiver is the listener, which tells, or, where only the listener sends, this host itself.
//!
//! The switch's hash towards the receiver cannot be read. It can only be tried, with a stated number of tries, several
//! at a time. Must not know how streams are opened and let go.

use super::survey::TRIES_PER_SLAVE;
use super::{Finding, MAX_STREAMS, SlotId};
use crate::bond::is_even;
use crate::transfer::{StreamId, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How many tries are under way at a time, for each slave of the receiver.
const AT_ONCE_PER_SLAVE: u16 = 2;
/// A try whose arrival is not told by then has failed. A receiver that must go by counters takes two seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// On which slave of the receiver each stream arrives, as far as that is told.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrivals {
    places: BTreeMap<StreamId, (u16, u16)>,
    /// How many slaves there are, as it was told last.
    slaves: u16,
}

impl Arrivals {
    pub(super) fn hear(&mut self, stream: StreamId, slave: u16, slaves: u16) {
        // Nobody has more streams than that, so more links make no difference.
        if slave < slaves && slaves <= MAX_STREAMS {
            self.slaves = slaves;
            self.places.insert(stream, (slave, slaves));
        }
    }

    /// How many slaves the receiver has, as it was told last.
    pub(super) fn slaves(&self) -> u16 {
        self.slaves
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        self.places.remove(&stream);
    }

    /// On which slave, of how many, unless that was told of other links than there are now.
    pub(super) fn place(&self, stream: StreamId) -> Option<(u16, u16)> {
        self.places.get(&stream).copied().filter(|(_, slaves)| *slaves == self.slaves)
    }
}

/// A slot, as it arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat {
    pub(super) slot: SlotId,
    /// The sending slave that it is planned for.
    pub(super) leaves: Option<u16>,
    /// The lane that its source port names.
    pub(super) lane: u16,
    pub(super) arrives: Option<u16>,
    /// It is there to see where it arrives, since then.
    pub(super) probe: Option<Time>,
    /// It has a stream.
    pub(super) up: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Wait,
    /// The first is of the plan from now on, in place of the second.
    Replace(SlotId, SlotId),
    /// This probe is of no use.
    Close(SlotId),
    /// One more stream of the same sending slave as each of these.
    Open(Vec<SlotId>, Finding),
    /// There is no more to be had.
    Over(Option<Finding>),
}

/// How far the search has got.
#[derive(Debug, Default)]
pub(super) struct Evening {
    /// Streams opened to see where they arrive.
    tries: u16,
    /// Of these, those of which the receiver told.
    told: u16,
    over: bool,
}

/// Who receives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Receiver {
    /// Whether that is this host.
    pub(super) here: bool,
    pub(super) at: IpAddr,
    /// Its links are no group to the switch: no port makes a difference.
    pub(super) ungrouped: bool,
    /// How many slaves it has.
    pub(super) slaves: u16,
}

impl Evening {
    /// It is over, for whatever reason.
    pub(super) fn end(&mut self) {
        self.over = true;
    }

    pub(super) fn opened(&mut self, streams: u16) {
        self.tries += streams;
    }

    /// When a probe's time is up.
    pub(super) fn poll_timeout(seats: &[Seat]) -> Option<Time> {
        seats.iter().filter_map(|seat| seat.probe).min().map(|since| since + PATIENCE)
    }

    /// What to do next with these seats.
    pub(super) fn step(&mut self, seats: &[Seat], receiver: Receiver, now: Time) -> Step {
        if let Some(untold) = seats.iter().find(|seat| seat.probe.is_some_and(|since| now.since(since) >= PATIENCE)) {
            return Step::Close(untold.slot);
        }
        let Some(counts) = arrivals(seats, receiver.slaves) else { return Step::Wait };
        if let Some(probe) = seats.iter().find(|seat| seat.probe.is_some() && seat.arrives.is_some()) {
            self.told += 1;
            let rival = crowded_rival(seats, probe, &counts);
            return rival.map_or(Step::Close(probe.slot), |rival| Step::Replace(probe.slot, rival));
        }
        if self.over || is_even(&counts) || seats.iter().any(|seat| seat.probe.is_some()) {
            return Step::Wait;
        }
        if receiver.ungrouped {
            return Step::Over(None);
        }
        let left = (TRIES_PER_SLAVE * receiver.slaves).saturating_sub(self.tries);
        if left == 0 {
            return Step::Over(Some(self.verdict(&counts, receiver)));
        }
        let models = crowded(seats, &counts);
        let wanted = usize::from(left.min(AT_ONCE_PER_SLAVE * receiver.slaves));
        let models: Vec<SlotId> = models.iter().copied().cycle().take(wanted).collect();
        let finding = Finding::Probing { streams: models.len(), arrivals: counts };
        if models.is_empty() { Step::Wait } else { Step::Open(models, finding) }
    }

    /// What is said when nothing better was found.
    fn verdict(&self, counts: &[u16], receiver: Receiver) -> Finding {
        let Self { tries, told, .. } = *self;
        if told < tries / 2 {
            return Finding::ArrivalsUntold { tries, told };
        }
        let mut used = (0..receiver.slaves).zip(counts).filter(|(_, count)| **count > 0).map(|(slave, _)| slave);
        match (used.next(), used.next()) {
            (Some(slave), None) => {
                let (here, at, slaves) = (receiver.here, receiver.at, receiver.slaves);
                Finding::ArriveOnOne { slave, slaves, told, here, at }
            }
            _ => Finding::ArriveUnevenly { arrivals: counts.to_vec(), told, here: receiver.here },
        }
    }
}

/// Streams for each slave of the receiver; `None` unless it is known of every stream of the plan.
fn arrivals(seats: &[Seat], slaves: u16) -> Option<Vec<u16>> {
    let mut counts = vec![0; usize::from(slaves)];
    for seat in seats.iter().filter(|seat| seat.probe.is_none()) {
        *counts.get_mut(usize::from(seat.arrives.filter(|_| seat.up)?))? += 1;
    }
    (slaves > 1).then_some(counts)
}

/// Those that arrive where there are two more than elsewhere.
fn crowded(seats: &[Seat], counts: &[u16]) -> Vec<SlotId> {
    let least = counts.iter().min().copied().unwrap_or(0);
    let is_crowded = |seat: &&Seat| there(seat, counts) >= least + 2;
    seats.iter().filter(|seat| seat.probe.is_none()).filter(is_crowded).map(|seat| seat.slot).collect()
}

/// Streams where this one arrives.
fn there(seat: &Seat, counts: &[u16]) -> u16 {
    seat.arrives.and_then(|slave| counts.get(usize::from(slave))).copied().unwrap_or(0)
}

/// The slot that a probe had better replace: of the same sending slave and lane, arriving where two more are.
fn crowded_rival(seats: &[Seat], probe: &Seat, counts: &[u16]) -> Option<SlotId> {
    let enough = there(probe, counts) + 2;
    let rivals =
        seats.iter().filter(|seat| seat.probe.is_none() && (seat.leaves, seat.lane) == (probe.leaves, probe.lane));
    let rivals = rivals.filter(|seat| there(seat, counts) >= enough);
    rivals.max_by_key(|seat| there(seat, counts)).map(|seat| seat.slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVER: Receiver =
        Receiver { here: false, at: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), ungrouped: false, slaves: 2 };

    fn seat(slot: u64, leaves: u16, arrives: u16) -> Seat {
        Seat { slot: SlotId(slot), leaves: Some(leaves), lane: leaves, arrives: Some(arrives), probe: None, up: true }
    }

    #[test]
    fn crowded_streams_are_replaced_by_others_of_the_same_sending_slave() {
        let (mut evening, now) = (Evening::default(), Time::default());
        let mut seats = vec![seat(0, 0, 1), seat(1, 1, 1)];
        let Step::Open(models, _) = evening.step(&seats, RECEIVER, now) else { panic!() };
        assert_eq!(models, [SlotId(0), SlotId(1), SlotId(0), SlotId(1)]);
        evening.opened(4);
        seats.push(Seat { probe: Some(now), ..seat(2, 1, 0) });
        assert_eq!(evening.step(&seats, RECEIVER, now), Step::Replace(SlotId(2), SlotId(1)));
        seats.remove(1);
        seats[1].probe = None;
        seats.push(Seat { probe: Some(now), ..seat(3, 0, 1) });
        assert_eq!(evening.step(&seats, RECEIVER, now), Step::Close(SlotId(3)));
    }

    #[test]
    fn what_nobody_tells_of_is_closed_in_time_and_tries_come_to_an_end() {
        let (mut evening, now) = (Evening::default(), Time::default());
        let mut seats = vec![seat(0, 0, 1), seat(1, 1, 1)];
        for _ in 0..4 {
            assert!(matches!(evening.step(&seats, RECEIVER, now), Step::Open(models, _) if models.len() == 4));
            evening.opened(4);
        }
        seats.push(Seat { probe: Some(now), arrives: None, up: false, ..seat(2, 1, 0) });
        assert_eq!(evening.step(&seats, RECEIVER, now), Step::Wait);
        assert_eq!(evening.step(&seats, RECEIVER, now + PATIENCE), Step::Close(SlotId(2)));
        seats.pop();
        let untold = Finding::ArrivalsUntold { tries: 16, told: 0 };
        assert_eq!(evening.step(&seats, RECEIVER, now), Step::Over(Some(untold)));
    }
}
