//! What is seen of sessions while they run: for each a thread that draws bars, prints lines, writes statistics, answers SIGUSR1.

use super::args::{Args, When};
use super::progress::{Bars, Pace, View};
use super::screen::say;
use crate::engine::{Hub, OnSession};
use crate::error::{Error, words};
use crate::stats::Snapshot;
use crate::stats::json::{self, About};
use std::fs::File;
use std::io::{IsTerminal, Write, stderr};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is printed where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// How often statistics are written.
const STATS_EVERY: Duration = Duration::from_secs(1);

/// What the command line wants to see.
#[derive(Clone)]
struct Wanted {
    bars: bool,
    slaves: bool,
    lines: bool,
    stats: Option<Arc<Mutex<File>>>,
}

enum Nudge {
    Status,
    Stop,
}

struct Watch {
    hub: Arc<Hub>,
    nudge: Sender<Nudge>,
    thread: JoinHandle<()>,
}

struct State {
    watches: Vec<Watch>,
    started: u64,
}

/// The threads of all sessions under way.
pub(super) struct Watches {
    wanted: Wanted,
    state: Mutex<State>,
}

impl Watches {
    /// # Errors
    /// The file for statistics cannot be opened.
    pub(super) fn new(args: &Args) -> Result<Arc<Self>, Error> {
        let terminal = stderr().is_terminal();
        let wanted = !args.quiet && (args.progress == When::Always || args.progress == When::Auto && terminal);
        let stats = args.stats.as_ref().map(|path| {
            let file = File::create(path).map_err(|error| Error::os(format!("cannot open {}", path.display()), error));
            file.map(|file| Arc::new(Mutex::new(file)))
        });
        let wanted = Wanted {
            bars: wanted && terminal,
            slaves: args.verbose > 0,
            lines: wanted && !terminal,
            stats: stats.transpose()?,
        };
        Ok(Arc::new(Self { wanted, state: Mutex::new(State { watches: Vec::new(), started: 0 }) }))
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
            wanted: self.wanted.clone(),
            pace: Pace::default(),
            before: None,
        };
        match thread::Builder::new().name("watch".into()).spawn(move || watched.run(&nudges)) {
            Ok(thread) => state.watches.push(Watch { hub: Arc::clone(hub), nudge, thread }),
            Err(error) => log::warn!("no progress, no statistics: {}", words(&error)),
        }
    }

    /// Ends the watches of sessions that are over; with `all`, the others too.
    pub(super) fn finish(&self, all: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (over, on) = state.watches.drain(..).partition(|watch: &Watch| all || watch.hub.snapshot().ended);
        state.watches = on;
        drop(state);
        for watch in over {
            let _ = watch.nudge.send(Nudge::Stop);
            let _ = watch.thread.join();
        }
    }
}

/// One session, on its thread.
struct Watched {
    hub: Arc<Hub>,
    session: u64,
    peer: String,
    wanted: Wanted,
    pace: Pace,
    /// The last time that was told of.
    before: Option<Snapshot>,
}

impl Watched {
    fn run(mut self, nudges: &Receiver<Nudge>) {
        let mut bars = self.wanted.bars.then(|| Bars::new(self.wanted.slaves));
        let started = Instant::now();
        let mut lines = Every::new(self.wanted.lines, LINE_EVERY, started);
        let mut stats = Every::new(self.wanted.stats.is_some(), STATS_EVERY, started);
        let mut frames = Every::new(self.wanted.bars, REDRAW, started);
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
            if matches!(nudge, Ok(Nudge::Stop) | Err(mpsc::RecvTimeoutError::Disconnected)) {
                break;
            }
        }
        if self.wanted.stats.is_some() {
            self.write_stats(&self.hub.snapshot(), None, true);
        }
    }

    fn view<'a>(&'a self, now: &'a Snapshot) -> View<'a> {
        View { now, before: self.before.as_ref(), total: self.hub.expected(), pace: &self.pace }
    }

    fn write_stats(&mut self, now: &Snapshot, before: Option<&Snapshot>, end: bool) {
        let line = json::line(About { session: self.session, peer: &self.peer }, now, before, end);
        let Some(file) = &self.wanted.stats else { return };
        let wrote = writeln!(file.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        if let Err(error) = wrote {
            // The transfer matters more than its statistics.
            log::warn!("no more statistics: cannot write them: {}", words(&error));
            self.wanted.stats = None;
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
