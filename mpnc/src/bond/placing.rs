//! Placing: where a program on the bond's egress may send a stream by another slave than the bond would.
//!
//! Which bonds that is right for, which slave a source port stands for then, and how streams that have no such port are
//! shared out. Pure. Must not know the program, nor how it is told.

use super::kernel::KernelHash;
use super::outlook::{Axis, FlowBase, Hashing, Outlook, PortClass};
use super::{Bond, Era, Mode, Stacking, Sway};
use std::fmt;

/// Why a bond's streams are not to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplaceable {
    /// Frames may leave by one slave only, or by slaves that the bond gives addresses of their own: a frame that leaves
    /// elsewhere is lost, and others of this host with it (measured; shared facts, section 11).
    Mode(Mode),
    /// Source ports choose the slave already.
    ByPorts,
    /// A tunnel above it: what reaches the bond is not the stream's packets.
    Tunnel,
    /// There are not two slaves to choose from.
    OneSlave,
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode @ Mode::ActiveBackup) => {
                write!(f, "mode {}: the switch takes frames from one slave only", mode.name())
            }
            Self::Mode(mode @ Mode::Broadcast) => write!(f, "mode {}: every frame goes by every slave", mode.name()),
            Self::Mode(mode) => {
                write!(
                    f,
                    "mode {}: each slave has an address of its own there, and others' frames are lost",
                    mode.name()
                )
            }
            Self::ByPorts => f.write_str("source ports choose the slave there already, with nothing bypassed"),
            Self::Tunnel => f.write_str("a tunnel above it: the streams' own packets do not reach the bond"),
            Self::OneSlave => f.write_str("fewer than two slaves are usable"),
        }
    }
}

/// Why not, if a bond's streams are not to be placed.
pub fn refusal(bond: &Bond, stacking: Stacking) -> Option<Unplaceable> {
    match (bond.mode, stacking) {
        (Mode::ActiveBackup | Mode::Broadcast | Mode::Tlb | Mode::Alb, _) => Some(Unplaceable::Mode(bond.mode)),
        (_, Stacking::UdpTunnel | Stacking::PlainTunnel | Stacking::OneFlow) => Some(Unplaceable::Tunnel),
        _ if Sway::of(bond, stacking) == Sway::Exact => Some(Unplaceable::ByPorts),
        _ => (bond.usable().len() < 2).then_some(Unplaceable::OneSlave),
    }
}

/// Whether streams that are placed stay so: with one slave left they stay where they are, and the others come back.
pub fn stays(bond: &Bond, stacking: Stacking) -> bool {
    matches!(refusal(bond, stacking), None | Some(Unplaceable::OneSlave))
}

/// Why nothing is to be begun: slaves that are down may come back, but there must be two.
pub fn refusal_for_good(bond: &Bond, stacking: Stacking) -> Option<Unplaceable> {
    refusal(bond, stacking).filter(|why| *why != Unplaceable::OneSlave || bond.slaves.len() < 2)
}

/// Whether `--place` would make a difference: not with one usable slave, and not where ports choose.
pub fn would_help(bond: &Bond, stacking: Stacking) -> bool {
    refusal(bond, stacking).is_none() && bond.mode != Mode::RoundRobin
}

/// The slave that a source port stands for, by its place among all of the bond's slaves: so that one that fails moves
/// no stream but its own. Ports in a row stand for all slaves in turn, so that a few will do; and a port stands for
/// another slave than the one 64 further, which has the same lane.
fn slave_of(port: u16, slaves: usize) -> Option<usize> {
    (usize::from(port) + usize::from(port) / 64).checked_rem(slaves)
}

/// What the planner goes by where a bond's streams are placed.
pub fn outlook(bond: &Bond) -> Outlook {
    let usable: Vec<u32> = bond.usable().iter().map(|slave| slave.ifindex).collect();
    let index = |ifindex: u32| usable.iter().position(|of| *of == ifindex).and_then(|class| u16::try_from(class).ok());
    let classes: Vec<Option<u16>> = bond.slaves.iter().map(|slave| index(slave.ifindex)).collect();
    let class_of = PortClass::new(move |port| *classes.get(slave_of(port, classes.len())?)?);
    Outlook::Asked { weights: bond.weights(), class_of }
}

/// Over which of so many of the receiver's slaves a switch sends what streams from these ports bring, if it hashes as
/// Linux does by layer3+4. That cannot be read, but it is the best guess, and costs nothing: ports are free to choose.
pub fn arriving(slaves: u16, base: FlowBase) -> Axis {
    Hashing::alike(slaves, KernelHash::certain(Era::V5_18)).way_out(base)
}

/// Shares streams out over slaves of these weights (0: not usable), where nothing else says whose each is: `now` is
/// where they are, `load` how many others each slave has. One for each slave first, those with the least load before
/// others, then by weight. No more of them move than must.
pub fn share_out(now: &[Option<usize>], weights: &[u32], load: &[u16]) -> Vec<Option<usize>> {
    let usable = || (0..weights.len()).filter(|slave| weights[*slave] > 0);
    let mut room = vec![0u16; weights.len()];
    for _ in now {
        let crowd = |slave: usize, streams: u16| u64::from(streams + 1) * CROWD / u64::from(weights[slave]);
        let others = |slave: usize| load.get(slave).copied().unwrap_or(0);
        // The first one goes by what others have there, further ones by its own.
        let key = |slave: &usize| {
            let (own, others) = (room[*slave], crowd(*slave, others(*slave)));
            let first = if own == 0 { 0 } else { crowd(*slave, own) };
            (first, others, !now.contains(&Some(*slave)))
        };
        if let Some(slave) = usable().min_by_key(key) {
            room[slave] += 1;
        }
    }
    let mut take = |slave: usize| {
        let free = room.get_mut(slave).filter(|room| **room > 0)?;
        *free -= 1;
        Some(slave)
    };
    let mut shared: Vec<Option<usize>> = now.iter().map(|slave| take((*slave)?)).collect();
    for stream in shared.iter_mut().filter(|stream| stream.is_none()) {
        *stream = usable().find_map(&mut take);
    }
    shared
}

/// What a stream counts for, so that weights (Mbit/s) divide it.
const CROWD: u64 = 1 << 32;

/// The remedy that placing is, with what it is worth.
pub fn remedy(bond: &Bond) -> String {
    format!(
        "--place, with CAP_BPF and CAP_NET_ADMIN, uses all {} links for this transfer and configures nothing (queueing \
         and captures on {} do not see it)",
        bond.usable().len(),
        bond.name
    )
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{bond, slave};
    use super::super::quota::by_weight;
    use super::super::{Planner, Policy, PortPool, Slave};
    use super::*;
    use proptest::prelude::*;

    fn layer2(slaves: usize) -> Bond {
        let named = |ifindex: u32| Slave { ifindex, ..slave(&format!("e{ifindex}")) };
        Bond { policy: Some(Policy::Layer2), ..bond((1..).take(slaves).map(named).collect()) }
    }

    fn counts(bond: &Bond, pool: &str) -> Vec<usize> {
        let base = FlowBase { src: "10.1.2.3".parse().unwrap(), dst: "10.1.2.77".parse().unwrap(), dport: 31337 };
        let usable = bond.usable().len();
        let mut planner = Planner::new(base, outlook(bond), pool.parse::<PortPool>().unwrap(), 7);
        let plan = planner.plan(u16::try_from(usable).unwrap(), &[]).unwrap();
        let of = |class: usize| plan.iter().filter(|one| one.slave.map(usize::from) == Some(class)).count();
        (0..usable).map(of).collect()
    }

    #[test]
    fn every_slave_gets_a_stream_also_of_a_few_ports() {
        for slaves in 2..=8 {
            assert_eq!(counts(&layer2(slaves), "10000-32000"), vec![1; slaves]);
            assert_eq!(counts(&layer2(slaves), "20000-20063"), vec![1; slaves], "64 ports");
            assert_eq!(counts(&layer2(slaves), &format!("20000-{}", 19_999 + slaves)), vec![1; slaves], "just enough");
        }
    }

    #[test]
    fn streams_arrive_evenly_too_where_the_switch_goes_by_ports() {
        let base = FlowBase { src: "10.1.2.3".parse().unwrap(), dst: "10.1.2.77".parse().unwrap(), dport: 31337 };
        for (here, there) in [(2, 2), (3, 3), (4, 4), (7, 7), (4, 2), (8, 4)] {
            let bond = layer2(here);
            let mut planner = Planner::new(base, outlook(&bond), PortPool::stated(10_000, 32_000).unwrap(), 7);
            let arriving = arriving(there, base);
            planner.set_second(Some(arriving.clone()));
            let plan = planner.plan(u16::try_from(here).unwrap(), &[]).unwrap();
            let arrivals: Vec<_> = plan.iter().filter_map(|one| arriving.class_of.of(one.port?)).collect();
            let fair = here / usize::from(there);
            let count = |class| arrivals.iter().filter(|of| **of == class).count();
            assert!((0..there).all(|class| count(class) == fair), "{here} to {there}: {plan:?}");
        }
    }

    #[test]
    fn a_slave_that_fails_changes_what_its_own_ports_stand_for_and_no_others() {
        let (whole, mut less) = (layer2(4), layer2(4));
        less.slaves[1].carrier = Some(false);
        let (before, after) = (outlook(&whole), outlook(&less));
        let base = FlowBase { src: "10.1.2.3".parse().unwrap(), dst: "10.1.2.77".parse().unwrap(), dport: 31337 };
        for port in 20_000..20_500 {
            let expected = match before.class_of(&base, port).unwrap() {
                0 => Some(0),
                1 => None,
                other => Some(other - 1),
            };
            assert_eq!(after.class_of(&base, port), expected);
        }
        assert_eq!(counts(&less, "10000-32000"), [1, 1, 1]);
    }

    #[test]
    fn refused_where_it_would_lose_frames_or_is_not_needed() {
        let of = |mode, policy, stacking| refusal(&Bond { mode, policy: Some(policy), ..layer2(2) }, stacking);
        let (lacp, plain) = (Mode::Ieee8023ad, Stacking::Plain);
        for policy in [Policy::Layer2, Policy::Layer23, Policy::Encap34, Policy::VlanSrcmac, Policy::Encap23] {
            assert_eq!(of(lacp, policy, plain), None);
            assert_eq!(of(Mode::Xor, policy, plain), None);
        }
        assert_eq!(of(Mode::RoundRobin, Policy::Layer34, plain), None);
        assert_eq!(of(lacp, Policy::Layer34, plain), Some(Unplaceable::ByPorts));
        assert_eq!(of(lacp, Policy::Layer34, Stacking::DoubleVlan), None, "ports do not reach the hash there");
        assert_eq!(of(lacp, Policy::Layer2, Stacking::OneFlow), Some(Unplaceable::Tunnel));
        for mode in [Mode::ActiveBackup, Mode::Broadcast, Mode::Tlb, Mode::Alb] {
            assert_eq!(of(mode, Policy::Layer2, plain), Some(Unplaceable::Mode(mode)));
        }
        assert_eq!(refusal(&layer2(1), plain), Some(Unplaceable::OneSlave));
        assert_eq!(refusal_for_good(&layer2(1), plain), Some(Unplaceable::OneSlave));
        let mut one_down = layer2(2);
        one_down.slaves[0].carrier = Some(false);
        assert_eq!(refusal(&one_down, plain), Some(Unplaceable::OneSlave));
        assert_eq!(refusal_for_good(&one_down, plain), None, "it may come back");
        assert!(stays(&one_down, plain) && stays(&layer2(1), plain) && !stays(&layer2(2), Stacking::OneFlow));
    }

    #[test]
    fn streams_without_a_plan_are_even_and_stay_where_they_can() {
        let share_out = |now: &[Option<usize>], weights: &[u32]| share_out(now, weights, &[0; 4]);
        assert_eq!(share_out(&[None; 4], &[1; 4]), [0, 1, 2, 3].map(Some));
        assert_eq!(share_out(&[0, 1, 2, 3].map(Some), &[1, 0, 1, 1]), [0, 0, 2, 3].map(Some));
        assert_eq!(share_out(&[0, 0, 2, 3].map(Some), &[1; 4]), [0, 1, 2, 3].map(Some));
        assert_eq!(share_out(&[Some(0), None], &[0, 0]), [None, None]);
        assert_eq!(share_out(&[Some(3)], &[1; 4]), [Some(3)], "it need not move");
    }

    #[test]
    fn sessions_of_one_stream_do_not_all_leave_by_the_first_slave() {
        let mut load = [0; 3];
        for _ in 0..6 {
            let [Some(slave)] = share_out(&[None], &[10, 20, 10], &load)[..] else { panic!("nowhere") };
            load[slave] += 1;
        }
        assert!(load.iter().all(|streams| *streams > 0) && load[1] >= 2, "{load:?}");
    }

    proptest! {
        #[test]
        fn shares_are_those_of_the_weights(
            now in proptest::collection::vec(proptest::option::of(0usize..6), 0..40),
            weights in proptest::collection::vec(0u32..5, 1..6),
            load in proptest::collection::vec(0u16..9, 0..6),
        ) {
            let shared = share_out(&now, &weights, &load);
            let usable = weights.iter().any(|weight| *weight > 0);
            prop_assert!(shared.iter().all(|slave| slave.is_some() == usable));
            let has = |slave: usize| shared.iter().filter(|one| **one == Some(slave)).count();
            let usable: Vec<usize> = (0..weights.len()).filter(|slave| weights[*slave] > 0).collect();
            prop_assert!(now.len() < usable.len() || usable.iter().all(|slave| has(*slave) > 0));
            // With no others about, the planner's rule, but for who of several gets the last one.
            let alone = share_out(&now, &weights, &[]);
            for (slave, want) in by_weight(u16::try_from(now.len()).unwrap(), &weights).into_iter().enumerate() {
                let has = alone.iter().filter(|one| **one == Some(slave)).count();
                prop_assert!(has.abs_diff(want.into()) <= 1, "slave {} has {}, not {}", slave, has, want);
            }
        }
    }
}
