//! What is done for each session: its ends are opened, and it is said what became of it.

use super::failure;
use super::job::Show;
use super::screen::say;
use super::summary::{self, Subject};
use crate::engine::{Caller, Ends, Open, Report, Service};
use crate::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

/// Sessions at once where each has ends of its own.
const AT_ONCE: usize = 16;

/// Where the outcome of a listener's only session is left.
pub(super) type Outcome = Arc<Mutex<Option<Error>>>;

/// Opens the ends of a session.
pub(super) fn open(ends: Arc<Ends>) -> Open {
    Arc::new(move |caller, hub| ends.open(caller, hub.halt()))
}

/// What a listener does: so many sessions at once if that was asked for; `on_end` is told of each that is over.
pub(super) fn service(
    ends: Arc<Ends>,
    (keep, at_once): (bool, Option<usize>),
    (show, subject): (Show, Subject),
    on_end: impl Fn(&Caller) + Send + Sync + 'static,
) -> (Service, Outcome) {
    let outcome = Outcome::default();
    let left = Arc::clone(&outcome);
    let usual = if ends.are_own() { AT_ONCE } else { 1 };
    let service = Service {
        open: open(ends),
        on_end: Arc::new(move |caller, outcome| {
            on_end(caller);
            match outcome {
                Ok(done) => report(&done, &subject, show),
                Err(error) if keep => say(&failure::text(show.json, Some(caller.number), &error)),
                Err(error) => *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        }),
        at_once: at_once.unwrap_or(usual),
        keep,
    };
    (service, outcome)
}

/// Says what a session has moved.
pub(super) fn report(report: &Report, subject: &Subject, show: Show) {
    let digests = summary::digests(report, subject.named);
    let both = digests.len() > 1 && !show.quiet;
    for (line, digest) in digests.iter().zip(&report.digests) {
        if both {
            say(if digest.sent {
                "mpnc: the digest of what was sent:"
            } else {
                "mpnc: the digest of what was received:"
            });
        }
        say(line);
    }
    if !show.quiet {
        for line in summary::streams(report, subject) {
            log::info!("{line}");
        }
        say(&if show.json { summary::json(report, subject) } else { summary::text(report, subject) });
    }
}
