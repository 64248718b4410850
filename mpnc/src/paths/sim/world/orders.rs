//! What the path manager orders, carried out; and how a connection comes about, or does not.
//!
//! Must not know why anything is ordered.

use super::{BLOCK, CONNECT, Dial, WINDOW, World};
use crate::paths::{Access, Fact, Failure, Order, SlotId, Up};
use crate::transfer::sim::link::{mix, ms};
use crate::transfer::{StreamId, Terms};
use std::net::SocketAddr;
use std::time::Duration;

impl World {
    // --- connections -------------------------------------------------------------------------------------------------

    fn is_taken(&self, port: u16) -> bool {
        mix(self.squat_seed ^ u64::from(port)) % 100 < self.squatted
            || self.net.conns.values().any(|conn| conn.port == port)
            || self.dials.iter().any(|dial| dial.port == port)
    }

    fn open(&mut self, slot: SlotId, port: Option<u16>) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let drawn = 45_000 + u16::try_from(self.rng.below(15_000)).unwrap();
        let port = port.unwrap_or_else(|| (drawn..u16::MAX).find(|port| !self.is_taken(*port)).unwrap());
        let fails = if self.is_taken(port) {
            Some(Failure::PortTaken)
        } else if self.filter && !self.spare.contains(port) && port < 45_000 {
            Some(Failure::NoAnswer)
        } else {
            self.rng.chance(self.refused).then_some(Failure::Closed)
        };
        if fails != Some(Failure::PortTaken) {
            self.books.opens.push(self.now);
        }
        let seen = self.net.seen_port(port, &mut self.rng);
        let next = match fails {
            Some(Failure::PortTaken) => self.now,
            Some(Failure::NoAnswer) => self.now + CONNECT,
            _ => self.now + self.net.delay * 2,
        };
        self.dials.push(Dial { slot, id, port, seen, begun: self.now, answered: false, next, fails });
    }

    pub(super) fn dial(&mut self) {
        let due: Vec<Dial> = self.dials.extract_if(.., |dial| dial.next <= self.now).collect();
        for mut dial in due {
            let passes = (0..2).all(|to| self.net.passes(self.net.path(dial.port, dial.seen, dial.id.0, to), to));
            let fails = dial.fails.filter(|failure| *failure != Failure::Closed || dial.answered);
            let late = self.now.since(dial.begun) >= CONNECT;
            if let Some(failure) = fails.or_else(|| late.then_some(Failure::NoAnswer)) {
                if failure != Failure::PortTaken {
                    self.books.losses.push(self.now);
                }
                self.fact(Fact::Failed(dial.slot, failure));
            } else if !passes {
                dial.next = (self.now + Duration::from_secs(1)).min(dial.begun + CONNECT);
                self.dials.push(dial);
            } else if !dial.answered {
                self.fact(Fact::Answered(dial.slot));
                (dial.answered, dial.next) = (true, self.now + self.net.delay * 2);
                self.dials.push(dial);
            } else {
                self.up(&dial);
            }
        }
    }

    fn up(&mut self, dial: &Dial) {
        self.net.open(dial.id, dial.port, dial.seen, &mut self.rng, self.now);
        let bonds = [self.net.hosts[0].facts(), self.told_bond];
        for i in 0..2 {
            let terms = Terms { window: WINDOW, block: u32::try_from(BLOCK).unwrap(), bond: bonds[1 - i] };
            let time = self.sides[i].time(self.now);
            assert!(self.sides[i].session.stream_up(dial.id, &terms, time));
            self.sides[i].touch(self.now);
        }
        let seen = SocketAddr::new(self.net.seen_addr(), dial.seen);
        self.fact(Fact::Up(Up { slot: dial.slot, id: dial.id, port: dial.port, seen }));
    }

    // --- orders ------------------------------------------------------------------------------------------------------

    pub(super) fn obey(&mut self) {
        while let Some(order) = self.paths.poll_order() {
            if !matches!(order, Order::Read(_) | Order::Say(_) | Order::Name(..)) {
                self.quiet = self.now;
            }
            if self.trace {
                eprintln!("{:9.3} {order:?}", self.now.0.as_secs_f64());
            }
            match order {
                Order::Open { slot, port, .. } => self.open(slot, port),
                Order::Abandon(slot) => self.dials.retain(|dial| dial.slot != slot),
                Order::Retire(id) => self.sides[0].session.retire(id),
                Order::Close(id) => self.down(id, 0, false),
                Order::Pin(id) => {
                    if let Some(conn) = self.net.conns.get_mut(&id) {
                        conn.pinned = true;
                    }
                }
                Order::Access(access) => {
                    self.books.access = Some(access);
                    let session = &mut self.sides[0].session;
                    match access {
                        Access::All => session.release(),
                        Access::Nobody => session.pause(),
                        Access::Only(id, bytes) => session.burst(id, bytes),
                    }
                }
                Order::Read(stamp) => {
                    let at = self.now + ms(self.rng.below(5));
                    self.reads.push((at, stamp));
                }
                Order::Name(..) => {}
                Order::Say(finding) => {
                    self.books.said.push(finding.clone());
                    self.books.all_said.push(finding);
                }
                Order::GiveUp(failure) => self.books.gave_up = Some(failure),
            }
        }
    }
}
