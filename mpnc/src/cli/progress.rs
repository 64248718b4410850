//! The progress display: a thread that looks at the session now and then and draws.

use super::args::When;
use crate::engine::Hub;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often a line is written where standard error is not a terminal: this many redraws.
const LINE_EVERY: u32 = 50;

/// A running display.
pub(super) struct Display {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Display {
    /// Starts it, if it is wanted.
    pub(super) fn start(hub: Arc<Hub>, when: When, quiet: bool, total: Option<u64>) -> Option<Self> {
        let terminal = stderr().is_terminal();
        let wanted = !quiet && (when == When::Always || when == When::Auto && terminal);
        if !wanted {
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let draw = move || if terminal { draw_bar(&hub, total, &stopped) } else { print_lines(&hub, total, &stopped) };
        match thread::Builder::new().name("progress".into()).spawn(draw) {
            Ok(thread) => Some(Self { stop, thread }),
            Err(error) => {
                log::warn!("no progress display: {error}");
                None
            }
        }
    }

    /// Ends it, and clears the line.
    pub(super) fn finish(self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.join();
    }
}

fn moved(hub: &Hub) -> u64 {
    let progress = hub.progress();
    progress.sent + progress.received
}

fn draw_bar(hub: &Hub, total: Option<u64>, stop: &AtomicBool) {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{decimal_bytes} of {decimal_total_bytes} [{wide_bar:.cyan/blue}] {decimal_bytes_per_sec}, ETA {eta}",
        ),
        None => (ProgressBar::no_length(), "{decimal_bytes} in {elapsed}, {decimal_bytes_per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    while !stop.load(Ordering::Acquire) {
        bar.set_position(moved(hub));
        thread::sleep(REDRAW);
    }
    bar.finish_and_clear();
}

fn print_lines(hub: &Hub, total: Option<u64>, stop: &AtomicBool) {
    let mut ticks = 0;
    while !stop.load(Ordering::Acquire) {
        thread::sleep(REDRAW);
        ticks += 1;
        if ticks % LINE_EVERY == 0 {
            let moved = moved(hub);
            let percent = total.filter(|total| *total > 0).map(|total| format!(" ({} %)", moved * 100 / total));
            eprintln!("mpnc: {moved} bytes{}", percent.unwrap_or_default());
        }
    }
}
