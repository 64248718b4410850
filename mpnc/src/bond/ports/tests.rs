//! Properties of the planner: for every count of slaves and streams, era, family and byte order.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use mpnc_ebpf::hash::{self, ByteOrder, Era};
use proptest::prelude::*;

use super::*;
use crate::bond::kernel::KernelHash;
use crate::bond::outlook::{Hashing, PortClass};

/// What a system with default settings leaves us.
fn default_pool() -> PortPool {
    PortPool::of_system(1024, (32768, 60999), &[])
}

fn hashing(era: Era, order: ByteOrder, slaves: u16) -> Hashing {
    Hashing { kernel: KernelHash::certain(era), order, weights: vec![1; usize::from(slaves)] }
}

fn base(v6: bool, addresses: (u128, u128), dport: u16) -> FlowBase {
    let ip = |bits: u128| -> IpAddr {
        // The leading bit keeps IPv6 addresses out of ::ffff:0:0/96.
        if v6 { IpAddr::V6((bits | 1 << 127).into()) } else { IpAddr::V4(((bits & 0xffff_ffff) as u32).into()) }
    };
    FlowBase { src: ip(addresses.0), dst: ip(addresses.1), dport }
}

fn ports_of(plan: &[Planned]) -> Vec<u16> {
    plan.iter().map(|p| p.port.unwrap()).collect()
}

/// Streams per slave, computed from the ports alone.
fn load(base: &FlowBase, era: Era, order: ByteOrder, slaves: u32, ports: &[u16]) -> Vec<usize> {
    let mut load = vec![0; slaves as usize];
    for &port in ports {
        let flow = base.flow(port).unwrap();
        load[hash::index(hash::layer34(era, order, &flow), slaves).unwrap() as usize] += 1;
    }
    load
}

fn uneven(load: &[usize]) -> usize {
    load.iter().max().unwrap() - load.iter().min().unwrap()
}

/// The fewest ports of the default pool that any slave has in any lane. Nearly always dozens; but where ports vary only
/// some bits of the hash (up to 3.12, and big-endian hosts with 15 slaves) a lane may miss a slave, and then has to
/// give way.
fn fewest(base: &FlowBase, era: Era, order: ByteOrder, slaves: u16) -> usize {
    let mut cells = vec![0; usize::from(slaves * LANES)];
    for port in default_pool().ports() {
        let hash = hash::layer34(era, order, &base.flow(port).unwrap());
        let slave = hash::index(hash, u32::from(slaves)).unwrap() as usize;
        cells[slave * usize::from(LANES) + usize::from(lane_of(port))] += 1;
    }
    cells.into_iter().min().unwrap()
}

fn any_base() -> impl Strategy<Value = FlowBase> {
    (any::<bool>(), any::<(u128, u128)>(), 1..=u16::MAX).prop_map(|(v6, a, dport)| base(v6, a, dport))
}

fn any_order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

fn any_era() -> impl Strategy<Value = Era> {
    proptest::sample::select(Era::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_are_even_distinct_in_the_pool_and_in_their_lanes(
        base in any_base(), era in any_era(), order in any_order(),
        slaves in 1u16..=16, streams in 1u16..=64, seed in any::<u64>(),
    ) {
        let pool = default_pool();
        let outlook = Outlook::Hashed(hashing(era, order, slaves));
        let plan = Planner::new(base, outlook, pool.clone(), seed).plan(streams, &[]).unwrap();
        let ports = ports_of(&plan);
        prop_assert_eq!(ports.len(), usize::from(streams));
        prop_assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        prop_assert!(ports.iter().all(|p| pool.contains(*p)));
        prop_assert!(uneven(&load(&base, era, order, u32::from(slaves), &ports)) <= 1);
        // The first streams, one per slave, are on different slaves already: a plan cut short is even too.
        let first = &ports[..ports.len().min(usize::from(slaves))];
        prop_assert!(load(&base, era, order, u32::from(slaves), first).iter().all(|n| *n <= 1));
        let fewest = fewest(&base, era, order, slaves);
        for (i, p) in (0..).zip(&plan) {
            prop_assert_eq!(p.lane, i);
            if fewest >= 2 {
                prop_assert_eq!(lane_of(p.port.unwrap()), i % LANES);
            }
            let flow = base.flow(p.port.unwrap()).unwrap();
            let slave = hash::index(hash::layer34(era, order, &flow), u32::from(slaves));
            prop_assert_eq!(p.slave.map(u32::from), slave);
        }
    }

    #[test]
    fn replacements_keep_slave_and_lane_and_never_repeat(
        base in any_base(), era in any_era(), order in any_order(),
        slaves in 1u16..=16, streams in 1u16..=16, seed in any::<u64>(),
    ) {
        let mut planner = Planner::new(base, Outlook::Hashed(hashing(era, order, slaves)), default_pool(), seed);
        let plan = planner.plan(streams, &[]).unwrap();
        let mut seen: HashSet<u16> = ports_of(&plan).into_iter().collect();
        let mut current = plan[usize::from(streams) - 1];
        let fewest = fewest(&base, era, order, slaves);
        for _ in 0..20 {
            let next = planner.replace(&current).unwrap();
            prop_assert!(seen.insert(next.port.unwrap()));
            prop_assert_eq!((next.slave, next.lane), (current.slave, current.lane));
            prop_assert_eq!(planner.slave_of(next.port.unwrap()), current.slave);
            if fewest > 20 {
                prop_assert_eq!(lane_of(next.port.unwrap()), lane_of(current.port.unwrap()));
            }
            current = next;
        }
    }

    #[test]
    fn plans_for_a_kernel_in_doubt_are_even_under_both_formulae(
        base in any_base(), order in any_order(),
        slaves in 1u16..=16, streams in 1u16..=64, seed in any::<u64>(),
    ) {
        let kernel = KernelHash { era: Era::V4_14, or: Some(Era::V3_13) };
        let outlook = Outlook::Hashed(Hashing { kernel, order, weights: vec![1; usize::from(slaves)] });
        let ports = ports_of(&Planner::new(base, outlook, default_pool(), seed).plan(streams, &[]).unwrap());
        prop_assert!(uneven(&load(&base, Era::V4_14, order, u32::from(slaves), &ports)) <= 1);
        prop_assert!(uneven(&load(&base, Era::V3_13, order, u32::from(slaves), &ports)) <= 1);
    }

    #[test]
    fn plans_are_even_on_both_ends(
        base in any_base(), orders in (any_order(), any_order()), eras in (any_era(), any_era()),
        slaves in (1u16..=16, 1u16..=16), streams in 1u16..=64, seed in any::<u64>(),
    ) {
        let outlook = Outlook::Hashed(hashing(eras.0, orders.0, slaves.0));
        let mut planner = Planner::new(base, outlook, default_pool(), seed);
        planner.set_second(Some(hashing(eras.1, orders.1, slaves.1).way_back(base)));
        let ports = ports_of(&planner.plan(streams, &[]).unwrap());
        prop_assert!(uneven(&load(&base, eras.0, orders.0, u32::from(slaves.0), &ports)) <= 1);
        let mut back = vec![0; usize::from(slaves.1)];
        for port in &ports {
            let flow = base.flow(*port).unwrap().reversed();
            back[(hash::layer34(eras.1, orders.1, &flow) % u32::from(slaves.1)) as usize] += 1;
        }
        prop_assert!(uneven(&back) <= 1, "{back:?}");
    }

    #[test]
    fn plans_after_a_change_share_no_port_with_those_before(
        base in any_base(), era in any_era(), slaves in 2u16..=16, streams in 1u16..=32, seed in any::<u64>(),
    ) {
        let of = |n| Outlook::Hashed(hashing(era, ByteOrder::NATIVE, n));
        let mut planner = Planner::new(base, of(slaves), default_pool(), seed);
        let mut seen: HashSet<u16> = HashSet::new();
        for n in [slaves, slaves - 1, slaves] {
            planner.set_outlook(of(n));
            let ports = ports_of(&planner.plan(streams, &[]).unwrap());
            prop_assert!(ports.iter().all(|p| seen.insert(*p)));
            prop_assert!(uneven(&load(&base, era, ByteOrder::NATIVE, u32::from(n), &ports)) <= 1);
        }
    }
}

#[test]
fn power_of_two_plans_are_even_whatever_the_formula_order_and_addresses() {
    let seen_as = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    // The bond's host may see translated addresses, another destination port, IPv6.
    let real = [seen_as, base(false, (0xc0a8_0a11, 0x0808_0404), 80), base(true, (0x1234_5678_9abc, 77), 31337)];
    for slaves in [2u16, 4, 8, 16] {
        // Every high byte that the pool has.
        for seed in 0..31_744u64 / 256 {
            let outlook = Outlook::Hashed(Hashing::alike(slaves, KernelHash::of_release("6.1.0")));
            let mut planner = Planner::new(seen_as, outlook, default_pool(), seed * 256);
            let ports = ports_of(&planner.plan(slaves, &[]).unwrap());
            for (base, era, order) in real.iter().flat_map(|b| {
                Era::ALL.into_iter().flat_map(move |e| [ByteOrder::Little, ByteOrder::Big].map(|o| (b, e, o)))
            }) {
                let load = load(base, era, order, u32::from(slaves), &ports);
                assert!(load.iter().all(|n| *n == 1), "{slaves} {era:?} {order:?} {ports:?} {load:?}");
            }
        }
    }
}

#[test]
fn lanes_reach_every_slave_on_todays_kernels() {
    let base = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    for slaves in 1..=16 {
        assert!(fewest(&base, Era::V5_18, ByteOrder::Little, slaves) > 40, "{slaves}");
    }
}

#[test]
fn without_a_bond_in_sight_ports_are_even_for_every_power_of_two() {
    let base = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    for seed in 0..500u64 {
        let plan = Planner::new(base, Outlook::Unknown, default_pool(), seed * 63).plan(32, &[]).unwrap();
        assert!(plan.iter().all(|p| p.slave.is_none() && lane_of(p.port.unwrap()) == p.lane));
        for era in Era::ALL {
            for slaves in [2, 4, 8, 16, 32] {
                for streams in ports_of(&plan).chunks(slaves as usize) {
                    assert_eq!(uneven(&load(&base, era, ByteOrder::Big, slaves, streams)), 0);
                }
            }
        }
    }
}

#[test]
fn without_a_bond_one_stream_is_left_to_the_kernel() {
    let base = base(false, (1, 2), 5001);
    let one = Planner::new(base, Outlook::Unknown, default_pool(), 7).plan(1, &[]).unwrap();
    assert_eq!(one, [Planned { lane: 0, port: None, slave: None }]);
    let mut stated = Planner::new(base, Outlook::Unknown, PortPool::stated(700, 700).unwrap(), 7);
    let plan = stated.plan(1, &[]).unwrap();
    assert_eq!(plan[0].port, Some(700));
    assert_eq!(stated.replace(&plan[0]), None);
    assert!(matches!(stated.plan(1, &[]), Err(PlanError::TooFew { free: 0, .. })));
}

#[test]
fn in_a_narrow_pool_evenness_comes_before_lanes() {
    let base = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    for (lo, hi, slaves, streams) in [(20000, 20007, 4, 4), (20000, 20003, 2, 2), (20000, 20029, 3, 6)] {
        let outlook = Outlook::Hashed(hashing(Era::V5_18, ByteOrder::Little, slaves));
        let mut planner = Planner::new(base, outlook, PortPool::stated(lo, hi).unwrap(), 1);
        let ports = ports_of(&planner.plan(streams, &[]).unwrap());
        let load = load(&base, Era::V5_18, ByteOrder::Little, u32::from(slaves), &ports);
        assert_eq!(uneven(&load), 0, "{lo}-{hi}: {ports:?}");
    }
}

#[test]
fn pools_that_cannot_serve_say_what_to_do() {
    let base = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    let plan = |lo, hi, streams| {
        let outlook = Outlook::Hashed(hashing(Era::V5_18, ByteOrder::Little, 4));
        Planner::new(base, outlook, PortPool::stated(lo, hi).unwrap(), 1).plan(streams, &[])
    };
    assert_eq!(
        plan(20000, 20002, 8).unwrap_err().to_string(),
        "8 streams need as many source ports, but 20000-20002 has only 3 left: widen -p LO-HI or lower --streams"
    );
    let mut used_up = Planner::new(base, Outlook::Unknown, PortPool::stated(700, 700).unwrap(), 7);
    used_up.plan(1, &[]).unwrap();
    assert_eq!(
        used_up.plan(1, &[]).unwrap_err().to_string(),
        "1 streams need as many source ports, but none is left: widen -p LO-HI or lower --streams"
    );
    // p and p ^ 1 share a slave: four neighbours reach two of four.
    assert_eq!(
        plan(20000, 20003, 4).unwrap_err().to_string(),
        "source ports 20000-20003 cannot spread 4 streams over 4 slaves evenly: too few of them lead to slave 2; \
         widen -p LO-HI or lower --streams"
    );
}

#[test]
fn faster_slaves_get_more_streams() {
    let base = base(false, (0x0a01_0203, 0x0a01_024d), 5001);
    let kernel = KernelHash::certain(Era::V5_18);
    let hashing = Hashing { kernel, order: ByteOrder::Little, weights: vec![1000, 4000, 1000, 1000] };
    let plan = Planner::new(base, Outlook::Hashed(hashing), default_pool(), 5).plan(14, &[]).unwrap();
    assert_eq!(load(&base, Era::V5_18, ByteOrder::Little, 4, &ports_of(&plan)), [2, 8, 2, 2]);
}

#[test]
fn classes_that_must_be_asked_for_are_asked_for_sparingly() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let class_of = PortClass::asking(|port| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        Some((port.wrapping_mul(40503) >> 7) % 3)
    });
    let outlook = Outlook::Asked { weights: vec![1; 3], class_of };
    let plan = Planner::new(base(false, (1, 2), 3), outlook, default_pool(), 9).plan(9, &[]).unwrap();
    let mut by_class = BTreeMap::new();
    for p in &plan {
        *by_class.entry(p.slave).or_insert(0) += 1;
    }
    assert_eq!(by_class, BTreeMap::from([(Some(0), 3), (Some(1), 3), (Some(2), 3)]));
    assert!(plan.iter().all(|p| lane_of(p.port.unwrap()) == p.lane));
    assert!(CALLS.load(Ordering::Relaxed) <= ASKED_CANDIDATES);
}
