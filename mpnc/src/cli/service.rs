//! What a listener does for each session: its ends, and what is said when it is over.

use super::args::Args;
use super::failure;
use super::run::{open, report};
use super::screen::say;
use super::summary::Subject;
use crate::engine::{Ends, Service};
use crate::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

/// Sessions at once where each has ends of its own.
const AT_ONCE: usize = 16;

/// Where the outcome of a listener's only session is left.
pub(super) type Outcome = Arc<Mutex<Option<Error>>>;

/// The service that the command line asks for.
pub(super) fn service(
    args: &Args,
    ends: Arc<Ends>,
    subject: Subject,
    on_end: impl Fn() + Send + Sync + 'static,
) -> (Service, Outcome) {
    let outcome = Outcome::default();
    let left = Arc::clone(&outcome);
    let ending = args.clone();
    let at_once = if ends.are_own() { AT_ONCE } else { 1 };
    let service = Service {
        open: open(ends),
        on_end: Arc::new(move |caller, outcome| {
            on_end();
            match outcome {
                Ok(done) => report(&ending, &done, &subject),
                Err(error) if ending.keep_open => say(&failure::text(ending.json, Some(caller.number), &error)),
                Err(error) => *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        }),
        at_once: args.sessions.map_or(at_once, usize::from),
        keep: args.keep_open,
    };
    (service, outcome)
}
