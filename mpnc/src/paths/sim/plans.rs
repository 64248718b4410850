//! The path manager alone, with a shell that opens everything at once: plan after plan, and what becomes of streams,
//! lanes and ports.

use super::super::MAX_STREAMS;
use super::super::budget::A_MINUTE;
use super::super::slots::Purpose;
use super::super::{ByAddress, Fact, Finding, Gauge, Order, Paths, Sees, Setup, SlotId, Up, Way};
use crate::bond::{
    AddressHash, Bond, ByteOrder, Era, Ether, FlowBase, Hashing, KernelHash, Mii, Mode, Outlook, Pair, Planner, Policy,
    PortPool, Slave, SlaveState, Stacking, lane_of, placing,
};
use crate::transfer::{StreamId, Time};
use crate::wire::{BondFacts, SlaveCount, Slaves};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 77));

struct Shell {
    paths: Paths,
    now: Time,
    next: u32,
    up: BTreeMap<StreamId, (SlotId, u16)>,
    /// Streams between other addresses than the session's own.
    elsewhere: Vec<StreamId>,
    opens: usize,
    said: Vec<Finding>,
    /// This host, as the peer sees it.
    seen_as: IpAddr,
}

fn way(links: u16) -> Way {
    let kernel = KernelHash::certain(Era::V5_18);
    let weights = vec![1; links.into()];
    let slaves: Vec<String> = (0..links).map(|link| format!("e{link}")).collect();
    let outlook = Outlook::Hashed(Hashing { kernel, order: ByteOrder::Little, weights: weights.clone() });
    let gauge = Gauge { slaves: slaves.clone(), weights, streams: links, doubted: false, sees: Sees::Slaves };
    Way {
        source: Some(HERE),
        outlook,
        slaves,
        streams: links,
        gauge: Some(gauge),
        bond: None,
        by_address: ByAddress::default(),
        placed: false,
    }
}

impl Shell {
    fn new(links: u16, seed: u64) -> Self {
        Self::of(way(links), HERE, seed)
    }

    fn seen_as(seen_as: IpAddr, links: u16, seed: u64) -> Self {
        Self::of(way(links), seen_as, seed)
    }

    fn of(way: Way, seen_as: IpAddr, seed: u64) -> Self {
        let base = FlowBase { src: HERE, dst: THERE, dport: 5001 };
        let pool = PortPool::stated(20_000, 21_999).unwrap();
        let mut planner = Planner::new(base, way.outlook.clone(), pool, seed);
        let plan = planner.plan(way.streams, &[]).unwrap();
        let setup = Setup {
            target: SocketAddr::new(THERE, 5001),
            way,
            planner,
            plan,
            spare: PortPool::of_kernel((40_000, 50_000), &[]),
            sends: true,
            receives: false,
            stated: false,
            timeout: Duration::from_secs(10),
        };
        let now = Time::default();
        let paths = Paths::new(setup, now);
        let (up, elsewhere, said) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut shell = Self { paths, now, next: 0, up, elsewhere, opens: 0, said, seen_as };
        shell.obey();
        shell
    }

    fn tell(&mut self, fact: Fact) {
        self.paths.handle(fact, self.now);
        self.paths.handle_timeout(self.now);
        self.obey();
    }

    /// Carries out all orders: each connection is up at once, each stream that is to go is gone.
    fn obey(&mut self) {
        while let Some(order) = self.paths.poll_order() {
            match order {
                Order::Open { slot, source, target, port } => {
                    let (id, port) = (StreamId(self.next), port.unwrap());
                    self.next += 1;
                    self.opens += 1;
                    assert!(!self.up.values().any(|(_, used)| *used == port), "port {port} is in use");
                    self.up.insert(id, (slot, port));
                    let elsewhere = target.is_some_and(|target| target.ip() != THERE);
                    if elsewhere {
                        self.elsewhere.push(id);
                    }
                    let seen = SocketAddr::new(source.filter(|_| elsewhere).unwrap_or(self.seen_as), port);
                    self.paths.handle(Fact::Up(Up { slot, id, port, seen }), self.now);
                }
                Order::Retire(id) | Order::Close(id) => {
                    self.up.remove(&id);
                    self.elsewhere.retain(|stream| *stream != id);
                    self.paths.handle(Fact::Down(id), self.now);
                }
                Order::Say(finding) => self.said.push(finding),
                _ => {}
            }
        }
    }

    /// The listener sees streams on its slaves.
    fn arrive(&mut self, slaves: u16, slave: impl Fn(StreamId) -> u16) {
        let streams: Vec<StreamId> = self.up.keys().copied().collect();
        for stream in streams {
            self.tell(Fact::Arrival { stream, slave: slave(stream), slaves });
        }
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.up.values().map(|(_, port)| *port).collect()
    }

    fn lanes(&self) -> Vec<u16> {
        let planned = self.paths.slots().iter().filter(|(_, slot)| slot.purpose == Purpose::Planned);
        let mut lanes: Vec<u16> = planned.map(|(_, slot)| slot.planned.lane).collect();
        lanes.sort_unstable();
        lanes
    }

    /// Every slot is of the plan and has a stream, and there is no other stream.
    fn is_whole(&self, streams: usize) -> bool {
        let slots = || self.paths.slots().iter();
        slots().count() == streams
            && slots().all(|(_, slot)| slot.purpose == Purpose::Planned && slot.live.is_some())
            && self.up.len() == streams
    }
}

/// The peer's LACP bond of so many links.
fn bond(slaves: usize) -> BondFacts {
    BondFacts {
        slaves: Slaves::alike(SlaveCount::new(slaves).unwrap()),
        mode: Some(Mode::Ieee8023ad),
        policy: Some(Policy::Layer34),
        stacking: Some(Stacking::Plain),
        dynamic_lb: true,
        kernel: Some(KernelHash::certain(Era::V5_18)),
        order: ByteOrder::Little,
        placed: false,
    }
}

#[test]
fn a_replan_while_probes_are_up_loses_no_lane() {
    for seed in 0..50 {
        let mut shell = Shell::new(4, seed * 37);
        let bond = bond(4);
        shell.tell(Fact::PeerBond(bond));
        shell.arrive(4, |_| 0);
        let probes = shell.paths.slots().iter().filter(|(_, slot)| slot.purpose != Purpose::Planned).count();
        assert_eq!((probes, shell.up.len()), (8, 12));
        shell.tell(Fact::Way(way(3)));
        // The receiver has four links, so each of the three sends two.
        assert!(shell.is_whole(6), "seed {seed}: {:?}", shell.paths.slots().iter().collect::<Vec<_>>());
        // What the old plan's probes show comes late.
        shell.arrive(4, |stream| u16::try_from(stream.0 % 4).unwrap());
        shell.now = shell.now + Duration::from_secs(6);
        shell.paths.handle_timeout(shell.now);
        shell.obey();
        let (planned, up) = (shell.lanes().len(), shell.paths.slots().live().count());
        assert!(planned == 6 && up >= 6, "seed {seed}: {planned} planned, {up} up");
    }
}

/// More links keep streams, and among them a probe: the stream that it was to better is lost, and they share a lane.
#[test]
fn a_probe_that_a_plan_keeps_becomes_a_lane_of_its_own() {
    let mut kept = 0;
    for seed in 0..50 {
        let mut shell = Shell::new(4, seed * 37);
        shell.tell(Fact::PeerBond(bond(4)));
        shell.arrive(4, |_| 0);
        let probes: BTreeSet<SlotId> = {
            let probes = shell.paths.slots().iter().filter(|(_, slot)| slot.purpose != Purpose::Planned);
            probes.map(|(id, _)| id).collect()
        };
        assert_eq!((probes.len(), shell.up.len()), (8, 12));
        let lost = StreamId(u32::try_from(seed % 4).unwrap());
        shell.up.remove(&lost);
        shell.tell(Fact::Down(lost));
        let before = shell.up.clone();
        shell.tell(Fact::Way(way(6)));
        assert!(shell.is_whole(6), "seed {seed}: {:?}", shell.paths.slots().iter().collect::<Vec<_>>());
        assert_eq!(shell.lanes(), [0, 1, 2, 3, 4, 5], "seed {seed}");
        let stays = |(id, there): &(&StreamId, &(SlotId, u16))| before.get(id) == Some(there);
        kept += shell.up.iter().filter(stays).filter(|(_, (slot, _))| probes.contains(slot)).count();
    }
    assert!(kept > 10, "only {kept} plans of 50 have kept a probe");
}

/// Ten minutes of a peer whose bond is another every 100 ms: streams that were opened beside the first plan's, and how
/// often its word was acted on in each minute.
fn heed_a_storm(seed: u64) -> (usize, Vec<usize>) {
    let mut shell = Shell::new(4, seed);
    let (first, mut heeded) = (shell.opens, Vec::new());
    for _ in 0..10 {
        let before = shell.said.len();
        for word in 0..600 {
            shell.now = shell.now + Duration::from_millis(100);
            shell.tell(Fact::PeerBond(bond([5, MAX_STREAMS.into()][word % 2])));
        }
        let said = &shell.said[before..];
        heeded.push(said.iter().filter(|finding| matches!(finding, Finding::PeerBond { .. })).count());
    }
    (shell.opens - first, heeded)
}

/// The budget's own doing: a word is acted on seldom, but each may ask for as many streams as there can be.
#[test]
fn a_storm_of_words_is_worth_the_budget_and_no_more() {
    for seed in 0..4 {
        let (opens, heeded) = heed_a_storm(seed);
        // As much at once as in a minute, and one word that it did not cover to the end.
        let most = usize::from(11 * A_MINUTE + MAX_STREAMS);
        assert!((most / 2..=most).contains(&opens), "seed {seed}: {opens} opened for {heeded:?} words");
    }
}

/// The hold-down's own doing: also words that cost the budget little would have every stream move on and on.
#[test]
fn a_storm_of_words_is_acted_on_ever_more_seldom() {
    for seed in 0..4 {
        let (_, heeded) = heed_a_storm(seed);
        // The first, the next at once, and then after 1, 2, 4, 8, 8 ... s.
        assert!(heeded[0] <= 11 && heeded[1..].iter().all(|words| *words <= 8), "seed {seed}: {heeded:?}");
    }
}

/// No word is needed: what is told of arrivals alone asks for eight tries for each slave.
#[test]
fn arrivals_are_evened_at_the_budgets_pace() {
    let mut shell = Shell::new(4, 1);
    let first = shell.opens;
    shell.tell(Fact::PeerBond(bond(4)));
    for minute in 1..=2 {
        for _ in 0..600 {
            shell.arrive(MAX_STREAMS, |_| 0);
            let opens = shell.opens - first;
            assert!(opens <= usize::from((1 + minute) * A_MINUTE), "{opens} opened by minute {minute}");
            shell.now = shell.now + Duration::from_millis(100);
        }
    }
    assert!(shell.opens > usize::from(A_MINUTE), "it has something to do");
}

/// The way over a bond that goes by addresses, and these pairs that get through.
fn by_address(links: u16, pairs: Vec<Pair>) -> Way {
    let kernel = (KernelHash::certain(Era::V5_18), ByteOrder::Little);
    let settings = (Mode::Ieee8023ad, Policy::Layer2, true);
    let hash = AddressHash::of_settings(settings, Stacking::Plain, kernel, vec![1; links.into()]);
    // Nothing is planned over its slaves before there is a choice.
    let slaves = if pairs.is_empty() { Vec::new() } else { way(links).slaves };
    let by_address = ByAddress { pairs, hash };
    Way { outlook: Outlook::Unknown, streams: 1, slaves, by_address, ..way(links) }
}

#[test]
fn another_pair_of_addresses_adds_a_stream_and_disturbs_none() {
    let ether = Ether { src: [2, 0, 0, 0, 0, 1], dst: [2, 0, 0, 0, 0, 2], vlan: None };
    let other: (IpAddr, SocketAddr) = ("fe80::3".parse().unwrap(), "[fe80::77%3]:5001".parse().unwrap());
    let pairs =
        vec![Pair { src: HERE, dst: SocketAddr::new(THERE, 5001), ether }, Pair { src: other.0, dst: other.1, ether }];
    let arriving = Hashing::alike(2, KernelHash::certain(Era::V5_18));
    for (links, seed) in [(2, 1), (2, 2), (4, 3), (4, 4), (4, 77)] {
        let mut shell = Shell::of(by_address(links, Vec::new()), HERE, seed * 64);
        shell.tell(Fact::PeerBond(bond(2)));
        assert!(shell.is_whole(2) && shell.elsewhere.is_empty(), "one for each link of the receiver's");
        shell.tell(Fact::Way(by_address(links, pairs.clone())));
        assert!(shell.is_whole(2), "{links} links: {:?}", shell.up);
        assert_eq!((shell.opens, shell.elsewhere.len()), (3, 1), "one stays, and one goes elsewhere");
        let slaves: Vec<_> = shell.paths.slots().iter().map(|(_, slot)| slot.planned.slave).collect();
        assert!(slaves[0].is_some() && slaves[1].is_some() && slaves[0] != slaves[1], "{slaves:?}");
        let arrives = |(id, (_, port)): (&StreamId, &(SlotId, u16))| {
            let pair = pairs[usize::from(shell.elsewhere.contains(id))];
            arriving.slave(&FlowBase { src: pair.src, dst: pair.dst.ip(), dport: 5001 }.flow(*port).unwrap())
        };
        let there: Vec<_> = shell.up.iter().map(arrives).collect();
        assert_ne!(there[0], there[1], "even at the receiver too, if the switch is as Linux is");
        // What the peer sees of the second is no other address of this host towards it.
        shell.now = shell.now + Duration::from_mins(1);
        shell.tell(Fact::PeerBond(bond(2)));
        assert_eq!(shell.opens, 3);
        // They are gone: what goes between them is given up with them.
        shell.tell(Fact::Way(Way { source: Some("10.1.2.4".parse().unwrap()), ..by_address(links, Vec::new()) }));
        assert!(shell.elsewhere.is_empty(), "{:?}", shell.up);
    }
}

#[test]
fn plans_without_end_never_run_out_of_ports() {
    let mut shell = Shell::new(3, 5);
    let mut kept = 0;
    for plan in 0..20_000 {
        let before = shell.up.clone();
        // As many links, another order: what was computed of each port is another.
        let links = [3, 2, 3, 4][plan % 4];
        shell.tell(Fact::Way(way(links)));
        assert!(shell.is_whole(links.into()), "plan {plan}");
        kept += shell.up.iter().filter(|(id, there)| before.get(id) == Some(there)).count();
    }
    assert!(!shell.said.iter().any(|finding| matches!(finding, Finding::NoPlan(_))));
    assert!(kept > 20_000, "{kept} streams have stayed");
    let (opens, reopened) = (shell.opens, 3 + 20_000 * 4);
    assert!(opens + kept <= reopened, "{opens} opened, {kept} kept");
}

#[test]
fn streams_that_are_added_get_the_lanes_that_are_missing() {
    for seed in 0..50 {
        let mut shell = Shell::new(3, seed * 41);
        shell.tell(Fact::Way(way(6)));
        assert_eq!(shell.lanes(), [0, 1, 2, 3, 4, 5]);
        for workers in 1..=6 {
            let mut load = vec![0_u16; workers];
            shell.up.values().for_each(|(_, port)| load[usize::from(lane_of(*port)) % workers] += 1);
            assert!(crate::bond::is_even(&load), "seed {seed}: {load:?} streams for each of {workers} workers");
        }
    }
}

#[test]
fn behind_a_nat_of_addresses_ports_are_even_for_both() {
    const SEEN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
    let mut translated = 0;
    for seed in 0..20 {
        let mut shell = Shell::seen_as(SEEN, 3, seed);
        for _ in 0..100 {
            shell.now = shell.now + Duration::from_millis(100);
            shell.paths.handle_timeout(shell.now);
            shell.obey();
        }
        let Outlook::Hashed(hashing) = way(3).outlook else { unreachable!() };
        for src in [HERE, SEEN] {
            let axis = hashing.way_out(FlowBase { src, dst: THERE, dport: 5001 });
            let classes: BTreeSet<_> = shell.up.values().map(|(_, port)| axis.class_of.of(*port)).collect();
            assert_eq!((classes.len(), shell.up.len()), (3, 3), "from {src}, seed {seed}");
        }
        let said = |finding: &&Finding| matches!(finding, Finding::AddressTranslated { .. });
        let times = shell.said.iter().filter(said).count();
        assert!(times <= 1);
        translated += times;
        assert_eq!(Shell::seen_as(SEEN, 4, seed).opens, 4, "over four slaves it only permutes them");
    }
    assert!(translated > 5, "most plans are not even for both by chance");
}

/// A bond of four on whose slaves a program places the streams, the second of them down or not.
fn placed(down: bool) -> Way {
    let slave = |n: u32| Slave {
        name: format!("e{n}"),
        ifindex: n,
        state: SlaveState::Active,
        mii: Mii::Up,
        carrier: Some(!(down && n == 2)),
        aggregator: None,
        lacp: None,
        speed: None,
    };
    let bond = Bond {
        name: "bond0".into(),
        ifindex: 9,
        mode: Mode::Xor,
        policy: Some(Policy::Layer2),
        dynamic_lb: true,
        aggregator: None,
        slaves: (1..=4).map(slave).collect(),
        ordered: true,
    };
    Way { outlook: placing::outlook(&bond), placed: true, ..way(if down { 3 } else { 4 }) }
}

#[test]
fn where_streams_are_placed_a_slave_that_fails_costs_its_own_and_no_others() {
    for seed in 0..20 {
        let mut shell = Shell::of(placed(false), HERE, seed);
        let before = shell.ports();
        shell.tell(Fact::Way(placed(true)));
        let less = shell.ports();
        assert!(less.len() == 3 && less.is_subset(&before), "seed {seed}: {before:?} {less:?}");
        shell.tell(Fact::Way(placed(false)));
        let after = shell.ports();
        assert!(after.len() == 4 && after.is_superset(&less), "seed {seed}: {less:?} {after:?}");
    }
}
