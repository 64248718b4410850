//! A slot is a place for one stream: opened from its source port, kept up, replaced when it fails. This has all of
//! them, and the ports.
//!
//! Must not know why there are as many as there are.

use super::backoff::{Backoff, OF_STREAMS};
use super::order::{Order, Orders};
use super::reconcile::{Change, Held};
use super::{Epoch, Failure, SlotId, Up};
use crate::bond::{Addressing, Pair, Planned, Planner};
use crate::transfer::{StreamId, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Ports tried for one stream at a time before it counts as failed.
const PORT_TRIES: u16 = 64;

/// What a slot is for. Given as a whole, with the plan it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is of the plan.
    Planned,
    /// It is there to see where it arrives: since when, and under which plan.
    Probe(Time, Epoch),
    /// It is there to see by which slave it leaves.
    Candidate,
}

/// The stream that a slot has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) id: StreamId,
    /// Its source port, here and as the peer sees it.
    pub(super) port: u16,
    pub(super) seen: u16,
    healthy: bool,
}

/// What is done to get one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dial {
    /// Nothing.
    Idle,
    /// A connection is on its way; whether it has been answered.
    UnderWay { answered: bool },
    /// The last one came to nothing, or its stream did: the next is due then.
    Paused(Time),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) planned: Planned,
    pub(super) purpose: Purpose,
    pub(super) live: Option<Live>,
    dial: Dial,
    backoff: Backoff,
    /// Ports tried for the connection that is on its way.
    tries: u16,
    /// Ports that did not serve since it last had a stream: they are not tried again while there are others.
    spent: Vec<u16>,
}

impl Slot {
    /// With the port that its stream really has.
    pub(super) fn held(&self, slot: SlotId) -> Held {
        let port = self.planned.port.or_else(|| self.live.map(|live| live.port));
        Held { slot, planned: Planned { port, ..self.planned }, alive: self.is_alive() }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.live.is_some() || self.is_dialling()
    }

    /// Whether its stream, if it has one, has the port that is planned.
    pub(super) fn lies_right(&self) -> bool {
        self.live.is_none_or(|live| self.planned.port.is_none_or(|port| port == live.port))
    }

    pub(super) fn is_dialling(&self) -> bool {
        matches!(self.dial, Dial::UnderWay { .. })
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        let spent = self.spent.iter().copied();
        self.planned.port.into_iter().chain(self.live.map(|live| live.port)).chain(spent)
    }
}

/// See the module documentation.
pub(super) struct Slots {
    map: BTreeMap<SlotId, Slot>,
    next: u64,
    pub(super) planner: Planner,
    pub(super) source: Option<IpAddr>,
    /// Which addresses a stream takes, where there is a choice.
    pub(super) addressing: Option<Arc<Addressing>>,
}

impl Slots {
    pub(super) fn new(planner: Planner, source: Option<IpAddr>) -> Self {
        Self { map: BTreeMap::new(), next: 0, planner, source, addressing: None }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.map.iter().map(|(id, slot)| (*id, slot))
    }

    pub(super) fn get_mut(&mut self, slot: SlotId) -> Option<&mut Slot> {
        self.map.get_mut(&slot)
    }

    pub(super) fn get(&self, slot: SlotId) -> Option<&Slot> {
        self.map.get(&slot)
    }

    pub(super) fn len(&self) -> u16 {
        u16::try_from(self.map.len()).unwrap_or(u16::MAX)
    }

    /// Streams that are up, by slot.
    pub(super) fn live(&self) -> impl Iterator<Item = (SlotId, &Slot, Live)> {
        self.iter().filter_map(|(id, slot)| Some((id, slot, slot.live?)))
    }

    /// What is there, for a plan: those of the last plan first, then the oldest.
    pub(super) fn held(&self) -> Vec<Held> {
        let mut slots: Vec<(SlotId, &Slot)> = self.iter().collect();
        slots.sort_by_key(|(id, slot)| (slot.purpose != Purpose::Planned, *id));
        slots.into_iter().map(|(id, slot)| slot.held(id)).collect()
    }

    /// These pairs of addresses may be used from now on; streams that are there stay between those that they have.
    pub(super) fn readdress(&mut self, pairs: &[Pair]) {
        if self.addressing.as_ref().is_none_or(|known| known.pairs() != pairs) {
            let in_use: Vec<u16> = self.map.values().flat_map(Slot::ports).collect();
            self.addressing = Addressing::new(pairs, in_use);
        }
    }

    /// Whether a stream from this port goes between the addresses that the session began with.
    pub(super) fn is_ordinary(&self, port: u16) -> bool {
        self.addressing.as_ref().is_none_or(|addressing| addressing.is_ordinary(port))
    }

    // --- more and fewer ----------------------------------------------------------------------------------------------

    /// Another slot, and a connection for it.
    pub(super) fn add(&mut self, planned: Planned, purpose: Purpose, out: &mut Orders) -> SlotId {
        let id = SlotId(self.next);
        self.next += 1;
        let (dial, backoff) = (Dial::Idle, Backoff::new(OF_STREAMS));
        self.map.insert(id, Slot { planned, purpose, live: None, dial, backoff, tries: 0, spent: Vec::new() });
        self.open(id, out);
        id
    }

    /// A slot is no longer needed: its stream finishes what it has.
    pub(super) fn remove(&mut self, slot: SlotId, out: &mut Orders) {
        let Some(gone) = self.map.remove(&slot) else { return };
        if gone.is_dialling() {
            out.push(Order::Abandon(slot));
        }
        if let Some(live) = gone.live {
            out.push(Order::Retire(live.id));
        }
        gone.ports().for_each(|port| self.give_back(port));
    }

    /// Carries out what a plan means; answers how many connections that takes.
    pub(super) fn apply(&mut self, changes: Vec<Change>, out: &mut Orders) -> u16 {
        let mut opened = 0;
        for change in changes {
            match change {
                Change::Keep(slot, planned) => {
                    if let Some(slot) = self.map.get_mut(&slot) {
                        // With the port that the kernel chose, if it did: the next must lead where this one does.
                        (slot.planned, slot.purpose) = (planned, Purpose::Planned);
                    }
                }
                Change::Reassign(slot, planned) => {
                    self.reassign(slot, planned, out);
                    opened += 1;
                }
                Change::Open(planned) => {
                    self.add(planned, Purpose::Planned, out);
                    opened += 1;
                }
                Change::Drop(slot) => self.remove(slot, out),
            }
        }
        opened
    }

    fn reassign(&mut self, id: SlotId, planned: Planned, out: &mut Orders) {
        let Some(slot) = self.map.get_mut(&id) else { return };
        let old = std::mem::replace(&mut slot.planned, planned).port;
        slot.purpose = Purpose::Planned;
        if slot.is_dialling() {
            out.push(Order::Abandon(id));
        }
        let spent = std::mem::take(&mut slot.spent);
        for port in old.into_iter().chain(spent) {
            self.give_back(port);
        }
        self.open(id, out);
    }

    /// A port is free again, unless some slot has it.
    fn give_back(&mut self, port: u16) {
        if !self.map.values().any(|slot| slot.ports().any(|used| used == port)) {
            self.planner.give_back(port);
        }
    }

    // --- connections -------------------------------------------------------------------------------------------------

    fn open(&mut self, id: SlotId, out: &mut Orders) {
        let source = self.source;
        let Some(slot) = self.map.get_mut(&id) else { return };
        slot.dial = Dial::UnderWay { answered: false };
        let port = slot.planned.port;
        let pair = port.and_then(|port| self.addressing.as_ref()?.of(port));
        let (source, target) = pair.map_or((source, None), |pair| (Some(pair.src), Some(pair.dst)));
        out.push(Order::Open { slot: id, source, target, port });
    }

    /// Opens from the next source port of the same slave: the old one may be what a device in between has closed its
    /// mind about.
    pub(super) fn open_next(&mut self, id: SlotId, out: &mut Orders) {
        self.next_port(id);
        if let Some(slot) = self.map.get_mut(&id) {
            slot.tries = 0;
        }
        self.open(id, out);
    }

    /// Whether there is another port, or the kernel chooses anyway.
    fn next_port(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.map.get_mut(&id) else { return false };
        let planned = slot.planned;
        let Some(next) = self.planner.replace(&planned).or_else(|| self.begin_again(id, &planned)) else {
            return false;
        };
        if let Some(slot) = self.map.get_mut(&id) {
            let old = std::mem::replace(&mut slot.planned, next).port;
            slot.spent.extend(old.filter(|old| next.port != Some(*old)));
        }
        true
    }

    /// Every port of its slave has been tried: those that did not serve once may do so now.
    fn begin_again(&mut self, id: SlotId, planned: &Planned) -> Option<Planned> {
        for port in std::mem::take(&mut self.map.get_mut(&id)?.spent) {
            self.give_back(port);
        }
        self.planner.replace(planned)
    }

    pub(super) fn answered(&mut self, id: SlotId) {
        if let Some(Slot { dial: Dial::UnderWay { answered }, .. }) = self.map.get_mut(&id) {
            *answered = true;
        }
    }

    /// Whether no connection has got as far as an answer.
    pub(super) fn is_unanswered(&self) -> bool {
        let answered = |slot: &Slot| slot.live.is_some() || slot.dial == Dial::UnderWay { answered: true };
        !self.map.values().any(answered)
    }

    /// A connection came to nothing. True if that is all there is to it: another port is being tried.
    pub(super) fn failed(&mut self, id: SlotId, failure: Failure, now: Time, out: &mut Orders) -> bool {
        let Some(slot) = self.map.get_mut(&id).filter(|slot| slot.is_dialling()) else { return true };
        slot.tries += 1;
        if failure == Failure::PortTaken && slot.tries < PORT_TRIES && self.next_port(id) {
            self.open(id, out);
            return true;
        }
        // One that was opened beside a stream that is as it should be is not needed any more.
        match self.map.get_mut(&id) {
            Some(slot) if slot.live.is_some_and(|live| live.healthy) && slot.lies_right() => slot.dial = Dial::Idle,
            _ => self.pause(id, now),
        }
        false
    }

    fn pause(&mut self, id: SlotId, now: Time) {
        if let Some(slot) = self.map.get_mut(&id) {
            slot.tries = 0;
            slot.dial = Dial::Paused(now + slot.backoff.pause(now));
        }
    }

    /// Whether some connection is on its way.
    pub(super) fn are_dialling(&self) -> bool {
        self.map.values().any(Slot::is_dialling)
    }

    // --- streams -----------------------------------------------------------------------------------------------------

    /// A stream is up, in the place of the one before. False if nobody wants it any more.
    pub(super) fn up(&mut self, up: &Up, now: Time, out: &mut Orders) -> bool {
        let Some(slot) = self.map.get_mut(&up.slot) else { return false };
        (slot.dial, slot.tries) = (Dial::Idle, 0);
        slot.backoff.up(now);
        let spent = std::mem::take(&mut slot.spent);
        let live = Live { id: up.id, port: up.port, seen: up.seen.port(), healthy: true };
        if let Some(old) = slot.live.replace(live) {
            // A suspect's blocks are with others already.
            out.push(if old.healthy { Order::Retire(old.id) } else { Order::Close(old.id) });
            self.give_back(old.port);
        }
        for port in spent {
            self.give_back(port);
        }
        true
    }

    /// The slot of a stream.
    fn of_stream(&self, id: StreamId) -> Option<SlotId> {
        self.live().find(|(_, _, live)| live.id == id).map(|(slot, _, _)| slot)
    }

    /// A stream is gone: another is due after a pause.
    pub(super) fn down(&mut self, id: StreamId, now: Time) {
        let Some(found) = self.of_stream(id) else { return };
        let Some(slot) = self.map.get_mut(&found) else { return };
        let port = slot.live.take().map(|live| live.port);
        if slot.dial == Dial::Idle {
            self.pause(found, now);
        }
        if let Some(port) = port {
            self.give_back(port);
        }
    }

    /// A stream is suspect: its successor is opened beside it, unless it recovers first.
    pub(super) fn suspect(&mut self, id: StreamId, now: Time) {
        let Some(found) = self.of_stream(id) else { return };
        let Some(Slot { live: Some(live), dial, .. }) = self.map.get_mut(&found) else { return };
        live.healthy = false;
        if *dial == Dial::Idle {
            self.pause(found, now);
        }
    }

    pub(super) fn recovered(&mut self, id: StreamId) {
        let Some(slot) = self.of_stream(id).and_then(|slot| self.map.get_mut(&slot)) else { return };
        if let Some(live) = &mut slot.live {
            live.healthy = true;
        }
        // Where another port is planned by now, its stream is still to come.
        if slot.lies_right() && matches!(slot.dial, Dial::Paused(_)) {
            slot.dial = Dial::Idle;
        }
    }

    /// Opens what is due.
    pub(super) fn reopen(&mut self, now: Time, out: &mut Orders) {
        let due = |slot: &Slot| matches!(slot.dial, Dial::Paused(until) if until <= now);
        let due: Vec<SlotId> = self.iter().filter(|(_, slot)| due(slot)).map(|(id, _)| id).collect();
        for id in due {
            self.open_next(id, out);
        }
    }

    /// When the next is due.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let due = |slot: &Slot| if let Dial::Paused(until) = slot.dial { Some(until) } else { None };
        self.map.values().filter_map(due).min()
    }
}
