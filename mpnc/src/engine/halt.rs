//! That the ends of a session are to stop what they do, and the word from them that they are through.
//!
//! A blocked reader or writer is woken by the session's thread (`sys::interrupt`), and asks here whether that was
//! meant.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// What the session's thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// A reader or a writer is through with its work, or has failed.
    Through,
    /// The session is over.
    Over,
    /// The last of its streams is closed.
    Flushed,
    /// A stream comes in by a queue that was not known of it.
    Look,
}

/// How often something is tried again that cannot be waited for.
const AGAIN: Duration = Duration::from_millis(20);

/// How long an end waits for a free descriptor.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the process, or the system, has no descriptor left.
fn is_want(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// See the module documentation.
pub struct Halt {
    set: AtomicBool,
    notes: Sender<Note>,
}

impl Halt {
    pub(super) fn new() -> (Self, Receiver<Note>) {
        let (notes, received) = mpsc::channel();
        (Self { set: AtomicBool::new(false), notes }, received)
    }

    pub(super) fn note(&self, note: Note) {
        // Nobody listens once the session's thread has said its last word.
        let _ = self.notes.send(note);
    }

    /// The session is over, well or not.
    pub(super) fn set(&self) {
        if !self.set.swap(true, Ordering::AcqRel) {
            self.note(Note::Over);
        }
    }

    /// Whether nobody wants more.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// An error that ends whoever asks, if nobody wants more. It is never told: the session has ended before.
    ///
    /// # Errors
    /// If nobody wants more.
    pub fn check(&self) -> io::Result<()> {
        if self.is_set() { Err(io::Error::other("the session is over")) } else { Ok(()) }
    }

    /// Does what needs descriptors, again and again while there are none: other sessions, and strangers, give theirs
    /// back.
    ///
    /// # Errors
    /// That of `open`; for want of descriptors only when [`PATIENCE`] has passed, or nobody wants more.
    pub(super) fn with_descriptors<T>(&self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            match open() {
                Err(error) if is_want(&error) && self.pause(until).unwrap_or(false) => {}
                done => return done,
            }
        }
    }

    /// Waits a moment before the next try; false once `deadline` has passed.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn pause(&self, deadline: Instant) -> io::Result<bool> {
        self.check()?;
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(AGAIN);
        Ok(true)
    }
}
