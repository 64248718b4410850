//! The sessions of a listener, shared by its workers: who is let in, and when a place is free again.
//!
//! A greeting is judged here at once, under a lock that nothing blocks under. What takes time (looking up the bond
//! towards the peer, opening the ends, closing them, reporting) is done by a thread of each session ([`super::serve`]);
//! until that knows the bond, the greetings wait, and ask again. A session's place is taken until its ends are gone:
//! what follows must never meet what it has left. Must not know sockets; the workers bring greetings and ask for the
//! session to join.

use super::bell::Bell;
use super::caller::Caller;
use super::ends::Open;
use super::hub::Hub;
use super::options::{Introduction, Options};
use super::report::Report;
use super::start::{Begun, Side, begin_session};
use crate::error::Error;
use crate::paths::MAX_STREAMS;
use crate::wire::{Directions, Hello, Refusal, SessionId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Streams of a session at most: what a connector opens, those that it tries and those that finish beside them.
const MOST_STREAMS: usize = 4 * MAX_STREAMS as usize;
/// Ended sessions whose late streams are told so, instead of beginning a session anew.
const REMEMBERED: usize = 1024;

/// Told what became of a session, on its own thread.
pub type OnEnd = Arc<dyn Fn(&Caller, Result<Report, Error>) + Send + Sync>;

/// What a listener does for each session.
pub struct Service {
    /// Opens its two ends.
    pub open: Open,
    /// Told what became of it.
    pub on_end: OnEnd,
    /// Sessions at the same time.
    pub at_once: usize,
    /// Whether there is a next session after the last.
    pub keep: bool,
}

/// How far a session has come.
enum Stage {
    /// The bond towards the peer is being looked up.
    Preparing,
    /// It is known; the session begins with the next stream that asks and is still there.
    Ready(Introduction, Sender<(Caller, Begun)>),
    Running(Arc<Hub>, Introduction),
}

struct Current {
    peer: SocketAddr,
    directions: Directions,
    block: u32,
    stage: Stage,
}

struct Register {
    current: BTreeMap<SessionId, Current>,
    past: VecDeque<SessionId>,
    started: u64,
    /// A signal has ended the listener: nothing begins any more.
    stopping: bool,
    keep: bool,
    done: bool,
}

/// What a stream needs to be part of a session.
pub(super) struct Joined {
    pub(super) hub: Arc<Hub>,
    /// Most payload of the peer's blocks, bytes.
    pub(super) block: u32,
    /// What the peer is told of this host.
    pub(super) introduction: Introduction,
}

/// What becomes of a greeting that is in order.
pub(super) enum Admission {
    Join(Joined),
    /// It is too early to say: ask again when the bell has rung.
    Wait,
    /// The same; and it is the first of its session, which needs a thread ([`super::serve`]).
    Prepare,
}

type Refused = (Refusal, String);

/// See the module documentation.
pub(super) struct Sessions {
    pub(super) options: Options,
    pub(super) service: Service,
    bells: Vec<Arc<Bell>>,
    state: Mutex<Register>,
}

impl Sessions {
    pub(super) fn new(options: Options, service: Service, bells: Vec<Arc<Bell>>) -> Arc<Self> {
        let state = Register {
            current: BTreeMap::new(),
            past: VecDeque::new(),
            started: 0,
            stopping: false,
            keep: service.keep,
            done: false,
        };
        Arc::new(Self { options, service, bells, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, Register> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loops that serve them.
    pub(super) fn workers(&self) -> usize {
        self.bells.len()
    }

    /// The sessions under way, and those that have ended and are not over yet.
    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.lock().current.values().filter_map(|current| current.hub().cloned()).collect()
    }

    /// Takes no more sessions.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        (state.keep, state.stopping) = (false, true);
    }

    /// Whether the last session is over.
    pub(super) fn is_done(&self) -> bool {
        self.lock().done
    }

    fn ring(&self) {
        self.bells.iter().for_each(|bell| bell.ring());
    }

    // --- who is let in -----------------------------------------------------------------------------------------------

    /// Lets a stream into its session, which begins with the first; or says why not.
    pub(super) fn admit(self: &Arc<Self>, hello: &Hello, peer: SocketAddr) -> Result<Admission, Refused> {
        let mut state = self.lock();
        if let Some(current) = state.current.get(&hello.session) {
            check_same(current, hello)?;
            return self.enter(&mut state, hello.session);
        }
        if state.past.contains(&hello.session) {
            return Err((Refusal::NoSuchSession, "the session is over".into()));
        }
        if hello.established {
            return Err((Refusal::NoSuchSession, "this listener does not know the session: it was restarted".into()));
        }
        self.check_terms(hello)?;
        if !self.has_room(&state)? {
            return Ok(Admission::Wait);
        }
        let (directions, block) = (hello.directions, hello.block);
        state.current.insert(hello.session, Current { peer, directions, block, stage: Stage::Preparing });
        Ok(Admission::Prepare)
    }

    fn enter(&self, state: &mut Register, id: SessionId) -> Result<Admission, Refused> {
        let (number, stopping) = (state.started + 1, state.stopping);
        let Some(current) = state.current.get_mut(&id) else { return Ok(Admission::Wait) };
        let (peer, block) = (current.peer, current.block);
        match &current.stage {
            Stage::Preparing | Stage::Ready(..) if stopping => Err(ending()),
            Stage::Preparing => Ok(Admission::Wait),
            Stage::Running(hub, _) if hub.is_ended() => Err((Refusal::NoSuchSession, "the session is over".into())),
            Stage::Running(hub, introduction) => {
                if hub.stream_count() >= MOST_STREAMS {
                    return Err((Refusal::BadRequest, format!("the session has {MOST_STREAMS} streams already")));
                }
                Ok(Admission::Join(Joined { hub: Arc::clone(hub), block, introduction: introduction.clone() }))
            }
            Stage::Ready(introduction, begin) => {
                let introduction = introduction.clone();
                let begun = begin_session(&self.options, Side::Listener, peer, block, &self.bells);
                let hub = Arc::clone(&begun.hub);
                if begin.send((Caller { number, peer }, begun)).is_err() {
                    // Its thread has given up waiting, just now; the entry goes with it.
                    return Ok(Admission::Wait);
                }
                current.stage = Stage::Running(Arc::clone(&hub), introduction.clone());
                state.started = number;
                log::info!("session {id} from {peer}");
                Ok(Admission::Join(Joined { hub, block, introduction }))
            }
        }
    }

    fn check_terms(&self, hello: &Hello) -> Result<(), Refused> {
        let expected = self.options.directions;
        if hello.directions != expected {
            let text = format!(
                "the connector wants data {}, this listener {}: use the same option on both sides",
                hello.directions.describe(),
                expected.describe()
            );
            return Err((Refusal::Directions, text));
        }
        if u64::from(hello.block) * 2 > self.options.window {
            let text = format!("blocks of {} bytes do not fit a window of {}", hello.block, self.options.window);
            return Err((Refusal::BadRequest, text));
        }
        Ok(())
    }

    /// Whether a session can begin now; false if it can as soon as one that has ended is out of the way.
    fn has_room(&self, state: &Register) -> Result<bool, Refused> {
        if state.stopping {
            return Err(ending());
        }
        let all = state.current.values();
        let running = all.clone().filter(|current| !current.hub().is_some_and(|hub| hub.is_ended()));
        let first = running.clone().next();
        if !state.keep && (state.started > 0 || first.is_some()) {
            let text = first.map_or_else(
                || "this listener takes one session, and that is over".to_owned(),
                |current| format!("busy with a session from {}; this listener takes one", current.peer.ip()),
            );
            return Err((Refusal::Busy, text));
        }
        let running = running.count();
        if running >= self.service.at_once {
            let text = format!("busy with {running} session(s), which is its limit; try again later");
            return Err((Refusal::Busy, text));
        }
        let taken = all.filter(|current| !current.hub().is_some_and(|hub| hub.is_ended() && hub.are_ends_gone()));
        Ok(taken.count() < self.service.at_once)
    }

    // --- for the session's thread ------------------------------------------------------------------------------------

    /// The bond is known. What comes back tells when the session has begun.
    pub(super) fn prepared(&self, id: SessionId, introduction: Introduction) -> mpsc::Receiver<(Caller, Begun)> {
        let (begin, begun) = mpsc::channel();
        if let Some(current) = self.lock().current.get_mut(&id) {
            current.stage = Stage::Ready(introduction, begin);
        }
        self.ring();
        begun
    }

    /// Nobody has begun the session: it is not to begin any more. False if it has begun all the same.
    pub(super) fn withdraw(&self, id: SessionId) -> bool {
        let mut state = self.lock();
        let is_ready = state.current.get(&id).is_some_and(|current| matches!(current.stage, Stage::Ready(..)));
        is_ready && state.current.remove(&id).is_some()
    }

    /// The session is over and reported, or nobody was left to begin it.
    pub(super) fn over(&self, id: SessionId, had_begun: bool) {
        let mut state = self.lock();
        state.current.remove(&id);
        if had_begun {
            state.past.push_back(id);
            if state.past.len() > REMEMBERED {
                state.past.pop_front();
            }
        }
        // A listener that was stopped ends also if nothing has begun.
        state.done |= !state.keep && state.current.is_empty() && (had_begun || self.service.keep);
        drop(state);
        self.ring();
    }
}

fn ending() -> Refused {
    (Refusal::Busy, "this listener is being ended".into())
}

fn check_same(current: &Current, hello: &Hello) -> Result<(), Refused> {
    if current.directions == hello.directions && current.block == hello.block {
        return Ok(());
    }
    Err((Refusal::BadRequest, "the streams of one session must agree".into()))
}

impl Current {
    fn hub(&self) -> Option<&Arc<Hub>> {
        match &self.stage {
            Stage::Running(hub, _) => Some(hub),
            Stage::Preparing | Stage::Ready(..) => None,
        }
    }
}
