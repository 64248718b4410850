//! What can end mpnc, by who is to blame, in words a person can act on.
//!
//! Knows no exit codes (that is `cli::exit`) and prints nothing.

use std::io;

/// Why a transfer, or the attempt at one, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The system refused an operation.
    #[error("{doing}: {}{}", words(.source), hint(.remedy))]
    Os {
        /// The operation and its object: "cannot listen on 0.0.0.0:31337".
        doing: String,
        /// The system's reason.
        source: io::Error,
        /// What the person can do; may be empty.
        remedy: &'static str,
    },
    /// The other side could not be reached at all.
    #[error("{doing}: {reason}{}", hint(.remedy))]
    Unreachable {
        /// What was tried, with the address.
        doing: String,
        /// Why it failed.
        reason: String,
        /// What the person can do; may be empty.
        remedy: &'static str,
    },
    /// The other side failed, vanished, or does not behave.
    #[error("{0}")]
    Peer(String),
    /// The other side is mpnc, and would not have it.
    #[error("{0}")]
    Refused(String),
    /// A signal ended the transfer.
    #[error("interrupted by {}", signal_name(*.signal))]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// A session that had begun failed. The peer is told the cause alone: it counts for itself.
    #[error("{cause}; {}{}", how_far(*.sent, *.received), place(.file.as_ref()))]
    Midway {
        /// Why.
        cause: Box<Self>,
        /// Bytes sent that the peer has written, in order.
        sent: u64,
        /// Bytes received and written, in order.
        received: u64,
        /// The file that they stay in, if it is one with a name.
        file: Option<String>,
    },
    /// mpnc itself is wrong.
    #[error("bug in mpnc: {0}")]
    Bug(String),
}

fn place(file: Option<&String>) -> String {
    file.map_or_else(String::new, |file| format!(", and are in {file}"))
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("; {remedy}") }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGINT => "SIGINT".into(),
        libc::SIGTERM => "SIGTERM".into(),
        libc::SIGHUP => "SIGHUP".into(),
        other => format!("signal {other}"),
    }
}

fn how_far(sent: u64, received: u64) -> String {
    match (sent, received) {
        (sent @ 1.., received @ 1..) => {
            format!("{sent} bytes had been delivered in order to the other side, and {received} from it")
        }
        _ => format!("{} bytes had been delivered in order", sent + received),
    }
}

impl Error {
    /// The error itself, without how far a session had got.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::Midway { cause, .. } => cause.cause(),
            own => own,
        }
    }

    /// An [`Error::Os`] without a remedy.
    pub fn os(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Os { doing: doing.into(), source, remedy: "" }
    }
}

/// The system's reason in plain words, without Rust's "(os error 28)".
#[must_use]
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error().and_then(|code| text.strip_suffix(&format!(" (os error {code})"))) {
        Some(words) => words.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_reads_as_a_sentence() {
        let error = Error::os("cannot write to the output", io::Error::from_raw_os_error(28));
        assert_eq!(error.to_string(), "cannot write to the output: no space left on device");
    }

    #[test]
    fn how_far_it_had_got_is_told_once() {
        let midway = |sent, received| {
            Error::Midway { cause: Box::new(Error::Interrupted { signal: 15 }), sent, received, file: None }.to_string()
        };
        assert_eq!(midway(0, 0), "interrupted by SIGTERM; 0 bytes had been delivered in order");
        assert_eq!(midway(7, 0), "interrupted by SIGTERM; 7 bytes had been delivered in order");
        assert!(midway(7, 8).ends_with("; 7 bytes had been delivered in order to the other side, and 8 from it"));
    }

    #[test]
    fn a_remedy_follows_the_reason() {
        let error = Error::Os {
            doing: "cannot listen on port 1".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
            remedy: "use a port above 1023",
        };
        assert_eq!(error.to_string(), "cannot listen on port 1: permission denied; use a port above 1023");
    }
}
