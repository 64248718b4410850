//! What is said when something fails: a line for people, or with `--json` an object on one line; and the end of a mpnc
//! that is wrong.
//!
//! Decides nothing about the failure itself.

use super::exit::Exit;
use super::screen;
use crate::error::Error;
use serde::Serialize;
use std::panic::{self, PanicHookInfo};
use std::process;

/// The machine form. `version` counts up when a field changes its meaning; new fields may come at any time.
#[derive(Debug, Serialize)]
struct Failure {
    version: u32,
    /// Always false: what is confirmed has a summary.
    confirmed: bool,
    /// What a person would read.
    error: String,
    /// Who is to blame: "usage", "system", "unreachable", "peer", "refused", "interrupted", "bug".
    kind: &'static str,
    /// The exit code that belongs to it, as a shell shows it. A listener with -k goes on.
    exit: u8,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    /// The number of the session, of a listener with -k.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    /// Bytes that had been delivered in order, in all directions.
    bytes: u64,
    /// Of these, sent by this side.
    sent: u64,
    /// Of these, received and written by this side.
    received: u64,
}

/// One line about `error`, which ended `session` of several, or all.
pub(super) fn text(json: bool, session: Option<u64>, error: &Error) -> String {
    match (json, session) {
        (true, _) => object(session, error),
        (false, Some(number)) => format!("mpnc: session {number} failed: {error}"),
        (false, None) => format!("mpnc: {error}"),
    }
}

fn object(session: Option<u64>, error: &Error) -> String {
    let (sent, received) = match error {
        Error::Midway { sent, received, .. } => (*sent, *received),
        _ => (0, 0),
    };
    let failure = Failure {
        version: 1,
        confirmed: false,
        error: error.to_string(),
        kind: kind(error.cause()),
        exit: Exit::of(error).code(),
        signal: match error.cause() {
            Error::Interrupted { signal } => Some(*signal),
            _ => None,
        },
        session,
        bytes: sent + received,
        sent,
        received,
    };
    serde_json::to_string(&failure).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Usage(_) => "usage",
        Error::Os { .. } => "system",
        Error::Unreachable { .. } => "unreachable",
        Error::Peer(_) | Error::Midway { .. } => "peer",
        Error::Refused(_) => "refused",
        Error::Interrupted { .. } => "interrupted",
        Error::Bug(_) => "bug",
    }
}

/// From now on a panic, on any thread, ends the process with one line: a thread less would leave the others waiting for
/// it.
pub(super) fn end_on_panic(json: bool) {
    panic::set_hook(Box::new(move |panic| {
        screen::last_words(&text(json, None, &bug(panic)));
        process::exit(Exit::Bug.code().into());
    }));
}

fn bug(panic: &PanicHookInfo<'_>) -> Error {
    let what = panic.payload_as_str().unwrap_or("a panic").replace('\n', " ");
    let place = panic.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
    Error::Bug(format!("{what}{place}; please report it"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::process::{Command, Output, Stdio};
    use std::thread;

    /// This test program, to run that test alone as a process of its own, which `variable` tells what to do.
    pub(in crate::cli) fn own_process(test: &str, (variable, value): (&str, &str)) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(variable, value).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// It has ended as a bug, with one line that says what has failed.
    pub(in crate::cli) fn assert_bug(output: &Output, what: &str) {
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(70), "{what}: {words}");
        let bug = format!("mpnc: bug in mpnc: {what} has failed (");
        assert!(words.starts_with(&bug) && words.lines().count() == 1, "{words}");
    }

    #[test]
    fn a_failure_says_the_same_to_people_and_machines() {
        let cause = Error::Peer("lost 10.0.0.1:5".into());
        let error = Error::Midway { cause: Box::new(cause), sent: 0, received: 7, file: None };
        let line = text(false, Some(3), &error);
        assert_eq!(line, "mpnc: session 3 failed: lost 10.0.0.1:5; 7 bytes had been delivered in order");
        let object: serde_json::Value = serde_json::from_str(&text(true, Some(3), &error)).unwrap();
        assert!(line.ends_with(object["error"].as_str().unwrap()));
        let fields = ["kind", "exit", "session", "bytes", "received"].map(|name| object[name].to_string());
        assert_eq!(fields, ["\"peer\"", "4", "3", "7", "7"]);
        assert!(object.get("signal").is_none());
    }

    /// Ends the process that runs it, if it is told to: see the next test.
    #[test]
    fn panics_if_told_to() {
        if std::env::var_os("MPNC_TEST_PANICS").is_some() {
            end_on_panic(false);
            let _ = thread::spawn(|| panic!("a thread has failed")).join();
            unreachable!("the process has ended");
        }
    }

    #[test]
    fn a_panic_on_any_thread_ends_the_process_with_one_line() {
        let mut process = own_process("cli::failure::tests::panics_if_told_to", ("MPNC_TEST_PANICS", "1"));
        assert_bug(&process.output().unwrap(), "a thread");
    }
}
