//! What a job means on this system: for each address of the receiver the way out, the bond and the plan.

use super::address::Route;
use super::job::{Listening, PlanRequest};
use crate::bond::{Bond, ByteOrder, KernelHash, Mode, Planned, Planner, PortPool, Severity, Slave, Sway};
use crate::discover::{self, Class, DiscoverError, End, Leg, Overrides, PathView, Request, Tree};
use crate::engine::{BondTowards, Hub, Leaving, Teller, Way, Workers};
use crate::error::{Error, words};
use crate::observe::napi;
use crate::paths::{self, Gauge, MAX_STREAMS, Sees};
use crate::steer::queues::Queues;
use crate::steer::workers::{self, WorkerCount};
use crate::wire::{BondFacts, Slaves};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
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
}

impl Target {
    /// Finds the way and plans the streams.
    pub(super) fn look(wanted: &PlanRequest, route: Route) -> Result<Self, Error> {
        let PlanRequest { streams: asked, ports, overrides } = wanted.clone();
        let request = Request { destination: route.to, source: route.from, ports, overrides };
        let tree = Tree::default();
        let view = discover::discover(&request, &tree).map_err(unreachable_path)?;
        let pool = request.ports.clone().unwrap_or_else(|| tree.port_pool());
        let spare = tree.kernel_ports();
        let mut planner = view.planner(pool, random_seed()?);
        let streams = asked.unwrap_or(view.streams).min(MAX_STREAMS);
        let plan = planner.plan(streams, &[]).map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { request, asked, view, planner, plan, spare })
    }

    /// What will tell the connector of changes on the way: links, and this host's address on it. `leaving` shows where
    /// streams leave.
    pub(super) fn follow(&self, leaving: LeavingOf) -> Box<dyn FnOnce(Teller) + Send> {
        let (request, view, asked) = (self.request.clone(), self.view.clone(), self.asked);
        Box::new(move |teller| {
            let overrides = request.overrides.clone();
            let teller = Arc::new(teller);
            let listened = Arc::clone(&teller);
            let tell = move |view: &PathView| {
                teller.tell(way(view, &overrides, asked, Some(&leaving)));
            };
            if let Err(error) = discover::follow(request, view, move || listened.is_wanted(), tell) {
                log::warn!("{error}; the plan stays as it is if a link changes");
            }
        })
    }

    /// The way as it is now, without looking where streams leave.
    pub(super) fn unseen_way(&self) -> Way {
        way(&self.view, &self.request.overrides, self.asked, None)
    }

    /// The way as it is now. `leaving` shows where streams leave.
    pub(super) fn way(&self, leaving: &LeavingOf) -> Way {
        way(&self.view, &self.request.overrides, self.asked, Some(leaving))
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

/// A way, as the path manager is told of it; `asked`: so many streams.
fn way(view: &PathView, overrides: &Overrides, asked: Option<u16>, leaving: Option<&LeavingOf>) -> Way {
    let (gauge, leaving) = leaving.and_then(|leaving| gauge(view, overrides, asked, leaving)).unzip();
    let facts = paths::Way {
        source: Some(view.source),
        outlook: view.outlook.clone(),
        slaves: slaves(view),
        streams: asked.unwrap_or(view.streams).min(MAX_STREAMS),
        gauge,
        bond: facts(view),
    };
    Way { facts, leaving }
}

/// How to see by which slave each stream leaves, if that can be.
fn gauge(view: &PathView, overrides: &Overrides, asked: Option<u16>, leaving: &LeavingOf) -> Option<(Gauge, Leaving)> {
    let slaves = view.slaves();
    let count = u16::try_from(slaves.len()).ok().filter(|count| *count > 1)?;
    if overrides.no_bond {
        return None;
    }
    let [leg] = view.legs.as_slice() else { return None };
    let doubted = is_doubted(leg, overrides)?;
    let leaving = leaving(slaves);
    let sees = if matches!(leaving, Leaving::Streams(_)) { Sees::Streams } else { Sees::Slaves };
    let gauge = Gauge {
        slaves: slaves.iter().map(|slave| slave.name.clone()).collect(),
        weights: leg.bond.as_ref().map_or_else(|| vec![1; slaves.len()], Bond::weights),
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
    let stated = overrides.policy.map_or(read, |policy| Sway::of(&Bond { policy, ..bond.clone() }, leg.stacking));
    let differs = overrides.policy.is_some_and(|policy| policy != bond.policy)
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
    view.classes.iter().map(|class| class.name.clone()).collect()
}

/// The loops of a listener, where they are this host's to choose.
pub(super) fn workers(listening: &Listening) -> Workers {
    let count = match listening.workers {
        WorkerCount::Stated(count) => count,
        WorkerCount::Auto => {
            let bonds = discover::bonds(&Tree::default());
            let of = |bond: &Bond| (bond.mbit().unwrap_or(0), usize::from(bond.streams()));
            let (mbit, streams) = bonds.iter().map(of).max().unwrap_or_default();
            workers::count(thread::available_parallelism().map_or(1, NonZero::get), mbit, streams)
        }
    };
    Workers { count, steering: listening.steering, ebpf: listening.ebpf }
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
pub(super) struct WaysBack(Mutex<HashMap<IpAddr, (Instant, Option<PathView>)>>);

impl WaysBack {
    fn to(&self, peer: IpAddr) -> Option<PathView> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = lock();
        known.retain(|_, (read, _)| read.elapsed() < BOND_IS_FRESH);
        if let Some((_, view)) = known.get(&peer) {
            return view.clone();
        }
        // A look may take its time, which is no other session's affair.
        drop(known);
        let view = discover::discover(&Request::back_to(peer), &Tree::default()).ok();
        lock().insert(peer, (Instant::now(), view.clone()));
        view
    }

    /// What a listener tells each peer of the bond that leads to it.
    pub(super) fn bonds(self: Arc<Self>) -> BondTowards {
        Arc::new(move |peer| self.to(peer).as_ref().and_then(facts))
    }

    /// Keeps a peer informed of that bond for as long as the session lasts.
    pub(super) fn follow_bond(&self, hub: &Arc<Hub>, peer: IpAddr) {
        let Some(view) = self.to(peer).filter(|view| only_bond(view).is_some()) else { return };
        let (wanted, told) = (Arc::downgrade(hub), Arc::downgrade(hub));
        let is_wanted = move || wanted.upgrade().is_some_and(|hub| !hub.is_ended());
        let tell = move |view: &PathView| {
            if let (Some(hub), Some(bond)) = (told.upgrade(), facts(view)) {
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
    let (leg, bond) = only_bond(view)?;
    Some(BondFacts {
        slaves: Slaves::of_speeds(&bond.weights())?,
        mode: Some(bond.mode),
        policy: Some(bond.policy),
        stacking: Some(leg.stacking),
        dynamic_lb: bond.dynamic_lb,
        kernel: Some(KernelHash::of_release(&view.kernel)),
        order: ByteOrder::NATIVE,
    })
}
