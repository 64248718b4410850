//! What a world is made of, drawn from its seed: hosts, switch, knowledge, peer, and what happens when.

use super::host::{Host, Knowledge, Link, Settings, Spreads};
use super::net::Nat;
use crate::bond::{ByteOrder, Era, KernelHash, Mode, Policy, PortPool};
use crate::paths::Sees;
use crate::transfer::Time;
use crate::transfer::sim::link::{Rng, ms};
use std::net::IpAddr;
use std::time::Duration;

/// How a listener sees where streams arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    /// By the receive queue, at once.
    Queue,
    /// By counters, after a while, and only what carries much.
    Counters,
}

/// What kind of listener it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It tells what is so, so much later.
    Honest(Sight, Duration),
    /// It tells nothing.
    Mute,
    /// It tells what is not, up to a time.
    Liar(Lie),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// Arrivals among absurd numbers of slaves.
    Huge,
    /// Every stream arrives on one of four.
    AllOnOne,
    /// Arrivals among ever other numbers of slaves.
    Flapping,
    /// A storm of words on its bond.
    Bonds,
    /// Both.
    Everything,
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A link fails, or is back; the hosts notice later.
    Link {
        host: usize,
        link: usize,
        up: bool,
    },
    /// Both ends of it have noticed.
    Noticed {
        host: usize,
        link: usize,
        up: bool,
    },
    /// Nothing passes any more, and nobody notices; or it is well again.
    Hole {
        host: usize,
        link: usize,
        up: bool,
    },
    Policy {
        host: usize,
        policy: Policy,
    },
    /// Some stream dies.
    Death,
    /// The input gives nothing for so long.
    Starve(Duration),
    /// The liar is tired of it.
    Truth,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) hosts: [Host; 2],
    pub(super) spreads: [Spreads; 2],
    pub(super) nat: Nat,
    pub(super) knowledge: Knowledge,
    pub(super) peer: Peer,
    pub(super) changes: Vec<(Time, Change)>,
    pub(super) delay: Duration,
    /// Whether the connector sends, receives.
    pub(super) ways: (bool, bool),
    pub(super) pool: PortPool,
    pub(super) spare: PortPool,
    /// Answers come in to the spare ports alone.
    pub(super) filter: bool,
    /// Percent of greetings that come to nothing, of ports that somebody else has.
    pub(super) refused: u64,
    pub(super) squatted: u64,
    /// How often the counters are brought up to date.
    pub(super) lag: Duration,
}

const ADDRESSES: [[&str; 2]; 2] = [["10.1.2.", "10.1.9."], ["fd00::1:", "fd00::9:"]];

fn address(rng: &mut Rng, family: usize, side: usize) -> IpAddr {
    format!("{}{}", ADDRESSES[family][side], 1 + rng.below(99)).parse().unwrap()
}

fn settings(rng: &mut Rng, order: ByteOrder) -> Settings {
    let mode = if rng.chance(75) { Mode::Ieee8023ad } else { Mode::ALL[usize::try_from(rng.below(7)).unwrap()] };
    let policy =
        if rng.chance(75) { Policy::Layer34 } else { Policy::from_u32(u32::try_from(rng.below(6)).unwrap()).unwrap() };
    let era = Era::ALL[if rng.chance(70) { 4 } else { usize::try_from(rng.below(5)).unwrap() }];
    Settings { mode, policy, dynamic_lb: rng.chance(70), era, order }
}

fn host(rng: &mut Rng, family: usize, side: usize) -> Host {
    let order = if side == 1 && rng.chance(10) { ByteOrder::Big } else { ByteOrder::Little };
    let most = if rng.chance(10) { 7 } else { 3 };
    let links = if rng.chance(15) { 1 } else { 2 + rng.below(most) };
    let rate = 4000 << rng.below(3);
    let unequal = rng.chance(7);
    let link = |rng: &mut Rng| Link { up: true, used: true, rate: if unequal { rate << rng.below(2) } else { rate } };
    let links = (0..links).map(|_| link(rng)).collect();
    let mac = [2, 0, 0, 0, u8::try_from(side).unwrap(), u8::try_from(rng.below(256)).unwrap()];
    Host { addr: address(rng, family, side), mac, bond: settings(rng, order), links }
}

fn spreads(rng: &mut Rng) -> Spreads {
    let seed = rng.below(u64::MAX);
    match rng.below(10) {
        0..6 => Spreads::Ports(seed),
        6 => Spreads::Addresses(seed),
        _ => Spreads::Linux,
    }
}

fn peer(rng: &mut Rng) -> Peer {
    match rng.below(20) {
        0..12 => Peer::Honest(Sight::Queue, ms(0)),
        12..14 => Peer::Honest(Sight::Counters, ms(0)),
        14..16 => Peer::Honest(Sight::Queue, ms(rng.below(3000))),
        16 | 17 => Peer::Mute,
        _ => Peer::Liar(
            [Lie::Huge, Lie::AllOnOne, Lie::Flapping, Lie::Bonds, Lie::Everything]
                [usize::try_from(rng.below(5)).unwrap()],
        ),
    }
}

fn knowledge(rng: &mut Rng, host: &Host) -> Knowledge {
    let era = host.bond.era;
    let kernel = match rng.below(20) {
        // A vendor's kernel that nobody has read.
        0 => KernelHash::certain(Era::ALL[usize::try_from(rng.below(5)).unwrap()]),
        1 => KernelHash { era: Era::V5_18, or: Some(era).filter(|era| *era < Era::V4_14) },
        _ => KernelHash::certain(era),
    };
    Knowledge {
        stated: rng.chance(3).then_some(Policy::Layer34),
        kernel,
        sees: match rng.below(10) {
            0 => None,
            1..4 => Some(Sees::Streams),
            _ => Some(Sees::Slaves),
        },
        streams: rng.chance(10).then(|| u16::try_from(1 + rng.below(10)).unwrap()),
    }
}

/// What happens within the first seconds.
fn changes(rng: &mut Rng, hosts: &[Host; 2], peer: Peer) -> Vec<(Time, Change)> {
    let mut changes = Vec::new();
    if matches!(peer, Peer::Liar(_)) {
        changes.push((Time(ms(2000 + rng.below(8000))), Change::Truth));
    }
    if rng.chance(30) {
        return changes;
    }
    for _ in 0..=rng.below(3) {
        let at = Time(ms(rng.below(4000)));
        let host = usize::from(rng.chance(50));
        let links = hosts[host].links.len() as u64;
        let link = usize::try_from(rng.below(links)).unwrap();
        match rng.below(10) {
            // Not the first, so that one is left.
            0..6 if link > 0 => {
                let noticed = at + ms(rng.below(100));
                changes.push((at, Change::Link { host, link, up: false }));
                changes.push((noticed, Change::Noticed { host, link, up: false }));
                if rng.chance(60) {
                    let back = noticed + ms(1 + rng.below(4000));
                    changes.push((back, Change::Link { host, link, up: true }));
                    changes.push((back + ms(rng.below(100)), Change::Noticed { host, link, up: true }));
                }
            }
            6 if link > 0 => {
                changes.push((at, Change::Hole { host, link, up: false }));
                changes.push((at + ms(rng.below(5000)), Change::Hole { host, link, up: true }));
            }
            7 => {
                let policy = if rng.chance(50) { Policy::Layer34 } else { Policy::Layer2 };
                changes.push((at, Change::Policy { host, policy }));
            }
            8 => changes.push((at, Change::Starve(ms(rng.below(3000))))),
            _ => changes.push((at, Change::Death)),
        }
    }
    changes.sort_by_key(|(at, _)| *at);
    changes
}

impl Script {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let family = usize::from(rng.chance(30));
        let hosts = [host(rng, family, 0), host(rng, family, 1)];
        let nat = match rng.below(20) {
            0 if family == 0 => Nat::Address,
            1 if family == 0 => Nat::Beyond,
            2 => Nat::Host,
            _ => Nat::None,
        };
        let peer = peer(rng);
        let knowledge = knowledge(rng, &hosts[0]);
        let low = 20_000 + u16::try_from(rng.below(10_000)).unwrap();
        let filter = rng.chance(3);
        let pool = (low, low + 700 + u16::try_from(rng.below(800)).unwrap());
        Self {
            changes: changes(rng, &hosts, peer),
            spreads: [spreads(rng), spreads(rng)],
            nat,
            knowledge,
            peer,
            hosts,
            delay: ms(rng.below(15)),
            ways: [(true, false), (true, false), (false, true), (true, true)][usize::try_from(rng.below(4)).unwrap()],
            pool: if filter || rng.chance(50) {
                PortPool::of_kernel(pool, &[])
            } else {
                PortPool::stated(pool.0, pool.1).unwrap()
            },
            spare: PortPool::of_kernel((36_000, 37_000), &[]),
            filter,
            refused: if rng.chance(10) { 20 } else { 0 },
            squatted: if rng.chance(10) { 30 } else { 0 },
            lag: if rng.chance(15) { ms(rng.below(2000)) } else { ms(0) },
        }
    }

    /// The same world with a listener that lies for ever, and nothing else that happens.
    pub(super) fn with_liar(self, lie: Lie) -> Self {
        Self { peer: Peer::Liar(lie), changes: Vec::new(), refused: 0, squatted: 0, filter: false, ..self }
    }

    /// The listener alone sends, ports choose everywhere, everything is told; then one link of `end` fails for good.
    pub(super) fn with_lost_link(mut self, rng: &mut Rng, end: usize) -> Self {
        for host in &mut self.hosts {
            let bond = Settings { mode: Mode::Ieee8023ad, policy: Policy::Layer34, ..host.bond };
            let rate = host.links[0].rate;
            let links = 2 + rng.below(4);
            host.bond = Settings { era: Era::V5_18, ..bond };
            host.links = (0..links).map(|_| Link { up: true, used: true, rate }).collect();
        }
        let link = usize::try_from(rng.below(self.hosts[end].links.len() as u64)).unwrap();
        let at = Time(ms(3000 + rng.below(1000)));
        let noticed = at + ms(rng.below(100));
        let kernel = KernelHash::certain(Era::V5_18);
        Self {
            knowledge: Knowledge { stated: None, kernel, sees: Some(Sees::Slaves), streams: None },
            spreads: [Spreads::Ports(rng.below(u64::MAX)), Spreads::Ports(rng.below(u64::MAX))],
            nat: Nat::None,
            peer: Peer::Honest(Sight::Queue, ms(0)),
            ways: (false, true),
            changes: vec![
                (at, Change::Link { host: end, link, up: false }),
                (noticed, Change::Noticed { host: end, link, up: false }),
            ],
            ..self.with_liar(Lie::Huge)
        }
    }
}
