//! The terminal behind standard error: when bars may be drawn on it, and how they make way.
//!
//! Bars belong to the terminal's foreground, and to a terminal that has nothing else on it. A job in the background
//! draws none, whatever it says in lines; a job that is stopped takes them off the screen first. Must not know what the
//! bars show.

use super::screen::write_out;
use crate::engine::{Place, Wanted};
use crate::sys::signal::is_ignored;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, WeakProgressBar};
use rustix::fs::{FileType, Stat, fstat, major, minor};
use rustix::process::{getpgrp, getppid, getsid};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::tcgetpgrp;
use signal_hook::{consts::SIGTSTP, flag, low_level};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The bars of all sessions, out of sight until they may be seen.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));

/// Who draws or writes holds it, so that a line does not come between a bar and its being cleared.
static STAGE: Mutex<Stage> = Mutex::new(Stage { sessions: 0, shown: false, some: None });

/// What is on the screen.
struct Stage {
    /// Sessions that have bars.
    sessions: usize,
    /// Whether the bars may be seen now.
    shown: bool,
    /// One of them: whichever is drawn, all are.
    some: Option<WeakProgressBar>,
}

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// Asks anew whether bars may be seen. What is on the screen when they may not any longer is left there: to clear
    /// it would be to draw.
    fn turn(&mut self) {
        self.show(self.sessions > 0 && is_foreground());
    }

    fn show(&mut self, wanted: bool) {
        if self.shown == wanted {
            return;
        }
        self.shown = wanted;
        // Before SIGTSTP is caught again: what was asked for in the meantime has been done.
        STOP.asked.store(false, Ordering::Relaxed);
        STOP.at_once.store(!wanted, Ordering::Relaxed);
        let target = if wanted { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        BARS.set_draw_target(target);
    }

    /// Takes them off the screen. A terminal that is gone takes nothing any longer.
    fn clear(&mut self) {
        if self.shown && BARS.clear().is_err() {
            self.show(false);
        }
    }

    /// Puts the cursor where an echoed ^C or ^Z is cleared with the bars, and does not push them up.
    fn rest(&self) {
        if self.shown {
            write_out("\r");
        }
    }
}

/// A session begins to draw.
pub(super) fn enter() {
    LazyLock::force(&STOP);
    stage().sessions += 1;
}

/// Draws in `bar` and its neighbours; only a session that has entered may.
pub(super) fn draw(bar: &ProgressBar, draw: impl FnOnce()) {
    let mut stage = stage();
    if stage.shown && STOP.asked.swap(false, Ordering::Relaxed) {
        stage.clear();
        stage.show(false);
        drop(stage);
        // Here the process stands still until somebody continues it.
        let _ = low_level::emulate_default_handler(SIGTSTP);
        return;
    }
    stage.turn();
    stage.some = Some(bar.downgrade());
    draw();
    stage.rest();
}

/// A session draws no longer: `remove` takes its bars away.
pub(super) fn leave(remove: impl FnOnce()) {
    let mut stage = stage();
    stage.turn();
    remove();
    stage.sessions -= 1;
    stage.turn();
}

/// A bar below the others, or below `after`.
pub(super) fn add(bar: ProgressBar, after: Option<&ProgressBar>) -> ProgressBar {
    match after {
        Some(after) => BARS.insert_after(after, bar),
        None => BARS.add(bar),
    }
}

/// Forgets a bar.
pub(super) fn remove(bar: &ProgressBar) {
    bar.finish_and_clear();
    BARS.remove(bar);
}

/// Does `write` where the bars are, and puts them below what was written.
pub(super) fn above(write: impl FnOnce()) {
    let mut stage = stage();
    stage.turn();
    stage.clear();
    write();
    if let Some(bar) = stage.some.as_ref().and_then(WeakProgressBar::upgrade).filter(|_| stage.shown) {
        bar.tick();
        stage.rest();
    }
}

/// Whether this job is the one that the terminal is for. Without job control (`setsid`) there is none.
fn is_foreground() -> bool {
    // Asked in this order: without a terminal of its own the group may be one that this PID namespace has no number
    // for.
    tcgetpgrp(stderr()).is_ok_and(|group| group == getpgrp())
}

// --- being stopped ---------------------------------------------------------------------------------------------------

/// What becomes of SIGTSTP while bars are on the screen: they go first.
struct Stop {
    /// No bars are shown: it has its ordinary effect at once.
    at_once: Arc<AtomicBool>,
    /// It has come.
    asked: Arc<AtomicBool>,
}

static STOP: LazyLock<Stop> = LazyLock::new(|| {
    let stop = Stop { at_once: Arc::new(AtomicBool::new(true)), asked: Arc::default() };
    if !is_ignored(SIGTSTP) && !is_orphaned() {
        let caught = flag::register_conditional_default(SIGTSTP, Arc::clone(&stop.at_once))
            .and_then(|_| flag::register(SIGTSTP, Arc::clone(&stop.asked)));
        if let Err(error) = caught {
            log::debug!("cannot catch SIGTSTP: {error}");
        }
    }
    stop
});

/// Whether nobody could continue this process if it stopped, as its parent is of another session: there the kernel
/// discards SIGTSTP unless somebody catches it (kernel/signal.c, `is_current_pgrp_orphaned`).
fn is_orphaned() -> bool {
    getppid().is_none_or(|parent| getsid(Some(parent)) != getsid(None))
}

// --- what else is on it ----------------------------------------------------------------------------------------------

/// Whether data, or what a command says, will go over the terminal that messages go to. To be asked before standard
/// output is moved.
pub(super) fn is_taken(ends: &Wanted) -> bool {
    let Ok(screen) = fstat(stderr()) else { return false };
    let look = |end: &Option<Place>, standard: BorrowedFd<'_>| match end.as_ref()? {
        Place::Standard => fstat(standard).ok(),
        Place::Path(path) => rustix::fs::stat(path).ok(),
    };
    let seen = [look(&ends.input, stdin()), look(&ends.output, stdout())];
    // A command has the terminal for its own messages.
    ends.command.is_some() || seen.iter().flatten().any(|end| is_same(end, &screen))
}

/// Whether two files are one terminal, under its own name or as the one that each process has (/dev/tty).
fn is_same(one: &Stat, other: &Stat) -> bool {
    let is_own = |stat: &Stat| (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 0);
    let is_device = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let is_pair = is_device(one) && is_device(other);
    is_pair && (one.st_rdev == other.st_rdev || is_own(one) || is_own(other))
}

/// Whether standard error is a terminal.
pub(super) fn is_there() -> bool {
    io::IsTerminal::is_terminal(&io::stderr())
}
