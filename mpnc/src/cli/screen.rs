//! Standard error as a screen: bars at the bottom, lines of text above them, neither in the other's way. And what goes to standard output.

use crate::error::Error;
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, Write};
use std::sync::LazyLock;

/// The bars of all sessions. Where standard error is no terminal nothing is drawn.
pub(super) static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));

/// One line on standard error. If that is closed there is nobody to tell.
pub(super) fn say(line: &str) {
    let _ = BARS.suspend(|| writeln!(io::stderr().lock(), "{line}"));
}

/// What was asked for, on standard output.
pub(super) fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())
        .and_then(|()| out.flush())
        .map_err(|error| Error::os("cannot write to standard output", error))
}

/// Standard error for the log, whose lines come at any time.
pub(super) struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
