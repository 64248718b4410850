//! What is seen of sessions while they run: for each a thread that draws bars, prints lines, brings statistics, answers
//! SIGUSR1.
//!
//! Where there is nothing to show unasked there is no thread. Such a thread may be held up by a terminal; nobody waits
//! for it without a limit.

use super::args::When;
use super::job::{Show, Transfer};
use super::lock::lock;
use super::progress::{Bars, Pace, View};
use super::screen::say;
use super::statistics::Statistics;
use super::terminal;
use crate::engine::{Caller, Hub, OnSession, Place};
use crate::error::{Error, words};
use crate::stats::Snapshot;
use crate::stats::json::{self, About};
use crate::sys::signal;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is printed where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// How often statistics are written.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// How long the end of mpnc waits for what is seen to be brought to its end.
const PATIENCE: Duration = Duration::from_millis(700);

/// What a person is shown of each session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    bars: bool,
    /// Among them one for each slave.
    slaves: bool,
    lines: bool,
}

impl Shown {
    /// What was asked for, as the terminal allows. To be asked before the ends are looked at: that may move standard
    /// output.
    pub(super) fn of(show: Show, transfer: &Transfer) -> Self {
        let drawable = terminal::is_there() && !terminal::is_taken(&transfer.ends);
        Self {
            bars: !show.quiet && show.progress != When::Never && drawable,
            slaves: show.verbose > 0,
            lines: !show.quiet && show.progress == When::Always && !drawable,
        }
    }
}

/// The threads that watch sessions.
pub(super) struct Watches {
    shown: Shown,
    stats: Option<Arc<Statistics>>,
    roll: Mutex<Roll>,
}

impl Watches {
    /// Shows that, and opens the file for statistics.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn new(shown: Shown, stats: Option<&Place>) -> Result<Arc<Self>, Error> {
        let stats = stats.map(Statistics::open).transpose()?.map(Arc::new);
        Ok(Arc::new(Self { shown, stats, roll: Mutex::default() }))
    }

    /// What starts a watch with each session.
    pub(super) fn on_session(self: &Arc<Self>) -> OnSession {
        let own = Arc::clone(self);
        Arc::new(move |hub, caller| own.start(hub, caller))
    }

    fn start(&self, hub: &Arc<Hub>, caller: &Caller) {
        if !self.shown.bars && !self.shown.lines && self.stats.is_none() {
            return answer(hub);
        }
        let watched = Watched {
            hub: Arc::clone(hub),
            session: caller.number,
            peer: caller.peer.to_string(),
            shown: self.shown,
            stats: self.stats.clone(),
            story: Story::default(),
        };
        let started = lock(&self.roll).start(caller.number, move |nudges| watched.run(nudges));
        match started {
            // A watch that is over has nothing to answer.
            Ok(nudge) => hub.on_status(move || drop(nudge.send(Nudge::Status))),
            Err(error) => log::warn!("no progress, no statistics: {}", words(&error)),
        }
    }

    /// A session is over: its watch ends. A listener that goes on waits for nothing.
    pub(super) fn finish_one(&self, session: u64) {
        lock(&self.roll).stop(session);
    }

    /// All sessions are over: waits until everything that was seen of them has been shown and written, but not for
    /// long.
    pub(super) fn finish(&self) {
        let roll = std::mem::take(&mut *lock(&self.roll));
        roll.finish(PATIENCE);
        self.stats.iter().for_each(|stats| stats.finish());
    }
}

/// Where nothing is shown unasked, whoever asks is answered without a thread.
fn answer(hub: &Arc<Hub>) {
    // The hub keeps what answers, so that must not keep the hub.
    let (story, asked) = (Mutex::new(Story::default()), Arc::downgrade(hub));
    hub.on_status(move || {
        if let Some(hub) = asked.upgrade() {
            lock(&story).tell(&hub, hub.snapshot());
        }
    });
}

// --- the threads -----------------------------------------------------------------------------------------------------

enum Nudge {
    Status,
    Stop,
}

struct Watch {
    session: u64,
    nudge: Sender<Nudge>,
    /// Its other end is gone when the thread is.
    over: Receiver<()>,
}

/// The watches that are not over, told to stop or not.
#[derive(Default)]
struct Roll(Vec<Watch>);

impl Roll {
    fn start(
        &mut self,
        session: u64,
        watch: impl FnOnce(&Receiver<Nudge>) + Send + 'static,
    ) -> io::Result<Sender<Nudge>> {
        let (nudge, nudges) = mpsc::channel();
        let (alive, over) = mpsc::channel();
        let run = move || {
            // As with lines of text: a terminal that stops who writes from the background does not stop this.
            signal::block(libc::SIGTTOU);
            watch(&nudges);
            drop::<Sender<()>>(alive);
        };
        thread::Builder::new().name("watch".into()).spawn(run)?;
        self.0.push(Watch { session, nudge: nudge.clone(), over });
        Ok(nudge)
    }

    /// Tells a session's watch to stop. It may have a last line to write: it stays until it is over.
    fn stop(&mut self, session: u64) {
        self.0.retain(|watch| watch.over.try_recv() != Err(TryRecvError::Disconnected));
        for watch in self.0.iter().filter(|watch| watch.session == session) {
            // If it is over by now, so much the better.
            let _ = watch.nudge.send(Nudge::Stop);
        }
    }

    /// Tells all to stop, and waits until they are over, for so long at most.
    fn finish(self, patience: Duration) {
        for watch in &self.0 {
            let _ = watch.nudge.send(Nudge::Stop);
        }
        let deadline = Instant::now() + patience;
        for watch in &self.0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if watch.over.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                log::debug!("the terminal takes no more");
            }
        }
    }
}

/// What a person is told of a session in lines, from one to the next.
#[derive(Default)]
struct Story {
    pace: Pace,
    /// The last time that was told of.
    before: Option<Snapshot>,
}

impl Story {
    fn view<'a>(&'a self, hub: &Hub, now: &'a Snapshot) -> View<'a> {
        View { now, before: self.before.as_ref(), total: hub.expected(), pace: &self.pace }
    }

    /// Says how far it has got.
    fn tell(&mut self, hub: &Hub, now: Snapshot) {
        self.pace.update(&now);
        say(&format!("mpnc: {}", self.view(hub, &now).line()));
        self.before = Some(now);
    }
}

/// One session, on its thread.
struct Watched {
    hub: Arc<Hub>,
    session: u64,
    peer: String,
    shown: Shown,
    stats: Option<Arc<Statistics>>,
    story: Story,
}

impl Watched {
    fn run(mut self, nudges: &Receiver<Nudge>) {
        let mut bars = self.shown.bars.then(|| Bars::new(self.shown.slaves));
        let started = Instant::now();
        let mut lines = Every::new(self.shown.lines, LINE_EVERY, started);
        let mut stats = Every::new(self.stats.is_some(), STATS_EVERY, started);
        let mut frames = Every::new(self.shown.bars, REDRAW, started);
        let mut written: Option<Snapshot> = None;
        loop {
            let due = [&lines, &stats, &frames].into_iter().filter_map(|every| every.next).min();
            let wait = due.map_or(Duration::from_hours(1), |due| due.saturating_duration_since(Instant::now()));
            let nudge = nudges.recv_timeout(wait);
            let now = self.hub.snapshot();
            let time = Instant::now();
            self.story.pace.update(&now);
            if let Some(bars) = bars.as_mut().filter(|_| frames.is_due(time)) {
                bars.draw(&self.story.view(&self.hub, &now));
            }
            if lines.is_due(time) || matches!(nudge, Ok(Nudge::Status)) {
                self.story.tell(&self.hub, now.clone());
            }
            if stats.is_due(time) {
                self.write_stats(&now, written.as_ref(), false);
                written = Some(now);
            }
            if matches!(nudge, Ok(Nudge::Stop) | Err(RecvTimeoutError::Disconnected)) {
                break;
            }
        }
        if self.stats.is_some() {
            self.write_stats(&self.hub.snapshot(), None, true);
        }
    }

    fn write_stats(&self, now: &Snapshot, before: Option<&Snapshot>, end: bool) {
        if let Some(stats) = &self.stats {
            stats.say(json::line(About { session: self.session, peer: &self.peer }, now, before, end));
        }
    }
}

/// Something that is due again and again.
struct Every {
    span: Duration,
    next: Option<Instant>,
}

impl Every {
    fn new(wanted: bool, span: Duration, from: Instant) -> Self {
        Self { span, next: wanted.then(|| from + span) }
    }

    /// Whether it is due; then it is due again a span later, without catching up on what was missed.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = self.next.map(|next| (next + self.span).max(now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// One that its terminal holds up, while a listener with -k is told to end: its last line of statistics must not be
    /// lost.
    #[test]
    fn a_watch_that_was_told_to_stop_is_waited_for_at_the_end() {
        let (mut roll, written) = (Roll::default(), Arc::<AtomicBool>::default());
        let last_line = Arc::clone(&written);
        let slow = move |nudges: &Receiver<Nudge>| {
            let _ = nudges.recv();
            thread::sleep(Duration::from_millis(100));
            last_line.store(true, Ordering::Relaxed);
        };
        roll.start(7, slow).unwrap();
        roll.stop(7);
        roll.finish(Duration::from_mins(1));
        assert!(written.load(Ordering::Relaxed));
    }

    #[test]
    fn a_watch_that_is_over_is_forgotten_and_others_go_on() {
        let mut roll = Roll::default();
        for session in 1..=2 {
            roll.start(session, |nudges| drop(nudges.recv())).unwrap();
        }
        roll.stop(1);
        let _ = roll.0[0].over.recv_timeout(Duration::from_mins(1));
        roll.stop(3);
        let left: Vec<_> = roll.0.iter().map(|watch| watch.session).collect();
        assert_eq!(left, [2]);
        roll.finish(Duration::from_mins(1));
    }
}
