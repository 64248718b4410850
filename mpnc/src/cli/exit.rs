//! Exit codes and what they mean: the one place, shown by `--help`, the README and the manual.

use crate::error::Error;
use signal_hook::low_level::emulate_default_handler;
use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Every byte was written by the receiver, and confirmed.
    Success,
    /// This system refused something: the input, the output, the port.
    System,
    /// The command line cannot be carried out.
    Usage,
    /// The other side could not be reached; no data was sent.
    Unreachable,
    /// The other side failed, vanished or refused: the output is incomplete, or not confirmed.
    Peer,
    /// `--doctor` found something between this pair and full speed.
    Findings,
    /// mpnc is wrong: please report it.
    Bug,
    /// A signal ended it, and it dies of that signal: a shell says 128 + its number, and ends a loop around it.
    Interrupted(i32),
}

/// The table in `--help`.
pub const TABLE: &str = "\
Exit codes:
  0        every byte was written by the receiver, in order, and confirmed
  1        this system refused something: the input, the output, the port
  2        the command line cannot be carried out
  3        the other side could not be reached; no data was sent
  4        the other side failed, vanished or refused; delivery is not confirmed
  5        --doctor found something in the way of full speed (0: it found nothing)
  70       a bug in mpnc
  128+N    died of signal N (this is what a shell shows)";

impl Exit {
    /// Ends as it says: for a signal by that signal, with its default action, so that whoever waits sees it; else by
    /// the code to exit with.
    #[must_use]
    pub fn conclude(self) -> ExitCode {
        if let Self::Interrupted(signal) = self
            && let Err(error) = emulate_default_handler(signal)
        {
            log::debug!("cannot die of signal {signal}: {error}");
        }
        self.code().into()
    }

    /// The number; of a signal, what a shell makes of it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::System => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Peer => 4,
            Self::Findings => 5,
            Self::Bug => 70,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(128),
        }
    }

    /// The code for an error.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Usage(_) => Self::Usage,
            Error::Os { .. } => Self::System,
            Error::Unreachable { .. } => Self::Unreachable,
            Error::Peer(_) | Error::Refused(_) => Self::Peer,
            Error::Interrupted { signal } => Self::Interrupted(*signal),
            Error::Midway { cause, .. } => Self::of(cause),
            Error::Bug(_) => Self::Bug,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_code() {
        for exit in [Exit::Success, Exit::System, Exit::Usage, Exit::Unreachable, Exit::Peer, Exit::Findings, Exit::Bug]
        {
            assert!(TABLE.contains(&format!("\n  {:<8} ", exit.code())), "{exit:?}");
        }
        assert_eq!(Exit::Interrupted(2).code(), 130);
    }
}
