//! What a job means on this system: for each address of the receiver the way out, the bond and the plan.

use super::address::Route;
use super::further;
use super::job::{Listening, PlanRequest};
use super::lock::lock;
use super::placing::plan_of;
use crate::bond::{
    AddressHash, Bond, ByteOrder, KernelHash, Mode, Pair, Planned, Planner, PortPool, Severity, Slave, Sway, placing,
};
use crate::discover::{self, Class, DiscoverError, End, Leg, Overrides, PathView, Request, Tree};
use crate::engine::{Hub, Introduce, Introduction, Leaving, Others, Teller, Told, Tuning, Way, Workers};
use crate::error::{Error, words};
use crate::observe::{Observer, napi};
use crate::paths::{self, ByAddress, Gauge, MAX_STREAMS, Sees};
use crate::place::Placer;
use crate::steer::queues::Queues;
use crate::steer::workers::{self, WorkerCount};
use crate::wire::{Addresses, BondFacts, Slaves};
use std::cell::LazyCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// One address of the receiver, with the way there and the plan.
pub(super) struct Target {
    request: Request,
    /// Streams asked for.
    asked: Option<u16>,
    pub(super) view: PathView,
    pub(super) planner: Planner,
    pub(super) plan: Vec<Planned>,
    /// The source ports that the kernel itself would choose from.
    pub(super) spare: PortPool,
    known: Arc<Mutex<Known>>,
    placer: Option<Arc<Placer>>,
}

/// What is known of the way by now, by whoever found it.
struct Known {
    view: PathView,
    /// Pairs of addresses that get through, if there are several.
    pairs: Vec<Pair>,
}

impl Known {
    /// The way is that now. From another address, or over another device, other pairs would get through.
    fn see(&mut self, view: &PathView) {
        if !self.goes_like(view) {
            self.pairs.clear();
        }
        self.view = view.clone();
    }

    /// Whether it goes from the same address over the same device.
    fn goes_like(&self, view: &PathView) -> bool {
        (view.source, further::device(view)) == (self.view.source, further::device(&self.view))
    }
}

impl Target {
    /// Finds the way and plans the streams.
    pub(super) fn look(wanted: &PlanRequest, route: Route) -> Result<Self, Error> {
        let PlanRequest { streams: mut asked, ports, overrides } = wanted.clone();
        let request = Request { destination: route.to, source: route.from, ports, overrides };
        let tree = Tree::default();
        let view = discover::discover(&request, &tree).map_err(unreachable_path)?;
        let pool = request.ports.clone().unwrap_or_else(|| tree.port_pool());
        let spare = tree.kernel_ports();
        let mut planner = view.planner(pool, random_seed()?);
        let streams = asked.unwrap_or(view.streams).min(MAX_STREAMS);
        let mut plan = planner.plan(streams, &[]);
        if let Some(fewer) = fewer(asked, streams, view.classes.len()).filter(|_| plan.is_err()) {
            asked = Some(fewer);
            plan = planner.plan(fewer, &[]);
        }
        let plan = plan.map_err(|error| Error::Usage(error.to_string()))?;
        let known = Arc::new(Mutex::new(Known { view: view.clone(), pairs: Vec::new() }));
        Ok(Self { request, asked, view, planner, plan, spare, known, placer: None })
    }

    /// From now on this is told of the plan.
    pub(super) fn tell(&mut self, placer: Option<Arc<Placer>>) {
        if let Some(placer) = &placer {
            placer.plan_by(plan_of(&self.view));
        }
        self.placer = placer;
    }

    /// What will tell the connector of changes on the way: links, and this host's address on it; and if what `leaving`
    /// shows is not the `observer`'s word any more.
    pub(super) fn follow(&self, leaving: LeavingOf, observer: Option<Arc<Observer>>) -> Box<dyn FnOnce(Teller) + Send> {
        let (request, view, asked) = (self.request.clone(), self.view.clone(), self.asked);
        let (known, placer) = (Arc::clone(&self.known), self.placer.clone());
        Box::new(move |teller| {
            let overrides = request.overrides.clone();
            let teller = Arc::new(teller);
            let listened = Arc::clone(&teller);
            let now = Arc::clone(&known);
            let see = move |view: &PathView, placer: Option<&Placer>| {
                let mut known = lock(&known);
                known.see(view);
                if let Some(placer) = placer {
                    // The slots first: what is planned anew may leave by them at once.
                    placer.look();
                    placer.plan_by(plan_of(view));
                }
                teller.tell(way(&known, &overrides, asked, Some(&leaving)));
            };
            let see = Arc::new(see);
            if let Some(observer) = observer {
                let see = Arc::clone(&see);
                observer.failure().then(move || {
                    let view = lock(&now).view.clone();
                    see(&view, None);
                });
            }
            let unplaced =
                Request { overrides: Overrides { place: false, ..request.overrides.clone() }, ..request.clone() };
            let seen = Arc::clone(&see);
            let without_placing = Arc::new(move || match discover::discover(&unplaced, &Tree::default()) {
                Ok(view) => seen(&view, None),
                Err(error) => log::warn!("{error}; the plan stays as it was"),
            });
            if let Some(placer) = &placer {
                // By a thread of its own: the loop is told, and does not wait.
                let again = Arc::clone(&without_placing);
                placer.loss().then(move || {
                    if let Err(error) = thread::Builder::new().name("unplaced".into()).spawn(move || again()) {
                        log::warn!("the plan stays as it was: cannot start a thread: {error}");
                    }
                });
            }
            let tell = move |view: &PathView| match &placer {
                Some(placer) if view.placed && !is_placed_by(view, placer) => without_placing(),
                placer => see(view, placer.as_deref()),
            };
            if let Err(error) = discover::follow(request, view, move || listened.is_wanted(), tell) {
                log::warn!("{error}; the plan stays as it is if a link changes");
            }
        })
    }

    /// What tries the listener's further addresses where this host's bond, or for what is received (`receives`) the
    /// listener's, goes by addresses.
    pub(super) fn others(&self, leaving: LeavingOf, (sends, receives): (bool, bool)) -> Others {
        let (overrides, asked, known) = (self.request.overrides.clone(), self.asked, Arc::clone(&self.known));
        Box::new(move |told: Told| {
            let view = lock(&known).view.clone();
            let ours = view.by_address.clone().filter(|_| sends);
            let theirs = told.bond.and_then(|bond| bond.address_hash()).filter(|_| receives);
            let hashes: Vec<&AddressHash> = ours.iter().chain(&theirs).collect();
            if hashes.is_empty() {
                return;
            }
            let by_family = hashes.iter().all(|hash| hash.is_by_family());
            let find = move || {
                let found = further::explore(&view, &told.addresses, by_family);
                if found.pairs.is_empty() {
                    say_silent(&found.silent, view.destination.port());
                    return;
                }
                let mut known = lock(&known);
                if known.goes_like(&view) {
                    known.pairs = found.pairs;
                    told.teller.tell(way(&known, &overrides, asked, Some(&leaving)));
                }
            };
            if let Err(error) = thread::Builder::new().name("addresses".into()).spawn(find) {
                log::warn!("the listener's further addresses are not tried: cannot start a thread: {error}");
            }
        })
    }

    /// The way as it is now, without looking where streams leave.
    pub(super) fn unseen_way(&self) -> Way {
        way(&lock(&self.known), &self.request.overrides, self.asked, None)
    }

    /// The way as it is now. `leaving` shows where streams leave.
    pub(super) fn way(&self, leaving: &LeavingOf) -> Way {
        way(&lock(&self.known), &self.request.overrides, self.asked, Some(leaving))
    }

    /// Whether it is measured, before the first byte, by which slave each stream leaves.
    pub(super) fn is_measured(&self) -> bool {
        let overrides = &self.request.overrides;
        let doubted = |leg: &Leg| is_doubted(leg, overrides) == Some(true);
        let guessed = !self.view.drawn.is_empty() || self.view.legs.first().is_some_and(doubted);
        guessed && !self.view.placed && !overrides.no_bond
    }

    /// The loops of a connector, where they are this host's to choose: by the bonds on the way.
    pub(super) fn workers(&self, stated: WorkerCount) -> usize {
        let bonds = self.view.legs.iter().filter_map(|leg| leg.bond.as_ref());
        loops(stated, || (bonds.filter_map(Bond::mbit).sum(), self.plan.len()))
    }

    /// How the sockets of its streams are set, where so much is sent in a second at most.
    pub(super) fn tuning(&self, rate: Option<u64>) -> Tuning {
        let speeds: Vec<u32> = self.view.slaves().iter().filter_map(|slave| slave.speed).collect();
        Tuning::of(&speeds, rate)
    }

    /// Says what was found, each at its weight.
    pub(super) fn say_notes(&self) {
        for note in &self.view.notes {
            match note.severity {
                Severity::Info => log::info!("{note}"),
                Severity::Uncertain | Severity::InTheWay => log::warn!("{note}"),
            }
        }
    }
}

/// Whether the program is on the bond of this way, which may be another than at first.
fn is_placed_by(view: &PathView, placer: &Placer) -> bool {
    only_bond(view).is_some_and(|(_, bond)| placer.is_placing_on(bond.ifindex))
}

/// Streams that will do where there are too few ports for those that nobody has asked for: one for each slave, and one
/// where no slave is in sight.
fn fewer(asked: Option<u16>, streams: u16, slaves: usize) -> Option<u16> {
    let enough = u16::try_from(slaves.max(1)).unwrap_or(u16::MAX);
    (asked.is_none() && enough < streams).then_some(enough)
}

fn unreachable_path(error: DiscoverError) -> Error {
    match error {
        DiscoverError::Families { .. } => Error::Usage(error.to_string()),
        other => Error::Unreachable { doing: "cannot connect".into(), reason: other.to_string(), remedy: "" },
    }
}

fn random_seed() -> Result<u64, Error> {
    getrandom::u64().map_err(|error| Error::os("cannot get random bytes", io::Error::other(error)))
}

/// What shows by which of these slaves streams leave.
pub(super) type LeavingOf = Arc<dyn Fn(&[Class]) -> Leaving + Send + Sync>;

/// By the slaves' transmit counters.
pub(super) fn counters(slaves: &[Class]) -> Leaving {
    let slaves = slaves.to_vec();
    Leaving::Slaves(Arc::new(move || discover::transmitted(&slaves, &Tree::default())))
}

fn say_silent(silent: &[IpAddr], port: u16) {
    if !silent.is_empty() {
        let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
        log::warn!(
            "the listener also has {}, which would lead to other slaves, but port {port} does not answer there: let it \
             through for these addresses too",
            silent.join(", ")
        );
    }
}

/// A way, as the path manager is told of it; `asked`: so many streams.
fn way(known: &Known, overrides: &Overrides, asked: Option<u16>, leaving: Option<&LeavingOf>) -> Way {
    let Known { view, pairs } = known;
    let by_address = view.by_address.is_some() && !pairs.is_empty();
    let gauge = |leaving| gauge(view, overrides, asked, by_address, leaving);
    let (gauge, leaving) = leaving.and_then(gauge).unzip();
    let facts = paths::Way {
        source: Some(view.source),
        outlook: view.outlook.clone(),
        slaves: if by_address { names(view.slaves()) } else { slaves(view) },
        streams: asked.unwrap_or(view.streams).min(MAX_STREAMS),
        gauge,
        bond: facts(view),
        by_address: ByAddress { pairs: pairs.clone(), hash: view.by_address.clone() },
        placed: view.placed,
    };
    Way { facts, leaving }
}

/// How to see by which slave each stream leaves, if that can be.
fn gauge(
    view: &PathView,
    overrides: &Overrides,
    asked: Option<u16>,
    by_address: bool,
    leaving: &LeavingOf,
) -> Option<(Gauge, Leaving)> {
    let slaves = view.slaves();
    let count = u16::try_from(slaves.len()).ok().filter(|count| *count > 1)?;
    if overrides.no_bond {
        return None;
    }
    let leg = view.legs.first()?;
    let (doubted, bond) = if view.drawn.is_empty() {
        let planned = || (by_address || view.placed).then_some(false);
        (is_doubted(leg, overrides).filter(|_| !view.placed).or_else(planned)?, leg.bond.as_ref())
    } else {
        (true, None)
    };
    let leaving = leaving(slaves);
    let sees = if matches!(leaving, Leaving::Streams(_)) { Sees::Streams } else { Sees::Slaves };
    let gauge = Gauge {
        slaves: names(slaves),
        weights: bond.map_or_else(|| vec![1; slaves.len()], Bond::weights),
        streams: asked.unwrap_or(count).min(MAX_STREAMS),
        doubted,
        sees,
    };
    Some((gauge, leaving))
}

/// Whether what the plan goes by is a guess: a draw by lot, or a person's word against the bond's own. `None` where
/// streams do not keep to one slave, so that there is nothing to measure.
fn is_doubted(leg: &Leg, overrides: &Overrides) -> Option<bool> {
    let Some(bond) = &leg.bond else { return (leg.end == End::Team).then_some(true) };
    let read = Sway::of(bond, leg.stacking);
    let as_stated = Bond { policy: overrides.policy.or(bond.policy), ..bond.clone() };
    let stated = Sway::of(&as_stated, leg.stacking);
    let differs = as_stated.policy != bond.policy
        || overrides.slaves.is_some_and(|slaves| usize::from(slaves) != bond.usable().len());
    match (read, stated) {
        (Sway::PerPacket | Sway::Everywhere | Sway::Loaded, _) => None,
        _ if bond.mode == Mode::ActiveBackup || bond.mode == Mode::Alb && bond.dynamic_lb => None,
        (Sway::Nothing, Sway::Nothing) => None,
        (Sway::Drawn, _) | (_, Sway::Drawn) => Some(true),
        _ => Some(differs),
    }
}

/// Names of the classes (slaves) that a plan is about, by index.
pub(super) fn slaves(view: &PathView) -> Vec<String> {
    names(&view.classes)
}

fn names(classes: &[Class]) -> Vec<String> {
    classes.iter().map(|class| class.name.clone()).collect()
}

/// The bonds of this host, read when they are first needed: a listener does not know yet over which its peers come.
pub(super) type HostBonds = LazyCell<Vec<Bond>>;

pub(super) fn host_bonds() -> HostBonds {
    LazyCell::new(|| discover::bonds(&Tree::default()))
}

/// The loops of a listener, where they are this host's to choose.
pub(super) fn workers(listening: &Listening, bonds: &HostBonds) -> Workers {
    let of = |bond: &Bond| (bond.mbit().unwrap_or(0), usize::from(bond.streams()));
    let fastest = || bonds.iter().map(of).max().unwrap_or_default();
    Workers { count: loops(listening.workers, fastest), steering: listening.steering, ebpf: listening.ebpf }
}

/// So many, or what a bond of that speed in Mbit/s and its streams are worth on this host.
fn loops(stated: WorkerCount, bond: impl FnOnce() -> (u64, usize)) -> usize {
    match stated {
        WorkerCount::Stated(count) => count,
        WorkerCount::Auto => workers::count(thread::available_parallelism().map_or(1, NonZero::get), bond),
    }
}

/// Speeds of the usable slaves of these bonds, Mbit/s, where they are known.
pub(super) fn speeds(bonds: &[Bond]) -> Vec<u32> {
    bonds.iter().flat_map(|bond| bond.usable()).filter_map(|slave| slave.speed).collect()
}

/// The receive queues of this host's bonds, each slave's together. The kernel tells them from 6.8 on.
pub(super) fn receive_queues() -> Vec<Vec<Queues>> {
    let known = napi::Queues::read().inspect_err(|error| log::debug!("receive queues: {}", words(error)));
    let Ok(Some(known)) = known else { return Vec::new() };
    let of = |slave: &Slave| known.of(slave.ifindex).into_iter().map(NonZero::get).collect();
    discover::bonds(&Tree::default()).iter().map(|bond| bond.usable().into_iter().map(of).collect()).collect()
}

/// How long a listener goes by what it has read of its way to a peer: the streams of one session begin within that
/// time.
const BOND_IS_FRESH: Duration = Duration::from_secs(2);

/// The ways from a listener to its peers, each as it was read last.
#[derive(Default)]
pub(super) struct WaysBack {
    /// Where the port is open.
    at: Option<SocketAddr>,
    /// What places the listener's streams.
    placer: Option<Arc<Placer>>,
    known: Mutex<HashMap<IpAddr, (Instant, Option<PathView>)>>,
}

impl WaysBack {
    /// Of a listener on this address, who tells its peers of the others on which it listens too.
    pub(super) fn of_listener(at: SocketAddr, placer: Option<Arc<Placer>>) -> Self {
        Self { at: Some(at), placer, known: Mutex::default() }
    }

    /// What a peer is told of the bond towards it.
    fn facts(&self, view: &PathView) -> Option<BondFacts> {
        let placed = |placer: &Arc<Placer>| {
            let (leg, bond) = only_bond(view)?;
            Some(placing::stays(bond, leg.stacking) && placer.is_placing_on(bond.ifindex))
        };
        facts_of(view, self.placer.as_ref().and_then(placed).unwrap_or(false))
    }

    fn to(&self, peer: IpAddr) -> Option<PathView> {
        let mut known = lock(&self.known);
        known.retain(|_, (read, _)| read.elapsed() < BOND_IS_FRESH);
        if let Some((_, view)) = known.get(&peer) {
            return view.clone();
        }
        // A look may take its time, which is no other session's affair.
        drop(known);
        let view = discover::discover(&Request::back_to(peer), &Tree::default()).ok();
        lock(&self.known).insert(peer, (Instant::now(), view.clone()));
        view
    }

    /// What a listener tells each peer of the bond that leads to it, and of its addresses there.
    pub(super) fn introduce(self: Arc<Self>) -> Introduce {
        Arc::new(move |peer| {
            let view = self.to(peer);
            let addresses = view.as_ref().map(|view| self.addresses(view)).unwrap_or_default();
            Introduction { bond: view.as_ref().and_then(|view| self.facts(view)), addresses }
        })
    }

    /// The addresses, beside the one that the peer has reached, on which it would reach this listener too.
    fn addresses(&self, view: &PathView) -> Addresses {
        let Some((at, device)) = self.at.filter(|at| at.ip().is_unspecified()).zip(further::device(view)) else {
            return Addresses::default();
        };
        let own = discover::addresses_on(device).unwrap_or_default();
        // [::] takes IPv4 as well.
        Addresses::new(own.into_iter().filter(|ip| *ip != view.source && (at.is_ipv6() || ip.is_ipv4())))
    }

    /// Keeps a peer informed of that bond for as long as the session lasts.
    pub(super) fn follow_bond(self: &Arc<Self>, hub: &Arc<Hub>, peer: IpAddr) {
        let Some(view) = self.to(peer).filter(|view| only_bond(view).is_some()) else { return };
        let (wanted, told) = (Arc::downgrade(hub), Arc::downgrade(hub));
        let is_wanted = move || wanted.upgrade().is_some_and(|hub| !hub.is_ended());
        let own = Arc::clone(self);
        let tell = move |view: &PathView| {
            if let (Some(hub), Some(bond)) = (told.upgrade(), own.facts(view)) {
                hub.tell_bond(bond);
            }
        };
        if let Err(error) = discover::follow(Request::back_to(peer), view, is_wanted, tell) {
            log::warn!("{error}; the peer will not hear of changes of this host's bond");
        }
    }
}

/// The bond that the way leads over, if that is exactly one.
fn only_bond(view: &PathView) -> Option<(&Leg, &Bond)> {
    let [leg] = view.legs.as_slice() else { return None };
    Some((leg, leg.bond.as_ref()?))
}

/// What the other side is told of this host's bond; nothing while none of its slaves is usable.
pub(super) fn facts(view: &PathView) -> Option<BondFacts> {
    facts_of(view, view.placed)
}

fn facts_of(view: &PathView, placed: bool) -> Option<BondFacts> {
    let (leg, bond) = only_bond(view)?;
    Some(BondFacts {
        slaves: Slaves::of_speeds(&bond.weights())?,
        mode: Some(bond.mode),
        policy: bond.policy,
        stacking: Some(leg.stacking),
        dynamic_lb: bond.dynamic_lb,
        kernel: Some(KernelHash::of_release(&view.kernel)),
        order: ByteOrder::NATIVE,
        placed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_streams_are_never_none() {
        // A guest's card, or a container's: four streams go out, and no slave is in sight.
        assert_eq!(fewer(None, 4, 0), Some(1));
        assert_eq!(fewer(None, 8, 4), Some(4), "fast slaves, each with two");
        assert_eq!(fewer(None, 4, 4), None, "each slave needs one");
        assert_eq!(fewer(Some(4), 4, 2), None, "a person's word");
        assert_eq!(fewer(None, 1, 0), None);
    }
}
