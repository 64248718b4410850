//! The simulated world: time, two sessions, the path manager of one of them, and what lies between them.
//!
//! It stands for the shell of the path manager: carries out orders, and tells facts. What is told late or wrongly is
//! the peer's doing.

use super::host::{Host, Knowledge, Settings};
use super::net::{BUFFER, DPORT, Nat, Net};
use super::script::{Change, Lie, Peer, Script, Sight};
use crate::bond::{ByteOrder, Era, FlowBase, KernelHash, Mode, Planner, Policy, PortPool, Stacking};
use crate::paths::slots::Purpose;
use crate::paths::{
    Access, Counted, Fact, Failure, Finding, MAX_STREAMS, Order, Paths, Reading, Setup, SlotId, Stamp, Up, Way,
};
use crate::transfer::sim::link::{Rng, mix, ms};
use crate::transfer::sim::side::Side;
use crate::transfer::{Config, End, Event, Sender, StreamId, Terms, Time, Transmit};
use crate::wire::{BondFacts, Means, Observation, Place, SlaveCount, Slaves};
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
/// What is counted at this pace is told after a while ...
const COUNTING: Duration = Duration::from_secs(2);
/// ... if it is more than this.
const ENOUGH: u64 = 1 << 20;

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

    // --- facts -------------------------------------------------------------------------------------------------------

    fn tell(&mut self) {
        self.follow_links();
        self.tell_arrivals();
        self.read();
        if self.books.access.is_some_and(|access| access != Access::All)
            && let Some(traffic) = self.sides[0].session.sender().and_then(Sender::traffic)
        {
            self.fact(Fact::Traffic(traffic));
        }
    }

    fn fact(&mut self, fact: Fact) {
        if self.trace && !matches!(fact, Fact::Traffic(_)) {
            eprintln!("{:9.3}     {fact:?}", self.now.0.as_secs_f64());
        }
        self.paths.handle(fact, self.now);
        self.note_width();
    }

    fn note_width(&mut self) {
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
    fn look(&mut self) {
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
            let arrived = |(id, conn): (&StreamId, &super::net::Conn)| (*id, conn.pipes[receiver].arrived);
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

    fn dial(&mut self) {
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

    fn obey(&mut self) {
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

/// Something that changes with time, below four.
fn id_of(now: Time) -> u8 {
    u8::try_from(now.0.as_millis() / 20 % 4).unwrap()
}
