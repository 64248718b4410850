//! The ear and eye of a session's thread: waits for what the ends and the loops tell, and meanwhile sees where the
//! streams arrive.
//!
//! Looking asks netlink, reads counters and the observer's map: all of that may block, which a loop must not.

use super::halt::Note;
use super::hub::Hub;
use crate::observe::arrivals::Sight;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often streams are looked at that no note is about: those that only the observer sees.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often the slaves' receive counters are read, where only they can tell where streams arrive.
const COUNTERS_EVERY: Duration = Duration::from_millis(500);

/// See the module documentation.
pub(super) struct Lookout {
    notes: Receiver<Note>,
    sight: Option<Arc<Sight>>,
    looked: Instant,
    weighed: Instant,
}

impl Lookout {
    pub(super) fn new(notes: Receiver<Note>, sight: Option<Arc<Sight>>) -> Self {
        let now = Instant::now();
        Self { notes, sight, looked: now, weighed: now }
    }

    /// The next note; `None` if none has come by `until`.
    pub(super) fn wait(&mut self, hub: &Hub, until: Option<Instant>) -> Option<Note> {
        loop {
            let seeing = self.sight.is_some() && !hub.is_ended();
            let next = seeing.then(|| self.looked + LOOK_EVERY);
            let wait = match next.into_iter().chain(until).min() {
                Some(at) => self.notes.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => self.notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match wait {
                Ok(Note::Look) | Err(RecvTimeoutError::Timeout) => {}
                Ok(note) => return Some(note),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if seeing {
                self.look(hub);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
        }
    }

    fn look(&mut self, hub: &Hub) {
        let Some(sight) = &self.sight else { return };
        self.looked = Instant::now();
        for (id, incoming) in hub.incoming() {
            if let Some(seen) = sight.of_stream(&incoming) {
                hub.observe(id, seen);
            }
        }
        if self.weighed.elapsed() >= COUNTERS_EVERY {
            self.weighed = Instant::now();
            if let Some(peer) = hub.wants_counters() {
                hub.weigh(sight.received(peer.ip()));
            }
        }
    }
}
