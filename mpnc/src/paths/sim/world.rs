//! The simulated world: time, two sessions, the path manager of one of them, and what lies between them.
//!
//! It stands for the shell of the path manager: tells facts (`facts`) and carries out orders (`orders`). Here is what
//! befalls it, and what the two sessions do. Must not know what is right: that is `judge`'s.

mod facts;
mod orders;

use super::host::{Host, Knowledge, Settings};
use super::net::{BUFFER, DPORT, Nat, Net};
use super::script::{Change, Peer, Script, Sight};
use crate::bond::{FlowBase, Planner, PortPool};
use crate::paths::{Access, Fact, Failure, Finding, MAX_STREAMS, Paths, Setup, SlotId, Stamp, Way};
use crate::transfer::sim::link::{Rng, ms};
use crate::transfer::sim::side::Side;
use crate::transfer::{Config, End, Event, StreamId, Time, Transmit};
use crate::wire::BondFacts;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
const BLOCK: u64 = 256 << 10;
const WINDOW: u64 = BLOCK * 24;
/// As `discover::follow` has them.
const SETTLE: Duration = Duration::from_millis(50);
const HOLD_DOWN: Duration = Duration::from_secs(1);
/// How often the listener looks where streams arrive.
const LOOK: Duration = Duration::from_millis(100);

/// A connection on its way.
struct Dial {
    slot: SlotId,
    id: StreamId,
    port: u16,
    seen: u16,
    begun: Time,
    answered: bool,
    next: Time,
    /// That is what will become of it.
    fails: Option<Failure>,
}

/// When a host's change is told, and what was told last.
#[derive(Default)]
struct Follow {
    due: Option<Time>,
    told: Option<Time>,
}

/// What is noted of a run.
#[derive(Default)]
pub(super) struct Books {
    /// When connections were begun; a port that was taken at once is none.
    pub(super) opens: Vec<Time>,
    /// Streams that were lost, suspect, or came to nothing: each may be opened again once.
    pub(super) losses: Vec<Time>,
    /// Streams that the plans of this host's own ways asked for.
    pub(super) planned: usize,
    /// What was said since the last change of anything.
    pub(super) said: Vec<Finding>,
    pub(super) all_said: Vec<Finding>,
    pub(super) access: Option<Access>,
    pub(super) gave_up: Option<Failure>,
    /// The most streams that were planned for at a time.
    pub(super) widest: u16,
    /// The peer has lied.
    pub(super) lied: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Time,
    pub(super) sides: [Side; 2],
    pub(super) net: Net,
    pub(super) paths: Paths,
    pub(super) knowledge: Knowledge,
    pub(super) peer: Peer,
    pub(super) ways: (bool, bool),
    pub(super) books: Books,
    /// Nothing has changed, and nothing been ordered, since then.
    pub(super) quiet: Time,
    changes: VecDeque<(Time, Change)>,
    follow: [Follow; 2],
    /// The links that the way told last is about, and what it says.
    told_links: Vec<usize>,
    told_way: String,
    told_bond: Option<BondFacts>,
    dials: Vec<Dial>,
    reads: Vec<(Time, Stamp)>,
    next_stream: u32,
    /// What the listener (or, where it sends, this side) has seen of each stream, and what of that was taken in.
    seen: BTreeMap<StreamId, (u16, u16)>,
    heard: BTreeMap<StreamId, (u16, u16)>,
    counted: (Time, BTreeMap<StreamId, u64>),
    next_look: Time,
    peer_bond: Option<BondFacts>,
    spare: PortPool,
    filter: bool,
    refused: u64,
    squatted: u64,
    squat_seed: u64,
    lag: Duration,
    shown: (Time, Vec<u64>),
    /// A person wants to read along (`MPNC_SIM_TRACE`).
    trace: bool,
}

fn fingerprint(way: &Way) -> String {
    let gauge = way.gauge.as_ref().map(|gauge| &gauge.slaves);
    format!("{:?} {:?} {:?} {gauge:?}", way.source, way.outlook.weights(), way.slaves)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let script = Script::new(&mut rng);
        Self::of(script, rng)
    }

    pub(super) fn of(script: Script, mut rng: Rng) -> Self {
        if std::env::var_os("MPNC_SIM_TRACE").is_some() {
            eprintln!("{script:?}");
        }
        let Script { hosts, spreads, nat, knowledge, peer, changes, delay, ways, pool, spare, .. } = script;
        let way = knowledge.way(&hosts[0]);
        let target = SocketAddr::new(hosts[1].addr, DPORT);
        let base = FlowBase { src: hosts[0].addr, dst: hosts[1].addr, dport: DPORT };
        let mut planner = Planner::new(base, way.outlook.clone(), pool, rng.below(u64::MAX));
        let plan = planner.plan(way.streams.min(MAX_STREAMS), &[]).expect("the pool is wide enough");
        let (sends, receives) = ways;
        let config = |sends, receives| Config {
            sends,
            receives,
            any_order: false,
            window: WINDOW,
            timeout: TIMEOUT,
            rate: None,
        };
        let input = |sends| if sends { 1 << 50 } else { 0 };
        let mut sides = [
            Side::new(config(sends, receives), BLOCK, input(sends), None),
            Side::new(config(receives, sends), BLOCK, input(receives), None),
        ];
        for side in &mut sides {
            side.pauses = false;
        }
        let told_links = hosts[0].usable();
        let told_way = fingerprint(&way);
        let told_bond = Some(&hosts[1]).filter(|_| matches!(peer, Peer::Honest(..))).and_then(Host::facts);
        let stated = knowledge.streams.is_some();
        let net = Net::new(hosts, spreads, nat, delay);
        let books = Books { planned: plan.len(), ..Books::default() };
        let setup =
            Setup { target, way, planner, plan, spare: spare.clone(), sends, receives, stated, timeout: CONNECT };
        Self {
            now: Time::default(),
            paths: Paths::new(setup, Time::default()),
            sides,
            shown: (Time::default(), net.sent.clone()),
            net,
            knowledge,
            peer,
            ways,
            books,
            quiet: Time::default(),
            changes: changes.into(),
            follow: <[Follow; 2]>::default(),
            told_links,
            told_way,
            told_bond,
            dials: Vec::new(),
            reads: Vec::new(),
            next_stream: 0,
            seen: BTreeMap::new(),
            heard: BTreeMap::new(),
            counted: (Time::default(), BTreeMap::new()),
            next_look: Time::default(),
            peer_bond: None,
            spare,
            filter: script.filter,
            refused: script.refused,
            squatted: script.squatted,
            squat_seed: rng.below(u64::MAX),
            lag: script.lag,
            trace: std::env::var_os("MPNC_SIM_TRACE").is_some(),
            rng,
        }
    }

    // --- time --------------------------------------------------------------------------------------------------------

    /// Does what is to be done now, and moves on to when something is to be done again.
    pub(super) fn advance(&mut self) {
        self.befall();
        self.net.stall(&mut self.rng, self.now);
        for i in 0..2 {
            let time = self.sides[i].wake(self.now);
            self.sides[i].read(&mut self.rng, self.now);
            self.deliver(i);
            self.sides[i].session.handle_timeout(time);
            self.attend(i);
            self.sides[i].write(&mut self.rng, self.now);
        }
        self.dial();
        self.look();
        self.tell();
        self.paths.handle_timeout(self.now);
        self.obey();
        self.note_width();
        (0..2).for_each(|i| self.transmit(i));
        self.now = self.next_time();
    }

    fn next_time(&mut self) -> Time {
        let paths = self.paths.poll_timeout(self.now);
        let sides = self.sides.iter().filter_map(|side| side.next_time(self.now));
        let dials = self.dials.iter().map(|dial| dial.next);
        let reads = self.reads.iter().map(|(at, _)| *at);
        let changes = self.changes.front().map(|(at, _)| *at);
        let follow = self.follow.iter().filter_map(|follow| follow.due);
        let all = sides.chain(dials).chain(reads).chain(changes).chain(follow).chain(paths).chain(self.net.next_time());
        let (soon, late) = (self.now + ms(5), self.now + LOOK);
        all.filter(|at| *at > self.now).min().unwrap_or(late).clamp(soon, late)
    }

    // --- what happens ------------------------------------------------------------------------------------------------

    pub(super) fn has_more_to_come(&self) -> bool {
        !self.changes.is_empty() || self.follow.iter().any(|follow| follow.due.is_some())
    }

    fn befall(&mut self) {
        while let Some((_, change)) = self.changes.pop_front_if(|(at, _)| *at <= self.now) {
            self.quiet = self.now;
            if self.trace {
                eprintln!("{:9.3} {change:?}", self.now.0.as_secs_f64());
            }
            match change {
                Change::Link { host, link, up } | Change::Hole { host, link, up } => {
                    self.net.hosts[host].links[link].up = up;
                }
                Change::Noticed { host, link, up } => {
                    self.net.hosts[host].links[link].used = up;
                    self.changed(host);
                }
                Change::Policy { host, policy } => {
                    self.net.hosts[host].bond = Settings { policy, ..self.net.hosts[host].bond };
                    self.changed(host);
                }
                Change::Death => {
                    let ids: Vec<StreamId> = self.net.conns.keys().copied().collect();
                    if !ids.is_empty() {
                        let id = ids[usize::try_from(self.rng.below(ids.len() as u64)).unwrap()];
                        (0..2).for_each(|i| self.down(id, i, false));
                    }
                }
                Change::Starve(span) => {
                    let until = self.now + span;
                    self.sides.iter_mut().for_each(|side| side.starve(until));
                }
                Change::Truth => {
                    self.books.lied = true;
                    self.peer = Peer::Honest(Sight::Queue, ms(0));
                    self.seen.clear();
                    if let Some(facts) = self.net.hosts[1].facts() {
                        self.told_bond = Some(facts);
                        self.sides[1].session.tell_bond(facts);
                    }
                }
            }
        }
    }

    fn changed(&mut self, host: usize) {
        self.net.reroute();
        let follow = &mut self.follow[host];
        let held = follow.told.map_or(self.now, |told| told + HOLD_DOWN);
        follow.due = Some(held.max(self.now + SETTLE));
    }

    /// The other side of the session hears of it by its TCP.
    fn down(&mut self, id: StreamId, i: usize, orderly: bool) {
        if !self.net.conns.get(&id).is_some_and(|conn| conn.pipes[i].open) {
            return;
        }
        let time = self.sides[i].time(self.now);
        self.sides[i].session.stream_down(id, orderly, time);
        self.sides[i].touch(self.now);
        self.close(id, i, orderly);
    }

    fn close(&mut self, id: StreamId, i: usize, orderly: bool) {
        if !self.net.conns.get(&id).is_some_and(|conn| conn.pipes[i].open) {
            return;
        }
        self.net.close(id, i, orderly, self.now);
        if i == 0 {
            self.heard.remove(&id);
            if self.paths.slots().live().any(|(_, _, live)| live.id == id) {
                self.books.losses.push(self.now);
            }
            self.fact(Fact::Down(id));
        }
    }

    // --- sessions ----------------------------------------------------------------------------------------------------

    fn deliver(&mut self, i: usize) {
        let ids: Vec<StreamId> = self.net.conns.keys().copied().collect();
        let time = self.sides[i].time(self.now);
        for id in ids {
            // Links are shared: whatever is not stuck gets on, as TCP's own count shows.
            let moved = self.net.gets_on(id, i, self.now);
            while let Some(parcel) = self.net.take(id, i, self.now) {
                let side = &mut self.sides[i];
                side.session.heard(id, time);
                side.touch(self.now);
                match parcel.item {
                    Transmit::Data(extent) => drop(side.take_in(id, extent, parcel.payload)),
                    Transmit::Frame(frame) => {
                        side.session.handle_frame(id, frame, time).expect("a peer is not blamed for what it tells");
                    }
                }
            }
            if moved {
                let other = &mut self.sides[1 - i];
                let time = other.time(self.now);
                other.session.progress(id, time);
            }
        }
        for (id, orderly) in self.net.closed(i, self.now) {
            self.down(id, i, orderly);
        }
    }

    /// Acts on what a session says.
    fn attend(&mut self, i: usize) {
        while let Some(event) = self.sides[i].session.poll_event() {
            match event {
                Event::Release(extent) => Side::release(&mut self.sides, i, extent),
                Event::Drop(id) => self.close(id, i, false),
                Event::Retired(id) => self.close(id, i, true),
                Event::Suspect(id) if i == 0 => {
                    self.books.losses.push(self.now);
                    self.fact(Fact::Suspect(id));
                }
                Event::Recovered(id) if i == 0 => {
                    self.fact(Fact::Recovered(id));
                }
                Event::PeerBond(bond) if i == 0 => {
                    // What was found of arrivals here has nothing to do with it.
                    if self.peer_bond.replace(bond).is_some() && self.ways.0 {
                        self.books.said.clear();
                    }
                    self.fact(Fact::PeerBond(bond));
                }
                Event::Observed(stream, seen) if i == 0 => {
                    if let Some(place) = seen.place.filter(|_| self.ways.0) {
                        self.heard.insert(stream, (place.slave(), place.of().into()));
                        self.fact(Fact::Arrival { stream, slave: place.slave(), slaves: place.of().into() });
                    }
                }
                Event::Suspect(_) | Event::Recovered(_) | Event::PeerBond(_) | Event::Observed(..) => {}
                Event::Ended(end) => {
                    self.sides[i].end = Some(end);
                    if i == 0 {
                        self.fact(Fact::Over);
                    }
                }
            }
        }
    }

    fn transmit(&mut self, i: usize) {
        let time = self.sides[i].time(self.now);
        let open = self.net.conns.iter().filter(|(_, conn)| conn.pipes[i].open);
        let ids: Vec<StreamId> = open.map(|(id, _)| *id).collect();
        for id in ids {
            while self.net.conns.get(&id).is_some_and(|conn| conn.pipes[1 - i].bytes < BUFFER) {
                let Some(item) = self.sides[i].session.poll_transmit(id, time) else { break };
                self.net.put(id, 1 - i, item, self.now);
            }
        }
    }

    /// Whether what comes back is even over the usable links of host `end`, and all of it gets through.
    pub(super) fn is_carried(&self, end: usize) -> bool {
        let counts = self.counts(end, 0);
        let up = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        let passes = |id: StreamId| {
            let conn = self.net.conns.get(&id);
            conn.is_some_and(|conn| (0..2).all(|to| self.net.passes(conn.pipes[to].route, to)))
        };
        crate::bond::is_even(&counts)
            && up == usize::from(self.paths.wish().plan().streams)
            && self.paths.slots().live().all(|(_, _, live)| passes(live.id))
    }

    /// Whether of every stream it has been told where it arrives.
    pub(super) fn is_told(&self, slaves: u16) -> bool {
        self.paths.slots().live().all(|(_, _, live)| self.heard.get(&live.id).is_some_and(|place| place.1 == slaves))
    }

    /// Whether nothing moves but data.
    pub(super) fn is_at_rest(&self, span: Duration) -> bool {
        let late = if let Peer::Honest(_, late) = self.peer { late } else { ms(0) };
        self.now.since(self.quiet.max(Time(late))) >= span
            && self.paths.is_at_rest()
            && !self.has_more_to_come()
            && self.sides[0].session.streams().count() == usize::from(self.paths.slots().len())
    }

    pub(super) fn ends(&self) -> [Option<End>; 2] {
        [0, 1].map(|i: usize| self.sides[i].end.clone())
    }

    /// Lets the session end: input stops, what is under way arrives.
    pub(super) fn finish(&mut self) {
        self.sides.iter_mut().for_each(Side::stop_input);
        let limit = self.now + Duration::from_mins(2);
        while self.now < limit && self.sides.iter().any(|side| side.end.is_none()) {
            self.advance();
            for i in 0..2 {
                if self.sides[i].end.is_some() {
                    let ids: Vec<StreamId> = self.net.conns.keys().copied().collect();
                    let flushed = |conn: &super::net::Conn| conn.pipes[i].open && conn.pipes[1 - i].queue.is_empty();
                    for id in ids {
                        if self.net.conns.get(&id).is_some_and(flushed) {
                            self.net.close(id, i, true, self.now);
                        }
                    }
                }
            }
        }
    }

    /// Whether there may be no session at all: connections that come to nothing by chance.
    pub(super) fn may_give_up(&self) -> bool {
        self.refused > 0 || self.filter
    }

    pub(super) fn nat(&self) -> Nat {
        self.net.nat
    }
}
