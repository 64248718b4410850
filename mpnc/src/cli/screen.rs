//! Standard error as a screen: bars at the bottom, lines of text above them, neither in the other's way. And what goes
//! to standard output.
//!
//! Everything that is said goes through one queue, and one thread writes it: a terminal that is stopped, or a pipe that
//! nobody reads, keeps nothing of mpnc waiting. Must not know what the lines say.

use super::observed::give_up_privileges;
use super::outlet::{Lines, Outlet, Taken};
use super::terminal;
use crate::error::Error;
use crate::sys::signal;
use crate::sys::standard::is_output_closed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

/// The queue to the thread that writes; none if the system had no thread to spare. It begins with the first line.
static QUEUE: OnceLock<Option<Outlet>> = OnceLock::new();

/// How long the end of the process waits for what was said to be written.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that a pipe with any room takes at once (PIPE_BUF, pipe(7)); half of it, since something may be said of lost
/// lines first.
const AT_ONCE: usize = 2048;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// One line on standard error, soon. If that is closed there is nobody to tell.
pub(super) fn say(line: &str) {
    push(format!("{line}\n"));
}

fn push(text: String) {
    match QUEUE.get_or_init(|| Outlet::start("screen", show).ok()) {
        Some(queue) => queue.push(text),
        None => write_out(&text),
    }
}

/// Waits until what was said is written, but not for long.
pub(super) fn settle() {
    if let Some(Some(queue)) = QUEUE.get() {
        queue.help(|line| line.len() <= AT_ONCE && takes_some(), put);
        queue.settle(PATIENCE);
    }
}

/// Whether standard error takes something now.
fn takes_some() -> bool {
    poll(&mut [PollFd::new(&rustix::stdio::stderr(), PollFlags::OUT)], Some(&NOW)) == Ok(1)
}

/// The line of a process that ends here and now, maybe because the thread that writes has failed: then it is written
/// past the queue, if that can be done without waiting.
pub(super) fn last_words(line: &str) {
    say(line);
    let written = QUEUE.get().and_then(Option::as_ref).is_none_or(|queue| queue.settle(PATIENCE));
    if !written && takes_some() {
        write_out(&format!("{line}\n"));
    }
}

/// The thread that writes.
fn show(lines: &Lines) {
    give_up_privileges(&[], false);
    // In the background of a terminal that has TOSTOP set, a line is written all the same, and the transfer goes on.
    signal::block(libc::SIGTTOU);
    while let Some(taken) = lines.next() {
        put(&taken);
    }
}

fn put(taken: &Taken) {
    terminal::above(|| {
        if taken.lost > 0 {
            let what = if taken.lost == 1 { "1 line was" } else { &format!("{} lines were", taken.lost) };
            write_out(&format!("mpnc: {what} lost here: standard error took no more\n"));
        }
        write_out(&taken.line);
    });
}

/// Writes all of it, however long that takes. What cannot be written is for nobody.
pub(super) fn write_out(text: &str) {
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), bytes) {
            Ok(0) => return,
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            // Somebody else has set O_NONBLOCK on what we share with them.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&rustix::stdio::stderr(), PollFlags::OUT)], None);
            }
            Err(_) => return,
        }
    }
}

/// What was asked for, on standard output.
pub(super) fn print(text: &str) -> Result<(), Error> {
    printable()?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()).map_err(unprinted)
}

/// Whether there is a standard output.
pub(super) fn printable() -> Result<(), Error> {
    if is_output_closed() {
        return Err(unprinted(io::Error::other("it was closed when mpnc was started")));
    }
    Ok(())
}

/// Why what was asked for could not be printed.
pub(super) fn unprinted(error: io::Error) -> Error {
    Error::os("cannot write to standard output", error)
}

/// Standard error for the log, whose lines come at any time, whole.
pub(super) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        push(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
