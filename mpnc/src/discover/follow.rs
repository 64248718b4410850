//! Follows a path while it is in use: a thread that reads it again whenever its links or this host's addresses change,
//! and tells of every difference.
//!
//! Must not know what is done about it.

use super::{LinkWatch, PathView, Request, Tree, discover};
use crate::error::{Error, words};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::thread;
use std::time::{Duration, Instant};

/// After a change the path is read when it has been quiet for this long: one event rarely comes alone.
const SETTLE: Duration = Duration::from_millis(50);
/// The hold-down: no two tellings follow each other faster. A link that flaps moves streams once a second at most.
const HOLD_DOWN: Duration = Duration::from_secs(1);
/// Not every change of an aggregator sends a link message; so it is looked at this often without one.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Starts to follow the path that `seen` shows, and tells of every change, for as long as somebody wants to know.
///
/// # Errors
/// The system refuses the netlink socket or the thread.
pub fn follow(
    request: Request,
    seen: PathView,
    is_wanted: impl Fn() -> bool + Send + 'static,
    tell: impl Fn(&PathView) + Send + 'static,
) -> Result<(), Error> {
    let watch = LinkWatch::new().map_err(|error| Error::os("cannot watch the links", error))?;
    let mut follower = Follower { request, seen, watch, told: None };
    thread::Builder::new()
        .name("links".into())
        .spawn(move || while is_wanted() && follower.step(&tell) {})
        .map_err(|error| Error::os("cannot start a thread", error))?;
    Ok(())
}

/// Whether nothing is different that a plan goes by.
fn is_same(a: &PathView, b: &PathView) -> bool {
    a.source == b.source
        && a.classes == b.classes
        && a.outlook.weights() == b.outlook.weights()
        && a.slaves() == b.slaves()
        && a.by_address == b.by_address
}

struct Follower {
    request: Request,
    seen: PathView,
    watch: LinkWatch,
    told: Option<Instant>,
}

impl Follower {
    /// Waits for a change, reads the path, tells; false when the thread has nothing left to do.
    fn step(&mut self, tell: &impl Fn(&PathView)) -> bool {
        match self.wait(LOOK_EVERY) {
            Ok(true) => while self.wait(SETTLE).is_ok_and(|more| more) {},
            Ok(false) => {}
            Err(error) => {
                log::warn!("cannot watch the links any longer: {}", words(&error));
                return false;
            }
        }
        // Without a route for the moment there is nothing to plan by; the next look will tell.
        let Ok(view) = discover(&self.request, &Tree::default()) else { return true };
        if is_same(&view, &self.seen) {
            return true;
        }
        if let Some(told) = self.told {
            thread::sleep(HOLD_DOWN.saturating_sub(told.elapsed()));
        }
        self.seen = view;
        self.told = Some(Instant::now());
        tell(&self.seen);
        true
    }

    /// Whether one of the path's links has changed within `span`.
    fn wait(&mut self, span: Duration) -> std::io::Result<bool> {
        let deadline = Instant::now() + span;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [PollFd::new(&self.watch, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) => {
                    if self.watch.drain(&self.seen.watched())? {
                        return Ok(true);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
