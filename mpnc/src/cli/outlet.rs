//! A way out for lines that nobody may have to wait for: a bounded queue, and one thread that takes from it.
//!
//! Whoever says something goes on at once, also where the reader of it is stuck. The oldest lines give way to the
//! newest, since what was said last (why it failed, how it ended) is what a person needs; how many were lost is told to
//! the thread with the next line. Must not know where the lines go.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that wait at most: some thousand lines.
const CAPACITY: usize = 256 << 10;

/// The queue's near end.
pub(super) struct Outlet(Arc<Queue>);

/// The queue's far end, for the thread.
pub(super) struct Lines(Arc<Queue>);

/// What the thread gets.
pub(super) struct Taken {
    pub(super) line: String,
    /// Lines lost before this one.
    pub(super) lost: u64,
}

#[derive(Default)]
struct Queue {
    state: Mutex<Backlog>,
    /// Rung when there is something for the thread.
    more: Condvar,
    /// Rung when the thread has nothing left to do.
    idle: Condvar,
}

#[derive(Default)]
struct Backlog {
    lines: VecDeque<String>,
    bytes: usize,
    lost: u64,
    /// The thread is busy with a line that it has taken.
    busy: bool,
    /// Somebody else is, in its stead.
    helped: bool,
    /// No more lines will come.
    closed: bool,
    /// The thread has ended.
    over: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `done`; answers whether that came in time.
    fn wait(&self, patience: Duration, done: impl Fn(&Backlog) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Backlog {
    fn take(&mut self) -> Option<Taken> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some(Taken { line, lost: std::mem::take(&mut self.lost) })
    }
}

impl Outlet {
    /// Starts the thread, which does `write` with the lines that come.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub(super) fn start(name: &str, write: impl FnOnce(&Lines) + Send + 'static) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let lines = Lines(Arc::clone(&queue));
        thread::Builder::new().name(name.into()).spawn(move || write(&lines))?;
        Ok(Self(queue))
    }

    /// Hands a line over; never waits for it to be written.
    pub(super) fn push(&self, line: String) {
        let mut state = self.0.lock();
        if state.over || state.closed {
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        while state.bytes > CAPACITY && state.lines.len() > 1 {
            let oldest = state.lines.pop_front();
            state.bytes -= oldest.map_or(0, |line| line.len());
            state.lost += 1;
        }
        drop(state);
        self.0.more.notify_one();
    }

    /// Waits until everything has been written, for so long at most; answers whether it has.
    pub(super) fn settle(&self, patience: Duration) -> bool {
        self.0.wait(patience, |state| state.over || state.lines.is_empty() && !state.busy && !state.helped)
    }

    /// Does the thread's work while `ready`, which must mean that `write` need not wait: at the end of a process that
    /// is sooner than to have a thread woken for it.
    pub(super) fn help(&self, ready: impl Fn(&str) -> bool, write: impl Fn(&Taken)) {
        loop {
            let mut state = self.0.lock();
            let ready = state.lines.front().is_some_and(|line| ready(line));
            if state.busy || state.over || !ready {
                return;
            }
            let Some(taken) = state.take() else { return };
            state.helped = true;
            drop(state);
            write(&taken);
            self.0.lock().helped = false;
            self.0.more.notify_one();
        }
    }

    /// Takes no more lines, and waits until the thread has ended, for so long at most; answers whether it has.
    pub(super) fn close(&self, patience: Duration) -> bool {
        self.0.lock().closed = true;
        self.0.more.notify_one();
        self.0.wait(patience, |state| state.over)
    }
}

impl Lines {
    /// The next line, as soon as there is one; `None` when no more will come. What was taken before is done with.
    pub(super) fn next(&self) -> Option<Taken> {
        let mut state = self.0.lock();
        state.busy = false;
        loop {
            if !state.helped {
                if let Some(taken) = state.take() {
                    state.busy = true;
                    return Some(taken);
                }
                self.0.idle.notify_all();
                if state.closed {
                    return None;
                }
            }
            state = self.0.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.idle.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Long enough on any machine.
    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn lines_come_out_in_order_and_settling_waits_for_the_last() {
        let (tell, told) = mpsc::channel();
        let outlet = Outlet::start("test", move |lines| {
            while let Some(taken) = lines.next() {
                thread::sleep(Duration::from_millis(1));
                tell.send(taken.line).unwrap();
            }
        });
        let outlet = outlet.unwrap();
        (0..50).for_each(|n| outlet.push(n.to_string()));
        assert!(outlet.settle(LONG));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(outlet.close(LONG));
    }

    #[test]
    fn whoever_says_something_never_waits_and_the_newest_lines_are_kept() {
        let (go, gone) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let outlet = Outlet::start("test", move |lines| {
            while let Some(taken) = lines.next() {
                // Stuck until the test lets it go.
                let _ = gone.recv();
                tell.send((taken.lost, taken.line)).unwrap();
            }
        });
        let outlet = outlet.unwrap();
        let line = "x".repeat(CAPACITY / 4);
        (0..20).for_each(|n| outlet.push(format!("{n} {line}")));
        assert!(!outlet.settle(Duration::from_millis(10)), "it is stuck");
        drop(go);
        assert!(outlet.settle(LONG));
        let told: Vec<(u64, String)> = told.try_iter().collect();
        let lost: u64 = told.iter().map(|(lost, _)| lost).sum();
        assert_eq!(lost + told.len() as u64, 20);
        assert!(lost >= 15 && told.last().unwrap().1.starts_with("19 "), "{lost}");
    }

    #[test]
    fn who_helps_writes_in_order_and_leaves_the_rest() {
        let (go, gone) = mpsc::channel::<()>();
        let told = Arc::<Mutex<Vec<String>>>::default();
        let own = Arc::clone(&told);
        let outlet = Outlet::start("test", move |lines| {
            // Late: the others are written in its stead.
            let _ = gone.recv();
            while let Some(taken) = lines.next() {
                own.lock().unwrap().push(format!("thread {}", taken.line));
            }
        });
        let outlet = outlet.unwrap();
        for line in ["1", "2", "long"] {
            outlet.push(line.into());
        }
        let write = |taken: &Taken| told.lock().unwrap().push(taken.line.clone());
        outlet.help(|line| line.len() < 2, write);
        assert!(!outlet.settle(Duration::from_millis(10)), "one is left");
        drop(go);
        assert!(outlet.settle(LONG));
        outlet.help(|_| true, write);
        assert_eq!(*told.lock().unwrap(), ["1", "2", "thread long"]);
    }

    #[test]
    fn a_thread_that_has_ended_keeps_nobody() {
        let outlet = Outlet::start("test", |lines| drop(lines.next())).unwrap();
        outlet.push("taken".into());
        assert!(outlet.close(LONG));
        outlet.push("nobody is there".into());
        assert!(outlet.settle(Duration::ZERO));
    }
}
