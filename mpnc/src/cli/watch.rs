//! What is seen of sessions while they run: for each a thread that draws bars, prints lines, brings statistics, answers SIGUSR1.
//!
//! Such a thread may be held up by a terminal; nobody waits for it without a limit.

use super::args::When;
use super::job::{Show, Transfer};
use super::progress::{Bars, Pace, View};
use super::screen::say;
use super::statistics::Statistics;
use super::terminal;
use crate::engine::{Hub, OnSession, Place};
use crate::error::{Error, words};
use crate::stats::Snapshot;
use crate::stats::json::{self, About};
use crate::sys::signal;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// What was asked for, as the terminal allows. To be asked before the ends are looked at: that may move standard output.
    pub(super) fn of(show: Show, transfer: &Transfer) -> Self {
        let drawable = terminal::is_there() && !terminal::is_taken(&transfer.ends);
        Self {
            bars: !show.quiet && show.progress != When::Never && drawable,
            slaves: show.verbose > 0,
            lines: !show.quiet && show.progress == When::Always && !drawable,
        }
    }
}

enum Nudge {
    Status,
    Stop,
}

struct Watch {
    hub: Arc<Hub>,
    nudge: Sender<Nudge>,
    /// Its other end is gone when the thread is.
    over: Receiver<()>,
}

struct State {
    watches: Vec<Watch>,
    started: u64,
}

/// The threads of all sessions under way.
pub(super) struct Watches {
    shown: Shown,
    stats: Option<Arc<Statistics>>,
    state: Mutex<State>,
}

impl Watches {
    /// Shows that, and opens the file for statistics.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn new(shown: Shown, stats: Option<&Place>) -> Result<Arc<Self>, Error> {
        let stats = stats.map(Statistics::open).transpose()?.map(Arc::new);
        Ok(Arc::new(Self { shown, stats, state: Mutex::new(State { watches: Vec::new(), started: 0 }) }))
    }

    /// What starts a watch with each session.
    pub(super) fn on_session(self: &Arc<Self>) -> OnSession {
        let own = Arc::clone(self);
        Arc::new(move |hub: &Arc<Hub>, peer: SocketAddr| own.start(hub, peer))
    }

    fn start(&self, hub: &Arc<Hub>, peer: SocketAddr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.started += 1;
        let (nudge, nudges) = mpsc::channel();
        let ask = nudge.clone();
        // A watch that is over has nothing to answer.
        hub.on_status(move || drop(ask.send(Nudge::Status)));
        let watched = Watched {
            hub: Arc::clone(hub),
            session: state.started,
            peer: peer.to_string(),
            shown: self.shown,
            stats: self.stats.clone(),
            pace: Pace::default(),
            before: None,
        };
        let (alive, over) = mpsc::channel();
        let run = move || {
            // As with lines of text: a terminal that stops who writes from the background does not stop this.
            signal::block(libc::SIGTTOU);
            watched.run(&nudges);
            drop::<Sender<()>>(alive);
        };
        match thread::Builder::new().name("watch".into()).spawn(run) {
            Ok(_) => state.watches.push(Watch { hub: Arc::clone(hub), nudge, over }),
            Err(error) => log::warn!("no progress, no statistics: {}", words(&error)),
        }
    }

    /// A session is over: its watch ends. A listener that goes on waits for nothing.
    pub(super) fn finish_one(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.watches.retain(|watch| {
            let over = watch.hub.snapshot().ended;
            over.then(|| watch.nudge.send(Nudge::Stop));
            !over
        });
    }

    /// All sessions are over: waits until everything that was seen of them has been shown and written, but not for long.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let watches = std::mem::take(&mut state.watches);
        drop(state);
        for watch in &watches {
            let _ = watch.nudge.send(Nudge::Stop);
        }
        let deadline = Instant::now() + PATIENCE;
        for watch in &watches {
            let left = deadline.saturating_duration_since(Instant::now());
            if watch.over.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                log::debug!("the terminal takes no more");
            }
        }
        self.stats.iter().for_each(|stats| stats.finish());
    }
}

/// One session, on its thread.
struct Watched {
    hub: Arc<Hub>,
    session: u64,
    peer: String,
    shown: Shown,
    stats: Option<Arc<Statistics>>,
    pace: Pace,
    /// The last time that was told of.
    before: Option<Snapshot>,
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
            self.pace.update(&now);
            if let Some(bars) = bars.as_mut().filter(|_| frames.is_due(time)) {
                bars.draw(&self.view(&now));
            }
            if lines.is_due(time) || matches!(nudge, Ok(Nudge::Status)) {
                say(&format!("mpnc: {}", self.view(&now).line()));
                self.before = Some(now.clone());
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

    fn view<'a>(&'a self, now: &'a Snapshot) -> View<'a> {
        View { now, before: self.before.as_ref(), total: self.hub.expected(), pace: &self.pace }
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
