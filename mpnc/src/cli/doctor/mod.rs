//! `--doctor`: both sides tell each other what they know, over an ordinary session that carries nobody's data.
//!
//! ```text
//! connector                                        listener
//! facts before; its own findings, then filler -->
//!                                                  reads it all; facts after; what arrived on which slave
//!                                             <--  its findings, then filler
//! facts after; what arrived on which slave
//! ```
//!
//! Reads files and opens streams; what it finds is judged in [`crate::doctor`]. Changes nothing on either system.

mod exchange;
mod render;

use super::address;
use super::exit::Exit;
use super::failure;
use super::job::{Calling, Listening, PlanRequest, Show};
use super::lock::lock;
use super::observed::give_up_privileges;
use super::prepare::{self, Target, WaysBack};
use super::screen::{print, say};
use crate::bpf::privilege::Capability;
use crate::discover::{self, PathView, Request, Tree, vitals};
use crate::doctor::{Diagnosis, Host, Met, Pair, Translation, Trial, compare};
use crate::engine::{
    self, Attempt, Connect, Hub, Interrupts, Introduce, Introduction, OnSession, Open, Opened, OpenedEnds, Options,
    Report, Service, Tuning,
};
use crate::error::Error;
use crate::wire::Directions;
use exchange::{Exchange, Heard};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Streams of a probe: so many that chance does not leave a slave idle, even over up to 8 slaves.
const STREAMS: u16 = 16;
/// Small blocks, so that every stream gets some.
const BLOCK: u32 = 64 << 10;
/// Of each side.
const WINDOW: u64 = 64 << 20;

fn probing(timeout: Duration, introduce: Introduce, on_session: OnSession) -> Options {
    Options {
        directions: Directions::Check,
        window: WINDOW,
        block: BLOCK,
        rate: None,
        digest: false,
        timeout,
        introduce,
        on_session,
        // The counters will say: a search for better ports would spread what a switch does not.
        sight: None,
        placer: None,
        tuning: Tuning::of(&[], None),
    }
}

/// Examines this host, the way to the listener, and the listener's host if that has a doctor too.
pub(super) fn connect(calling: &Calling, timeout: Duration, show: Show) -> Result<Exit, Error> {
    let wanted = PlanRequest { streams: calling.plan.streams.or(Some(STREAMS)), ..calling.plan.clone() };
    let routes = address::routes(&calling.to)?;
    // Source ports below 1024 may be asked for.
    give_up_privileges(&[Capability::CAP_NET_BIND_SERVICE], false);
    let mut unreached = None;
    for route in &routes {
        let target = match Target::look(&wanted, *route) {
            Ok(target) => target,
            // There may be another address.
            Err(error @ Error::Unreachable { .. }) => {
                unreached = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let last = Some(route) == routes.last();
        match meet(route.to, target, timeout)? {
            (Met::Nobody(..), _) if !last => {}
            (_, diagnosis) => return tell(&diagnosis, show),
        }
    }
    Err(unreached.unwrap_or_else(|| Error::Bug("no address to connect to".into())))
}

/// Meets whoever is at one address.
fn meet(addr: SocketAddr, target: Target, timeout: Duration) -> Result<(Met, Diagnosis), Error> {
    let view = target.view.clone();
    let before = vitals(&view, &Tree::default());
    let own_bond = Introduction { bond: prepare::facts(&view), ..Introduction::default() };
    let own = Host::examined(&before, &before, &Trial::default());
    let (asked, spare) = (target.planner.pool().clone(), target.spare.clone());
    let planned = target.plan.iter().all(|planned| planned.port.is_some());
    let (exchange, pipe, on_session) = Exchange::ask(own, target.plan.len()).map_err(no_pipe)?;
    let how = Connect {
        target: addr,
        way: target.unseen_way(),
        planner: target.planner,
        plan: target.plan,
        stated: true,
        workers: 1,
        spare: target.spare,
        follow: Box::new(|_| {}),
        others: None,
    };
    let pipe = Mutex::new(Some(pipe));
    let open: Open =
        Arc::new(move |_, _| lock(&pipe).take().ok_or_else(|| Error::Bug("two sessions of one probe".into())));
    let attempt = engine::connect(how, probing(timeout, Arc::new(move |_| own_bond.clone()), on_session), open)?;
    let (met, opened) = match attempt {
        Attempt::Session(Ok(report)) => (Met::Doctor, report.opened),
        Attempt::Session(Err(error)) if matches!(error.cause(), Error::Interrupted { .. }) => return Err(error),
        Attempt::Failed(error) => (unmet(error)?, Vec::new()),
        Attempt::Session(Err(error)) => (Met::Broken(error.to_string()), Vec::new()),
    };
    let heard = exchange.finish();
    let after = vitals(&view, &Tree::default());
    let here = Host::examined(&before, &after, &heard.probe);
    let translation = (met == Met::Doctor).then(|| translation(&view, &opened));
    let there = heard.peer.as_ref().map(|host| &host.facts);
    let moved = planned && opened.iter().any(|opened| !asked.contains(opened.port));
    let filtered = moved.then(|| (asked.to_string(), spare.to_string()));
    let pair = Pair { listener: addr, met: &met, translation, filtered, here: &here.facts, there };
    let between = compare(&pair);
    Ok((met, Diagnosis::new(addr, here, heard.peer, between)))
}

/// Why there was no session, if that is something a doctor has a word for.
fn unmet(error: Error) -> Result<Met, Error> {
    match error {
        Error::Unreachable { doing, reason, remedy } => {
            Ok(Met::Nobody(format!("{doing}: {reason}"), remedy.to_owned()))
        }
        Error::Refused(words) => Ok(Met::Plain(words)),
        Error::Peer(words) => Ok(Met::Stranger(words)),
        other => Err(other),
    }
}

fn translation(view: &PathView, opened: &[Opened]) -> Translation {
    let pairs = opened.iter().map(|opened| (SocketAddr::new(view.source, opened.port), opened.seen));
    Translation::of(&pairs.collect::<Vec<_>>())
}

fn no_pipe(error: io::Error) -> Error {
    Error::os("cannot make a pipe", error)
}

// --- the listener ----------------------------------------------------------------------------------------------------

/// Waits for the other side's doctor, and examines this host on the way back to it. Answers what the last one came to.
pub(super) fn listen(listening: &Listening, timeout: Duration, show: Show) -> Result<Exit, Error> {
    let (addr, keep) = (address::listen_address(&listening.at)?, listening.keep);
    let bound = engine::bind(addr, prepare::workers(listening, &prepare::host_bonds()))?;
    let open = bound.sockets.open(&bound.guard)?;
    give_up_privileges(&[], false);
    let interrupts = Interrupts::catch()?;
    let level = if addr.port() == 0 { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "listening on {}", bound.addr);
    let port = bound.addr.port();
    let sessions = Arc::new(Waiting::default());
    let (opening, ending) = (Arc::clone(&sessions), Arc::clone(&sessions));
    let service = Service {
        open: Arc::new(move |caller, hub| opening.open(caller.peer, hub)),
        on_end: Arc::new(move |caller, outcome| {
            let told = ending.tell(caller.peer, port, outcome, show);
            ending.end(told, keep, show);
        }),
        at_once: 1,
        keep,
    };
    let options = probing(timeout, Arc::new(WaysBack::default()).introduce(), Arc::new(|_, _| {}));
    engine::listen(open, interrupts, options, service)?;
    let outcome = lock(&sessions.outcome).take();
    outcome.unwrap_or(Ok(Exit::Success))
}

/// The session of a listener, of which there is one at a time, and what the last one came to.
#[derive(Default)]
struct Waiting {
    exchange: Mutex<Option<Exchange>>,
    outcome: Mutex<Option<Result<Exit, Error>>>,
}

impl Waiting {
    fn open(&self, peer: SocketAddr, hub: &Arc<Hub>) -> Result<OpenedEnds, Error> {
        let view =
            discover::discover(&Request::to(peer), &Tree::default()).map_err(|error| Error::Peer(error.to_string()))?;
        let before = vitals(&view, &Tree::default());
        let (exchange, pipe, hubs) = Exchange::answer(view, before).map_err(no_pipe)?;
        // A thread that is over has no need of it.
        let _ = hubs.send(Arc::clone(hub));
        *lock(&self.exchange) = Some(exchange);
        Ok(pipe)
    }

    fn tell(&self, peer: SocketAddr, port: u16, outcome: Result<Report, Error>, show: Show) -> Result<Exit, Error> {
        let exchange = lock(&self.exchange).take();
        let heard = exchange.map(Exchange::finish).unwrap_or_default();
        match (outcome, heard.own.clone()) {
            (Ok(_), Some(here)) => tell(&answered(peer, port, here, heard), show),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(Error::Bug("a session of the doctor without an examination".into())),
        }
    }

    /// Keeps what a session came to for the end; one that failed while others may follow is told of now.
    fn end(&self, told: Result<Exit, Error>, keep: bool, show: Show) {
        if let Err(error) = &told
            && keep
        {
            say(&failure::text(show.json, None, error));
        }
        *lock(&self.outcome) = Some(told).filter(|told| !keep || told.is_ok());
    }
}

/// What a listener knows of the pair: the connector's ports are for the connector to compare, its address it has told.
fn answered(peer: SocketAddr, port: u16, here: Host, heard: Heard) -> Diagnosis {
    let there = heard.peer.as_ref().map(|host| &host.facts);
    let sent = there.map(|facts| SocketAddr::new(facts.address, peer.port()));
    let pair = Pair {
        listener: SocketAddr::new(here.facts.address, port),
        met: &Met::Doctor,
        translation: sent.map(|sent| Translation::of(&[(sent, peer)])),
        filtered: None,
        here: &here.facts,
        there,
    };
    let between = compare(&pair);
    Diagnosis::new(peer, here, heard.peer, between)
}

/// Prints what was found.
fn tell(diagnosis: &Diagnosis, show: Show) -> Result<Exit, Error> {
    let text = if show.json {
        serde_json::to_string(diagnosis).map_err(|error| Error::Bug(error.to_string()))?
    } else {
        render::text(diagnosis)
    };
    print(&text)?;
    Ok(if diagnosis.findings == 0 { Exit::Success } else { Exit::Findings })
}
