//! From facts to an outlook: which slaves the planner can be even over, how many streams that calls for, and what to
//! say.
//!
//! Must not ask the kernel; the one question that has to be asked per port (multipath routes) comes in as a function.

use super::view::{Class, Leg};
use super::walk::End;
use super::{Overrides, Ways};
use crate::bond::kernel::{has_tcx, hides_ports_of_big_packets};
use crate::bond::model::policy_name;
use crate::bond::{
    AddressHash, Bond, FlowBase, Hashing, KernelHash, Note, Outlook, Policy, PortClass, Slave, Sway, placing, policy,
};
use std::net::IpAddr;

/// Streams to open where something out of sight may spread them: even over 2 and 4 links by the form of their ports.
const BLIND_STREAMS: u16 = 4;
/// What a person can do about a bond out of sight.
const STATE_IT: &str =
    "if there is a bond with layer3+4 beyond it, say how many slaves it has: --slaves N --policy layer3+4";

/// The verdict on a path.
pub(super) struct Verdict {
    pub(super) outlook: Outlook,
    pub(super) classes: Vec<Class>,
    pub(super) streams: u16,
    /// The bond's hash, where it goes by addresses.
    pub(super) by_address: Option<AddressHash>,
    /// The plan is for streams that are placed.
    pub(super) placed: bool,
    pub(super) notes: Vec<Note>,
}

impl Verdict {
    fn unknown(streams: u16, notes: Vec<Note>) -> Self {
        Self::of(Outlook::Unknown, Vec::new(), streams, notes)
    }

    fn of(outlook: Outlook, classes: Vec<Class>, streams: u16, notes: Vec<Note>) -> Self {
        Self { outlook, classes, streams, by_address: None, placed: false, notes }
    }
}

/// Facts that do not depend on the leg.
pub(super) struct Facts<'a> {
    pub(super) kernel: &'a str,
    pub(super) base: FlowBase,
    pub(super) overrides: &'a Overrides,
}

/// Judges the path. `device_of` tells the egress device of a source port; it is only called with several legs.
pub(super) fn judge(facts: &Facts<'_>, ways: &Ways, device_of: impl DeviceOf) -> Verdict {
    let legs = ways.legs.as_slice();
    if facts.overrides.no_bond {
        return Verdict::unknown(1, vec![Note::info("--no-bond: the bond, if any, is left out of account")]);
    }
    if let Some(slaves) = facts.overrides.slaves {
        return stated(facts, legs, slaves);
    }
    match legs {
        [leg] => one_leg(facts, leg),
        [] => Verdict::unknown(
            BLIND_STREAMS,
            vec![Note::uncertain("the route's device cannot be seen from here", STATE_IT)],
        ),
        _ if ways.are_drawn => drawn_legs(legs),
        _ => several_legs(facts, legs, device_of),
    }
}

/// Asks for the egress device of a source port.
pub(super) trait DeviceOf: Fn(u16) -> Option<u32> + Send + Sync + 'static {}
impl<F: Fn(u16) -> Option<u32> + Send + Sync + 'static> DeviceOf for F {}

/// A bond as a person described it.
fn stated(facts: &Facts<'_>, legs: &[Leg], slaves: u16) -> Verdict {
    let policy = facts.overrides.policy.unwrap_or(Policy::Layer34);
    let mut notes = Vec::new();
    let seen = legs.iter().find_map(|leg| leg.bond.as_ref());
    if let Some(bond) = seen.filter(|b| b.usable().len() != usize::from(slaves)) {
        notes.push(Note::uncertain(
            format!("--slaves {slaves}, but {} has {} usable slaves", bond.name, bond.usable().len()),
            "leave --slaves away to go by what is seen",
        ));
    }
    if policy != Policy::Layer34 {
        notes.push(Note::in_the_way(
            format!("policy {} as stated: source ports cannot spread the bond", policy_name(policy)),
            "set xmit_hash_policy layer3+4 on the host that has the bond",
        ));
        return Verdict::unknown(1, notes);
    }
    let hashing = Hashing::alike(slaves, KernelHash::of_release(facts.kernel));
    if !slaves.is_power_of_two() {
        notes.push(Note::uncertain(
            format!(
                "{slaves} slaves as stated: even only if the bond's host sees the address {} and has a kernel like \
                 this one",
                facts.base.src
            ),
            "compare the slaves' shares in the bond's counters after a transfer (2, 4, 8 or 16 slaves need no such \
             luck)",
        ));
    }
    let classes = (0..slaves).map(|i| Class { name: format!("slave {i}"), ifindex: 0, speed: None }).collect();
    Verdict::of(Outlook::Hashed(hashing), classes, slaves, notes)
}

fn one_leg(facts: &Facts<'_>, leg: &Leg) -> Verdict {
    let name = leg.last_name();
    match (leg.end, &leg.bond) {
        (End::Bond, Some(bond)) => one_bond(facts, leg, &with_policy(bond, facts.overrides)),
        (End::Bond, None) => Verdict::unknown(
            BLIND_STREAMS,
            vec![Note::uncertain(
                format!("{name} is a bond, but its mode and slaves cannot be read here"),
                "make /sys/class/net readable, or say it: --slaves N --policy layer3+4",
            )],
        ),
        (End::Guest, _) => Verdict::unknown(BLIND_STREAMS, vec![beneath_a_guest(name)]),
        (End::Loopback, _) => {
            Verdict::unknown(1, vec![Note::info("the destination is this host: no bond is involved")])
        }
        (End::NoBond, _) => {
            Verdict::unknown(1, vec![Note::info(format!("no bond on the way: {name} carries all streams"))])
        }
        (end, _) => Verdict::unknown(BLIND_STREAMS, vec![out_of_sight(end, name)]),
    }
}

/// Most guests have no bond beneath them, and four streams serve those that have: nothing is amiss.
fn beneath_a_guest(name: &str) -> Note {
    let what = "is a virtual network card (a guest's, or a virtual function): a bond beneath it cannot be seen";
    Note { remedy: STATE_IT.to_owned(), ..Note::info(format!("{name} {what}")) }
}

/// The bond with the policy that a person stated in place of the one read.
fn with_policy(bond: &Bond, overrides: &Overrides) -> Bond {
    Bond { policy: overrides.policy.or(bond.policy), ..bond.clone() }
}

fn out_of_sight(end: End, name: &str) -> Note {
    match end {
        End::Elsewhere => Note::uncertain(
            format!("{name} leads into another network namespace (is this a container?): a bond there cannot be seen"),
            STATE_IT,
        ),
        End::Team => Note::uncertain(
            format!(
                "{name} is a team: teamd's hash program cannot be read; ports count only if its tx_hash has l4 (and \
                 not over IPv6)"
            ),
            "a bond with xmit_hash_policy layer3+4 can be planned exactly",
        ),
        End::Openvswitch => Note::uncertain(
            format!("{name} belongs to Open vSwitch, which places flows by load: slaves cannot be predicted"),
            "give more --streams; with bond_mode=balance-tcp they spread by themselves",
        ),
        End::Tunnel => Note::in_the_way(
            format!("{name} is a tunnel: ports do not reach the hash of a bond beneath it"),
            "send to an address that is reached without the tunnel",
        ),
        _ => Note::uncertain(format!("cannot tell which port of {name} leads to the destination"), STATE_IT),
    }
}

fn one_bond(facts: &Facts<'_>, leg: &Leg, bond: &Bond) -> Verdict {
    let mut notes: Vec<Note> =
        policy::sway_note(bond, leg.stacking).map(|note| or_placed(facts, leg, bond, note)).into_iter().collect();
    notes.extend(policy::state_notes(bond));
    let usable = bond.usable().len();
    let sway = Sway::of(bond, leg.stacking);
    if usable == 0 {
        notes.push(Note::in_the_way(format!("{} has no usable slave", bond.name), "check its links"));
        return Verdict::unknown(1, notes);
    }
    if facts.overrides.place && placing::stays(bond, leg.stacking) {
        return placed(bond, big_packets(facts, leg, bond));
    }
    if sway != Sway::Exact {
        let by_address = AddressHash::of_bond(bond, leg.stacking, &hashing(facts, bond));
        notes.extend(by_address.as_ref().map(|hash| to_be_tried(bond, hash)));
        return Verdict { by_address, ..Verdict::unknown(sway.streams(usable), notes) };
    }
    notes.extend(big_packets(facts, leg, bond));
    let hashing = hashing(facts, bond);
    if hashing.kernel.or.is_some() && !usable.is_power_of_two() {
        notes.push(Note::info(format!(
            "kernel {}: two forms of the hash are possible; the ports are even under both",
            facts.kernel
        )));
    }
    // Ports choose: as many as it takes to fill each slave.
    Verdict::of(Outlook::Hashed(hashing), classes(bond), bond.streams(), notes)
}

/// Why ports do not choose; where placing would do it, that remedy first: it takes no change of the bond.
fn or_placed(facts: &Facts<'_>, leg: &Leg, bond: &Bond, note: Note) -> Note {
    if !has_tcx(facts.kernel) || !placing::would_help(bond, leg.stacking) {
        return note;
    }
    Note { remedy: format!("{}; for good: {}", placing::remedy(bond), note.remedy), ..note }
}

/// A bond on whose slaves a program of ours places the streams.
fn placed(bond: &Bond, unseen: Option<Note>) -> Verdict {
    let of = |slave: &&Slave| Class { name: slave.name.clone(), ifindex: slave.ifindex, speed: slave.speed };
    let classes: Vec<Class> = bond.usable().iter().map(of).collect();
    let note = Note::info(format!(
        "--place: a program on the egress of {} sends each stream by its planned slave; queueing and captures there, \
         and programs after ours, do not see this transfer",
        bond.name
    ));
    let mut notes = policy::state_notes(bond);
    // What hides ports from the bond hides them from the program.
    notes.extend(unseen);
    notes.push(note);
    let streams = bond.streams();
    Verdict { placed: true, ..Verdict::of(placing::outlook(bond), classes, streams, notes) }
}

/// What cannot be planned before the receiver has told its addresses.
fn to_be_tried(bond: &Bond, hash: &AddressHash) -> Note {
    let what =
        if hash.is_by_family() { "IPv4 and IPv6 may take two slaves" } else { "pairs of addresses take several" };
    Note::info(format!(
        "{} goes by addresses, so {what}: the receiver's further addresses are tried once it has told them (not with \
         -4, -6 or -s)",
        bond.name
    ))
}

/// The most that TCP hands over at once without BIG TCP, bytes (`GSO_LEGACY_MAX_SIZE`, include/linux/netdevice.h).
const LEGACY_GSO: u32 = 65_536;

/// The note for packets so large that bonding does not find their ports.
fn big_packets(facts: &Facts<'_>, leg: &Leg, bond: &Bond) -> Option<Note> {
    let most = leg.gso_max.filter(|most| *most > LEGACY_GSO && bond.usable().len() > 1)?;
    let device = leg.layers.first().filter(|_| facts.base.dst.is_ipv6() && hides_ports_of_big_packets(facts.kernel))?;
    Some(Note::in_the_way(
        format!(
            "{} takes {most} bytes of TCP at once (gso_max_size): over IPv6 this kernel puts a header before the ports \
             of packets above 64 KiB, so {} sends the bulk of all streams by one slave",
            device.name, bond.name
        ),
        format!("as root: ip link set dev {} gso_max_size {LEGACY_GSO}", device.name),
    ))
}

/// The note for packets that may be no larger than `mtu`, where route and device permit `due` bytes: somebody keeps
/// room for a header of his own.
pub(super) fn wrapped(leg: &Leg, destination: IpAddr, due: u32, mtu: u32) -> Option<Note> {
    let (bond, top) = (leg.bond.as_ref()?, leg.layers.first()?);
    let slaves = bond.usable().len();
    (mtu < due && slaves > 1 && Sway::of(bond, leg.stacking) == Sway::Exact).then(|| {
        Note::uncertain(
            format!(
                "packets to {destination} may have {mtu} bytes where {} takes {due}: it seems that IPsec by policy (or \
                 a route that encapsulates) puts its own header before TCP's, and then {} sends all streams by one \
                 of {slaves} slaves",
                top.name, bond.name
            ),
            format!("see 'ip xfrm policy' and 'ip route get {destination}'; what goes without it is spread"),
        )
    })
}

fn hashing(facts: &Facts<'_>, bond: &Bond) -> Hashing {
    let usable = u16::try_from(bond.usable().len()).unwrap_or(u16::MAX);
    let alike = Hashing::alike(usable, KernelHash::of_release(facts.kernel));
    // Without their order, speeds cannot be told apart by index.
    if bond.ordered { Hashing { weights: bond.weights(), ..alike } } else { alike }
}

/// The usable slaves of a bond, by index.
pub(super) fn classes(bond: &Bond) -> Vec<Class> {
    let named = |(i, slave): (usize, &&Slave)| Class {
        name: if bond.ordered { slave.name.clone() } else { format!("slave {i} of {}", bond.name) },
        ifindex: if bond.ordered { slave.ifindex } else { 0 },
        speed: slave.speed,
    };
    bond.usable().iter().enumerate().map(named).collect()
}

/// What the connections of a multipath route are spread over: each next hop's slaves, or the next hop itself.
pub(super) fn drawn(legs: &[Leg]) -> Vec<Class> {
    legs.iter().flat_map(|leg| if leg.slaves.is_empty() { vec![next_hop(leg)] } else { leg.slaves.clone() }).collect()
}

/// A multipath route of which each connection draws a next hop.
fn drawn_legs(legs: &[Leg]) -> Verdict {
    let classes = drawn(legs);
    let note = Note::uncertain(
        format!(
            "multipath route over {} devices: under fib_multipath_hash_policy 0 this kernel draws one for each \
             connection, whatever its ports",
            legs.len()
        ),
        "as root: sysctl -w net.ipv6.fib_multipath_hash_policy=1",
    );
    Verdict::unknown(Sway::Drawn.streams(classes.len()), vec![note])
}

fn next_hop(leg: &Leg) -> Class {
    Class { name: leg.last_name().to_owned(), ifindex: leg.layers.last().map_or(0, |l| l.ifindex), speed: leg.speed }
}

/// A multipath route that follows the ports: each next hop's slaves, or the next hop itself where it has no bond we can
/// steer.
fn several_legs(facts: &Facts<'_>, legs: &[Leg], device_of: impl DeviceOf) -> Verdict {
    let mut classes_all = Vec::new();
    let mut branches = Vec::new();
    let mut notes = vec![Note::info(format!(
        "multipath route: the kernel chooses among {} by the ports, so these choose the next hop too",
        legs.iter().map(|leg| leg.layers.first().map_or("?", |l| l.name.as_str())).collect::<Vec<_>>().join(", ")
    ))];
    for leg in legs {
        let bond = leg.bond.as_ref().map(|bond| with_policy(bond, facts.overrides));
        let steered = bond.as_ref().filter(|b| Sway::of(b, leg.stacking) == Sway::Exact && !b.usable().is_empty());
        notes.extend(bond.iter().flat_map(|bond| policy::notes(bond, leg.stacking)));
        let first = u16::try_from(classes_all.len()).unwrap_or(u16::MAX);
        branches.push((leg.device(), first, steered.map(|bond| hashing(facts, bond))));
        match steered {
            Some(bond) => classes_all.extend(classes(bond)),
            None => classes_all.push(next_hop(leg)),
        }
    }
    let base = facts.base;
    let class_of = PortClass::asking(move |port| {
        let device = device_of(port)?;
        let (_, first, hashing) = branches.iter().find(|(of, ..)| *of == Some(device))?;
        let slave = match hashing {
            Some(hashing) => hashing.slave(&base.flow(port)?)?,
            None => 0,
        };
        Some(first + slave)
    });
    let speeds: Option<Vec<u32>> = classes_all.iter().map(|c| c.speed.filter(|s| *s > 0)).collect();
    let weights = speeds.unwrap_or_else(|| vec![1; classes_all.len()]);
    let streams = u16::try_from(classes_all.len()).unwrap_or(u16::MAX);
    Verdict::of(Outlook::Asked { weights, class_of }, classes_all, streams, notes)
}
