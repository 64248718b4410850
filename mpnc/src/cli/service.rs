//! What a listener does for each session: which ends its pipe has, and what is said when it is over.

use super::args::Args;
use super::failure;
use super::run::{pipe, report};
use super::screen::say;
use super::summary::Subject;
use crate::engine::{Caller, Epilogue, Named, Pipe, Service};
use crate::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// Sessions at once where each has ends of its own.
const AT_ONCE: usize = 16;

/// Where the outcome of a listener's only session is left.
pub(super) type Outcome = Arc<Mutex<Option<Error>>>;

/// The service that the command line asks for. `first` is the pipe that has been opened already, for the first session.
pub(super) fn service(
    args: &Args,
    first: Option<Pipe>,
    subject: Subject,
    on_end: impl Fn() + Send + 'static,
) -> (Service, Outcome) {
    let outcome = Outcome::default();
    let left = Arc::clone(&outcome);
    let (opening, ending) = (args.clone(), args.clone());
    let mut first = first;
    let at_once = if has_own_ends(args) { AT_ONCE } else { 1 };
    let service = Service {
        open: Box::new(move |caller| match first.take() {
            Some(pipe) => Ok(pipe),
            None => open(&opening, caller),
        }),
        on_end: Box::new(move |caller, outcome| {
            on_end();
            match outcome {
                Ok(done) => report(&ending, &done, &subject),
                Err(error) if ending.keep_open => say(&failure::text(ending.json, Some(caller.number), &error)),
                Err(error) => *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        }),
        at_once: args.sessions.map_or(at_once, usize::from),
        keep: args.keep_open,
    };
    (service, outcome)
}

/// Whether each session has a command or a file of its own, so that several can go on at once.
pub(super) fn has_own_ends(args: &Args) -> bool {
    args.exec.is_some() || args.output.as_ref().is_some_and(|path| path.to_string_lossy().contains('%'))
}

fn open(args: &Args, caller: &Caller) -> Result<Pipe, Error> {
    if let Some(command) = &args.exec {
        return run_command(args, command, caller);
    }
    let mut own = args.clone();
    if let Some(pattern) = &args.output {
        own.output = Some(expand(&pattern.to_string_lossy(), caller).into());
    }
    pipe(&own)
}

/// `%n`: the session's number; `%a`: the peer's address; `%%`: a per cent sign.
fn expand(pattern: &str, caller: &Caller) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('%', Some('n')) => out.push_str(&caller.number.to_string()),
            ('%', Some('a')) => out.push_str(&caller.peer.ip().to_string()),
            ('%', Some('%')) => out.push('%'),
            _ => {
                out.push(c);
                continue;
            }
        }
        chars.next();
    }
    out
}

// --- commands ----------------------------------------------------------------------------------------------------------------------

/// A command that is killed unless it was waited for.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// A line of words, as a person would separate them; quotes keep words together.
fn words(line: &str) -> Result<Vec<String>, Error> {
    match shlex::split(line) {
        Some(words) if !words.is_empty() => Ok(words),
        _ => Err(Error::Usage(format!("--exec: '{line}' is no command: a quote is open, or it is empty"))),
    }
}

fn run_command(args: &Args, line: &str, caller: &Caller) -> Result<Pipe, Error> {
    let words = if args.sh { vec!["sh".into(), "-c".into(), line.to_owned()] } else { words(line)? };
    let end = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
    let stdout = if args.sends() { Stdio::piped() } else { Stdio::inherit() };
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env("MPNC_SESSION", caller.number.to_string())
        .env("MPNC_PEER", caller.peer.ip().to_string())
        .stdin(end(args.receives()))
        .stdout(stdout)
        .spawn()
        .map_err(|error| Error::os(format!("cannot run {}", words[0]), error))?;
    let name = format!("the command {}", words[0]);
    let named = |fd: OwnedFd| Named::new(File::from(fd), name.clone());
    let mut output = child.stdin.take().map(|pipe| named(pipe.into()));
    let mut input = child.stdout.take().map(|pipe| named(pipe.into()));
    let mut running = Running(child);
    let wait: Epilogue = Box::new(move || match running.0.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("it ended with {status}"))),
    });
    // The end that closes last has the last word: a command that answers is done when its answer is.
    match (&mut input, &mut output) {
        (Some(last), _) | (None, Some(last)) => last.epilogue = Some(wait),
        (None, None) => {}
    }
    Ok(Pipe { input, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_each_session() {
        let caller = Caller { number: 7, peer: "10.0.0.1:5".parse().unwrap() };
        assert_eq!(expand("disk-%n-from-%a.img", &caller), "disk-7-from-10.0.0.1.img");
        assert_eq!(expand("100%%-%x-%", &caller), "100%-%x-%");
    }

    #[test]
    fn commands_are_split_as_a_shell_would_without_running_one() {
        assert_eq!(words("tar -x -C '/a b'").unwrap(), ["tar", "-x", "-C", "/a b"]);
        assert!(words("tar 'open").is_err());
        assert!(words("").is_err());
    }
}
