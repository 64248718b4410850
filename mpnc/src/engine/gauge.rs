//! By which slave streams leave, asked of the system on a thread of its own: counters and maps are read from the
//! kernel, which may take time, and a loop has none.
//!
//! Must not know what follows from a reading.

use super::bell::Bell;
use crate::error::words;
use crate::paths::{ByPort, Counted, Stamp};
use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;

/// What shows by which slave a stream leaves.
#[derive(Clone)]
pub enum Leaving {
    /// The packets of each stream, counted by the kernel (the observer).
    Streams(Arc<dyn Fn() -> ByPort + Send + Sync>),
    /// Bytes sent by each slave so far, everybody's; `None` when that cannot be read.
    Slaves(Arc<dyn Fn() -> Option<Vec<u64>> + Send + Sync>),
}

impl Leaving {
    fn read(&self) -> Option<Counted> {
        match self {
            Self::Streams(read) => Some(Counted::Streams(read())),
            Self::Slaves(read) => read().map(Counted::Slaves),
        }
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Streams(_)) { "Streams" } else { "Slaves" })
    }
}

/// Whoever reads it.
pub(super) struct Reader {
    bell: Weak<Bell>,
    /// The thread, once it was needed.
    asks: Option<Sender<(Stamp, Leaving)>>,
    answer: Sender<(Stamp, Option<Counted>)>,
    answers: Receiver<(Stamp, Option<Counted>)>,
}

impl Reader {
    /// One that rings when there is an answer.
    pub(super) fn new(bell: &Arc<Bell>) -> Self {
        let (answer, answers) = mpsc::channel();
        Self { bell: Arc::downgrade(bell), asks: None, answer, answers }
    }

    /// Has it read. The answer says what it answers.
    pub(super) fn ask(&mut self, stamp: Stamp, leaving: Option<&Leaving>) {
        if self.asks.is_none() {
            self.asks = self.start();
        }
        let asked =
            leaving.zip(self.asks.as_ref()).is_some_and(|(leaving, asks)| asks.send((stamp, leaving.clone())).is_ok());
        if !asked {
            let _ = self.answer.send((stamp, None));
        }
    }

    fn start(&self) -> Option<Sender<(Stamp, Leaving)>> {
        let (asks, asked) = mpsc::channel::<(Stamp, Leaving)>();
        let (answer, bell) = (self.answer.clone(), self.bell.clone());
        let work = move || {
            for (stamp, leaving) in asked {
                if answer.send((stamp, leaving.read())).is_err() {
                    return;
                }
                bell.upgrade().into_iter().for_each(|bell| bell.ring());
            }
        };
        match thread::Builder::new().name("gauge".into()).spawn(work) {
            Ok(_) => Some(asks),
            Err(error) => {
                log::warn!("cannot see by which slaves the streams leave: {}", words(&error));
                None
            }
        }
    }

    /// What has been answered since.
    pub(super) fn answers(&self) -> impl Iterator<Item = (Stamp, Option<Counted>)> {
        self.answers.try_iter()
    }
}
