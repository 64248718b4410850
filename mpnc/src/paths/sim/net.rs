//! Connections over the links of both hosts: what is on its way, by which links, and what happens to it when one of
//! them fails. Must not know why anything is sent.

use super::host::{Host, Spreads};
use crate::bond::Sway;
use crate::transfer::sim::link::{Rng, ms, payload};
use crate::transfer::{StreamId, Time, Transmit};
use crate::wire::Frame;
use mpnc_ebpf::flow::Flow;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

pub(super) const DPORT: u16 = 5001;
/// How much a connection takes before it says that it is full: a socket buffer.
pub(super) const BUFFER: u64 = 200 << 10;

/// What rewrites addresses and ports on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nat {
    None,
    /// The address alone, beyond the bond.
    Address,
    /// Address and port, beyond the bond.
    Beyond,
    /// Port, in the host itself: its bond sees the new one.
    Host,
}

pub(super) struct Parcel {
    pub(super) at: Time,
    pub(super) item: Transmit,
    pub(super) payload: u64,
}

/// One direction of one connection.
pub(super) struct Pipe {
    pub(super) queue: VecDeque<Parcel>,
    pub(super) bytes: u64,
    /// Whether the end that receives has it open.
    pub(super) open: bool,
    /// The far end has closed: when that is seen, and whether in good order.
    pub(super) closing: Option<(Time, bool)>,
    /// Payload that has arrived.
    pub(super) arrived: u64,
    /// By which links it leaves and arrives now.
    pub(super) route: Option<(usize, usize)>,
}

pub(super) struct Conn {
    pub(super) port: u16,
    pub(super) seen: u16,
    /// Towards side 0, towards side 1.
    pub(super) pipes: [Pipe; 2],
    lots: [u32; 2],
    pub(super) pinned: bool,
    /// Until when nothing arrives.
    stalled: Time,
}

pub(super) struct Net {
    pub(super) hosts: [Host; 2],
    pub(super) spreads: [Spreads; 2],
    pub(super) nat: Nat,
    pub(super) conns: BTreeMap<StreamId, Conn>,
    pub(super) delay: Duration,
    /// Bytes that host 0 has sent by each link, and of each source port.
    pub(super) sent: Vec<u64>,
    pub(super) by_port: BTreeMap<(u16, usize), u64>,
    /// When each host's links are free, in each direction.
    free: [Vec<[Time; 2]>; 2],
    turn: u32,
    /// A connection has drawn its slave again.
    pub(super) redrawn: bool,
}

impl Net {
    pub(super) fn new(hosts: [Host; 2], spreads: [Spreads; 2], nat: Nat, delay: Duration) -> Self {
        let free = [0, 1].map(|h: usize| vec![[Time::default(); 2]; hosts[h].links.len()]);
        let sent = vec![0; hosts[0].links.len()];
        Self {
            hosts,
            spreads,
            nat,
            conns: BTreeMap::new(),
            delay,
            sent,
            by_port: BTreeMap::new(),
            free,
            turn: 0,
            redrawn: false,
        }
    }

    /// The address that host 1 sees of host 0.
    pub(super) fn seen_addr(&self) -> IpAddr {
        let translated = matches!(self.nat, Nat::Address | Nat::Beyond);
        if translated { IpAddr::from([192, 0, 2, 77]) } else { self.hosts[0].addr }
    }

    pub(super) fn seen_port(&self, port: u16, rng: &mut Rng) -> u16 {
        let translated = matches!(self.nat, Nat::Host | Nat::Beyond);
        if translated { 40_000 + u16::try_from(rng.below(20_000)).unwrap() } else { port }
    }

    pub(super) fn open(&mut self, id: StreamId, port: u16, seen: u16, rng: &mut Rng, now: Time) {
        let pipe = || Pipe { queue: VecDeque::new(), bytes: 0, open: true, closing: None, arrived: 0, route: None };
        let lots = [(); 2].map(|()| u32::try_from(rng.below(1 << 24)).unwrap());
        let conn = Conn { port, seen, pipes: [pipe(), pipe()], lots, pinned: false, stalled: now };
        self.conns.insert(id, conn);
        self.route(id);
    }

    /// By which links a connection from this port goes towards side `to`; `None` if that is none.
    pub(super) fn path(&self, port: u16, seen: u16, lot: u32, to: usize) -> Option<(usize, usize)> {
        let flow = |addr, port| Flow::new(addr, self.hosts[1].addr, port, DPORT);
        let near = flow(self.hosts[0].addr, if self.nat == Nat::Host { seen } else { port })?;
        let far = flow(self.seen_addr(), seen)?;
        let [a, b] = &self.hosts;
        if to == 1 {
            Some((a.sends_by(&near, lot, b.mac)?, self.spreads[1].to(b, &far)?))
        } else {
            Some((b.sends_by(&far.reversed(), lot, a.mac)?, self.spreads[0].to(a, &near.reversed())?))
        }
    }

    fn route(&mut self, id: StreamId) {
        let Some(conn) = self.conns.get(&id) else { return };
        let routes = [0, 1].map(|to| self.path(conn.port, conn.seen, conn.lots[1 - to], to));
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.pipes.iter_mut().zip(routes).for_each(|(pipe, route)| pipe.route = route);
        }
    }

    /// Links or settings are others now.
    pub(super) fn reroute(&mut self) {
        let ids: Vec<StreamId> = self.conns.keys().copied().collect();
        for id in ids {
            self.route(id);
        }
    }

    /// Whether a connection over these links gets through, towards side `to`.
    pub(super) fn passes(&self, route: Option<(usize, usize)>, to: usize) -> bool {
        route.is_some_and(|(out, into)| self.hosts[1 - to].links[out].up && self.hosts[to].links[into].up)
    }

    /// What is on broken links stays there; when they are back, or the hash has moved it, TCP takes a while to notice.
    pub(super) fn stall(&mut self, rng: &mut Rng, now: Time) {
        let mut stuck = Vec::new();
        for (id, conn) in &self.conns {
            if !(0..2).all(|to| self.passes(conn.pipes[to].route, to)) {
                stuck.push(*id);
            }
        }
        let drawn = [0, 1].map(|h: usize| self.hosts[h].bond.sway() == Sway::Drawn);
        for id in stuck {
            let Some(conn) = self.conns.get_mut(&id) else { continue };
            let draws = conn.stalled <= now;
            conn.stalled = now + ms(200 + rng.below(200));
            if draws && !conn.pinned {
                // The kernel draws again after a timeout.
                for (lot, _) in conn.lots.iter_mut().zip(drawn).filter(|(_, drawn)| *drawn) {
                    *lot = u32::try_from(rng.below(1 << 24)).unwrap();
                    self.redrawn = true;
                }
            }
        }
        if drawn != [false; 2] {
            self.reroute();
        }
    }

    /// Puts something on the way towards side `to`.
    pub(super) fn put(&mut self, id: StreamId, to: usize, item: Transmit, now: Time) {
        let weight = weight(&item);
        if self.hosts[1 - to].bond.sway() == Sway::PerPacket {
            self.turn = self.turn.wrapping_add(1);
            let turn = self.turn;
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.lots[1 - to] = turn;
            }
            self.route(id);
        }
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let pipe = &mut conn.pipes[to];
        let mut at = now;
        if let Some((out, into)) = pipe.route {
            for (host, link, way) in [(1 - to, out, 0), (to, into, 1)] {
                let free = &mut self.free[host][link][way];
                *free = (*free).max(at) + Duration::from_micros(weight * 1000 / self.hosts[host].links[link].rate);
                // A switch passes on what it has before the whole has come.
                at = if way == 0 { at } else { *free };
                at = at.max(*free);
            }
            if to == 1 {
                self.sent[out] += weight;
                let port = if self.nat == Nat::Host { conn.seen } else { conn.port };
                *self.by_port.entry((port, out)).or_default() += weight;
            }
        }
        let at = pipe.queue.back().map_or(at, |last| last.at.max(at)) + Duration::ZERO;
        let payload = if let Transmit::Data(extent) = &item { payload(*extent) } else { 0 };
        pipe.bytes += weight;
        pipe.queue.push_back(Parcel { at: at + self.delay, item, payload });
    }

    /// Whether something is on its way towards side `to` and not stuck.
    pub(super) fn gets_on(&self, id: StreamId, to: usize, now: Time) -> bool {
        let conn = self.conns.get(&id).filter(|conn| conn.stalled <= now && conn.pipes[1 - to].open);
        conn.is_some_and(|conn| conn.pipes[to].open && !conn.pipes[to].queue.is_empty())
    }

    /// The next thing that has arrived at side `to`.
    pub(super) fn take(&mut self, id: StreamId, to: usize, now: Time) -> Option<Parcel> {
        let conn = self.conns.get_mut(&id).filter(|conn| conn.stalled <= now)?;
        let pipe = &mut conn.pipes[to];
        let parcel = pipe.queue.pop_front_if(|parcel| parcel.at <= now && pipe.open)?;
        pipe.bytes -= weight(&parcel.item);
        if let Transmit::Data(extent) = &parcel.item {
            pipe.arrived += u64::from(extent.len);
        }
        Some(parcel)
    }

    /// Side `i` has closed a connection: what it sent is on its way or lost, and the other side hears of it.
    pub(super) fn close(&mut self, id: StreamId, i: usize, orderly: bool, now: Time) {
        let delay = self.delay;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.pipes[i].open = false;
        let there = &mut conn.pipes[1 - i];
        if !orderly {
            there.queue.clear();
        }
        let seen_at = there.queue.back().map_or(now, |parcel| parcel.at) + delay;
        there.closing.get_or_insert((seen_at, orderly));
        if conn.pipes.iter().all(|pipe| !pipe.open) {
            self.conns.remove(&id);
        }
    }

    /// Connections whose end side `i` sees now; whether it came in good order.
    pub(super) fn closed(&self, i: usize, now: Time) -> Vec<(StreamId, bool)> {
        let end = |conn: &Conn| {
            let pipe = &conn.pipes[i];
            let seen = pipe.closing.filter(|(at, _)| pipe.open && pipe.queue.is_empty() && *at <= now)?;
            (conn.stalled <= now).then_some(seen.1)
        };
        self.conns.iter().filter_map(|(id, conn)| Some((*id, end(conn)?))).collect()
    }

    /// When something arrives next.
    pub(super) fn next_time(&self) -> Option<Time> {
        let next = |conn: &Conn| {
            let of = |pipe: &Pipe| {
                let end = || pipe.closing.map(|(at, _)| at);
                pipe.queue.front().map(|parcel| parcel.at).or_else(end).filter(|_| pipe.open)
            };
            let earliest = conn.pipes.iter().filter_map(of).min()?;
            Some(earliest.max(conn.stalled))
        };
        self.conns.values().filter_map(next).min()
    }
}

fn weight(item: &Transmit) -> u64 {
    match item {
        Transmit::Data(extent) => u64::from(extent.len) + 24,
        Transmit::Frame(Frame::Ack(_)) => 48,
        Transmit::Frame(_) => 24,
    }
}
