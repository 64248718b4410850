//! The sessions of a listener, shared by its workers: who is let in, what each session reads and writes, what became of it.
//!
//! Must not know sockets; the workers bring greetings and ask for the session to join.

use super::clock;
use super::deadline::LINGER;
use super::hub::{Bell, Hub};
use super::start::{Side, start_session};
use super::{Options, Pipe, Report, conclude};
use crate::error::Error;
use crate::transfer::Time;
use crate::wire::{Directions, Hello, Refusal, SessionId};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ended sessions whose late streams are told so, instead of beginning a session anew.
const REMEMBERED: usize = 1024;

/// Who a session is with.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Sessions count from 1.
    pub number: u64,
    /// The first stream's address.
    pub peer: SocketAddr,
}

/// Opens the two ends of a session's pipe.
pub type Open = Box<dyn FnMut(&Caller) -> Result<Pipe, Error> + Send>;
/// Told what became of a session.
pub type OnEnd = Box<dyn FnMut(&Caller, Result<Report, Error>) + Send>;

/// What a listener does for each session.
pub struct Service {
    /// Opens the two ends of its pipe.
    pub open: Open,
    /// Told what became of it.
    pub on_end: OnEnd,
    /// Sessions at the same time.
    pub at_once: usize,
    /// Whether there is a next session after the last.
    pub keep: bool,
}

struct Current {
    caller: Caller,
    directions: Directions,
    block: u32,
    hub: Arc<Hub>,
    ended: Option<Time>,
}

struct State {
    service: Service,
    current: BTreeMap<SessionId, Current>,
    past: VecDeque<SessionId>,
    started: u64,
    done: bool,
}

/// See the module documentation.
pub(super) struct Sessions {
    pub(super) options: Options,
    bells: Vec<Arc<Bell>>,
    state: Mutex<State>,
}

impl Sessions {
    pub(super) fn new(options: Options, service: Service, bells: Vec<Arc<Bell>>) -> Arc<Self> {
        let state = State { service, current: BTreeMap::new(), past: VecDeque::new(), started: 0, done: false };
        Arc::new(Self { options, bells, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loops that serve them.
    pub(super) fn workers(&self) -> usize {
        self.bells.len()
    }

    /// The sessions under way, and those that have ended and are not reaped yet.
    pub(super) fn hubs(&self) -> Vec<Arc<Hub>> {
        self.lock().current.values().map(|current| Arc::clone(&current.hub)).collect()
    }

    /// Takes no more sessions; answers whether there was to be a next one.
    pub(super) fn stop(&self) -> bool {
        std::mem::replace(&mut self.lock().service.keep, false)
    }

    /// Whether the last session is over.
    pub(super) fn is_done(&self) -> bool {
        self.lock().done
    }

    /// Lets a stream into its session, which begins with the first; or says why not.
    pub(super) fn admit(&self, hello: &Hello, peer: SocketAddr) -> Result<(Arc<Hub>, u32), (Refusal, String)> {
        let mut state = self.lock();
        if let Some(current) = state.current.get(&hello.session) {
            return self.join(current, hello);
        }
        if state.past.contains(&hello.session) {
            return Err((Refusal::NoSuchSession, "the session is over".into()));
        }
        if hello.established {
            return Err((Refusal::NoSuchSession, "this listener does not know the session: it was restarted".into()));
        }
        self.check_terms(hello)?;
        check_free(&state)?;
        let caller = Caller { number: state.started + 1, peer };
        let hub = match self.begin(&mut state.service, &caller, hello) {
            Ok(hub) => hub,
            Err(error) => {
                let text = error.to_string();
                self.tell(&mut state, &caller, Err(error));
                return Err((Refusal::BadRequest, text));
            }
        };
        state.started += 1;
        log::info!("session {} from {peer}", hello.session);
        let block = hello.block;
        let current = Current { caller, directions: hello.directions, block, hub: Arc::clone(&hub), ended: None };
        state.current.insert(hello.session, current);
        drop(state);
        (self.options.on_session)(&hub, peer);
        Ok((hub, block))
    }

    fn join(&self, current: &Current, hello: &Hello) -> Result<(Arc<Hub>, u32), (Refusal, String)> {
        if current.hub.is_ended() {
            return Err((Refusal::NoSuchSession, "the session is over".into()));
        }
        if current.directions != hello.directions || current.block != hello.block {
            return Err((Refusal::BadRequest, "the streams of one session must agree".into()));
        }
        // Every stream can hold one block that is not in the window yet; together they must not outgrow it.
        let streams = current.hub.stream_count() as u64 + 1;
        if streams * u64::from(current.block) > self.options.window {
            return Err((Refusal::BadRequest, format!("{streams} streams are too many for the window")));
        }
        Ok((Arc::clone(&current.hub), current.block))
    }

    fn check_terms(&self, hello: &Hello) -> Result<(), (Refusal, String)> {
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

    fn begin(&self, service: &mut Service, caller: &Caller, hello: &Hello) -> Result<Arc<Hub>, Error> {
        let pipe = (service.open)(caller)?;
        start_session(&self.options, Side::Listener, caller.peer, pipe, hello.block, &self.bells)
    }

    /// Reports the sessions that are over and flushed.
    pub(super) fn reap(&self) {
        let (mut state, now) = (self.lock(), clock::now());
        let mut over = Vec::new();
        for (id, current) in &mut state.current {
            if current.hub.is_ended() {
                let since = *current.ended.get_or_insert(now);
                if current.hub.members() == 0 || now.since(since) >= LINGER {
                    over.push(*id);
                }
            }
        }
        for id in over {
            let Some(current) = state.current.remove(&id) else { continue };
            state.past.push_back(id);
            if state.past.len() > REMEMBERED {
                state.past.pop_front();
            }
            let outcome = conclude(&current.hub, current.caller.peer, Vec::new());
            self.tell(&mut state, &current.caller, outcome);
        }
    }

    fn tell(&self, state: &mut State, caller: &Caller, outcome: Result<Report, Error>) {
        (state.service.on_end)(caller, outcome);
        if !state.service.keep && state.current.is_empty() {
            state.done = true;
            self.bells.iter().for_each(|bell| bell.ring());
        }
    }
}

fn check_free(state: &State) -> Result<(), (Refusal, String)> {
    let busy: Vec<&Current> = state.current.values().filter(|current| !current.hub.is_ended()).collect();
    if !state.service.keep && state.started > 0 {
        let text = busy.first().map_or_else(
            || "this listener takes one session, and that is over".to_owned(),
            |current| format!("busy with a session from {}; this listener takes one", current.caller.peer.ip()),
        );
        return Err((Refusal::Busy, text));
    }
    if busy.len() >= state.service.at_once {
        let text = format!("busy with {} session(s), which is its limit; try again later", busy.len());
        return Err((Refusal::Busy, text));
    }
    Ok(())
}
