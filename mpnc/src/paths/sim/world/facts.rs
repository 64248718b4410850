//! What the path manager is told: of the way out, of arrivals here and there, of the gauge. What is told late or
//! wrongly is the peer's doing, and that is here too.
//!
//! Must not know what comes of it.

use super::super::script::{Lie, Peer, Sight};
use super::{BLOCK, LOOK, World, fingerprint};
use crate::bond::{ByteOrder, Era, KernelHash, Mode, Policy, Stacking};
use crate::paths::slots::Purpose;
use crate::paths::{Access, Counted, Fact, MAX_STREAMS, Reading, Stamp};
use crate::transfer::sim::link::{Rng, ms};
use crate::transfer::{Sender, StreamId, Time};
use crate::wire::{BondFacts, Means, Observation, Place, SlaveCount, Slaves};
use std::time::Duration;

/// What is counted at this pace is told after a while ...
const COUNTING: Duration = Duration::from_secs(2);
/// ... if it is more than this.
const ENOUGH: u64 = 1 << 20;

impl World {
    pub(super) fn tell(&mut self) {
        self.follow_links();
        self.tell_arrivals();
        self.read();
        if self.books.access.is_some_and(|access| access != Access::All)
            && let Some(traffic) = self.sides[0].session.sender().and_then(Sender::traffic)
        {
            self.fact(Fact::Traffic(traffic));
        }
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        if self.trace && !matches!(fact, Fact::Traffic(_)) {
            eprintln!("{:9.3}     {fact:?}", self.now.0.as_secs_f64());
        }
        self.paths.handle(fact, self.now);
        self.note_width();
    }

    pub(super) fn note_width(&mut self) {
        let planned = self.paths.slots().iter().filter(|(_, slot)| slot.purpose == Purpose::Planned).count();
        self.books.widest = self.books.widest.max(u16::try_from(planned).unwrap());
    }

    fn follow_links(&mut self) {
        let now = self.now;
        if self.follow[0].due.take_if(|due| *due <= now).is_some() && !self.net.hosts[0].usable().is_empty() {
            self.quiet = now;
            let way = self.knowledge.way(&self.net.hosts[0]);
            let told = fingerprint(&way);
            if told != self.told_way {
                (self.told_way, self.told_links) = (told, self.net.hosts[0].usable());
                self.follow[0].told = Some(now);
                self.books.said.clear();
                self.books.planned += usize::from(MAX_STREAMS.min(way.streams.max(self.paths.slots().len())));
                self.fact(Fact::Way(way));
            }
        }
        if self.follow[1].due.take_if(|due| *due <= now).is_some() {
            self.quiet = now;
            let facts = self.net.hosts[1].facts();
            let Some(facts) = facts.filter(|_| matches!(self.peer, Peer::Honest(..))) else { return };
            if self.told_bond.is_some_and(|told| told != facts) {
                self.told_bond = Some(facts);
                self.follow[1].told = Some(now);
                self.sides[1].session.tell_bond(facts);
            }
        }
    }

    /// What is seen of arrivals here.
    fn tell_arrivals(&mut self) {
        if self.ways.0 {
            return;
        }
        let told: Vec<(StreamId, (u16, u16))> = self.seen.iter().map(|(id, seen)| (*id, *seen)).collect();
        for (stream, place) in told {
            if self.heard.insert(stream, place) != Some(place) {
                let (slave, slaves) = place;
                self.fact(Fact::Arrival { stream, slave, slaves });
            }
        }
    }

    /// The receiver looks where streams arrive.
    pub(super) fn look(&mut self) {
        if self.now < self.next_look {
            return;
        }
        let liar = if let Peer::Liar(lie) = self.peer { Some(lie) } else { None };
        self.next_look = self.now + if liar.is_some() { ms(20) } else { LOOK };
        let receiver = usize::from(self.ways.0);
        if let Some(lie) = liar {
            self.lie(lie);
        }
        let (sight, late) = match self.peer {
            Peer::Honest(sight, late) => (sight, late),
            // What it tells is nothing to what is seen here.
            _ if receiver == 0 => (Sight::Queue, ms(0)),
            _ => return,
        };
        let usable = self.net.hosts[receiver].usable();
        let Ok(slaves) = u16::try_from(usable.len()) else { return };
        let counts = sight == Sight::Counters && self.now.since(self.counted.0) >= COUNTING;
        let mut found = Vec::new();
        for (id, conn) in &self.net.conns {
            let pipe = &conn.pipes[receiver];
            let Some((_, link)) = pipe.route else { continue };
            let enough = match sight {
                Sight::Queue => self.net.passes(pipe.route, receiver),
                Sight::Counters => {
                    counts && pipe.arrived - self.counted.1.get(id).copied().unwrap_or(0) >= ENOUGH.min(BLOCK)
                }
            };
            let index = usable.iter().position(|usable| *usable == link);
            if let Some(slave) = index.filter(|_| enough && self.now >= Time(late)) {
                found.push((*id, (u16::try_from(slave).unwrap(), slaves)));
            }
        }
        if counts {
            let arrived = |(id, conn): (&StreamId, &super::super::net::Conn)| (*id, conn.pipes[receiver].arrived);
            self.counted = (self.now, self.net.conns.iter().map(arrived).collect());
        }
        self.seen.retain(|id, _| self.net.conns.contains_key(id));
        for (id, place) in found {
            if self.seen.insert(id, place) != Some(place) && receiver == 1 {
                self.observe(id, place);
            }
        }
    }

    fn observe(&mut self, id: StreamId, (slave, slaves): (u16, u16)) {
        let place = Place::new(slave.into(), slaves.into());
        self.sides[1].session.observe(id, Observation { ifindex: None, place, by: Means::Queue });
    }

    fn lie(&mut self, lie: Lie) {
        let ids: Vec<StreamId> = self.sides[1].session.streams().collect();
        let number = |rng: &mut Rng, most: u64| u16::try_from(rng.below(most)).unwrap();
        for id in ids {
            let slaves = match lie {
                // More does not pass the wire.
                Lie::Huge | Lie::Everything => SlaveCount::MOST,
                Lie::AllOnOne => 4,
                Lie::Flapping => 2 + number(&mut self.rng, 60),
                Lie::Bonds => continue,
            };
            let slave = if lie == Lie::Flapping { number(&mut self.rng, slaves.into()) } else { 0 };
            self.observe(id, (slave, slaves));
        }
        if matches!(lie, Lie::Bonds | Lie::Everything) {
            let byte = |rng: &mut Rng, most: u64| u8::try_from(rng.below(most)).unwrap();
            let count = SlaveCount::new(1 + usize::from(byte(&mut self.rng, 255))).unwrap();
            let mode = [4, 2, 0, byte(&mut self.rng, 9)][usize::from(id_of(self.now))];
            let facts = BondFacts {
                slaves: Slaves::alike(count),
                mode: Mode::from_number(mode),
                policy: Policy::from_u32(byte(&mut self.rng, 2).into()),
                stacking: Some(Stacking::Plain),
                dynamic_lb: true,
                kernel: Era::from_u32(byte(&mut self.rng, 6).into()).map(KernelHash::certain),
                order: if self.rng.chance(50) { ByteOrder::Big } else { ByteOrder::Little },
                placed: false,
            };
            self.sides[1].session.tell_bond(facts);
        }
    }

    fn read(&mut self) {
        if self.now.since(self.shown.0) >= self.lag {
            self.shown = (self.now, self.net.sent.clone());
        }
        let due: Vec<Stamp> = self.reads.extract_if(.., |(at, _)| *at <= self.now).map(|(_, stamp)| stamp).collect();
        for stamp in due {
            let counted = match self.knowledge.sees {
                Some(crate::paths::Sees::Slaves) => {
                    Some(Counted::Slaves(self.told_links.iter().map(|link| self.shown.1[*link]).collect()))
                }
                Some(crate::paths::Sees::Streams) => {
                    let index = |link: &usize| self.told_links.iter().position(|told| told == link);
                    let of = |((port, link), bytes): (&(u16, usize), &u64)| {
                        Some(((*port, u16::try_from(index(link)?).ok()?), *bytes))
                    };
                    Some(Counted::Streams(self.net.by_port.iter().filter_map(of).collect()))
                }
                None => None,
            };
            let acked = self.net.conns.iter().map(|(id, conn)| (*id, conn.pipes[1].arrived)).collect();
            self.fact(Fact::Reading(Reading { stamp, counted, acked }));
        }
    }
}

/// Something that changes with time, below four.
fn id_of(now: Time) -> u8 {
    u8::try_from(now.0.as_millis() / 20 % 4).unwrap()
}
