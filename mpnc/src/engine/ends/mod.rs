//! The two ends of a session: what it reads, what it writes. An end is opened, claimed, used, closed, and only then has
//! it an outcome.
//!
//! ```text
//! session's thread:  open and claim --> start reader, writer --> wait ----------> reap --> "the ends are gone"
//!                                                                 | session failed: end the command, wake the blocked
//! reader thread:     input --> blocks --> the command's exit status --> "the input has ended"
//! writer thread:     blocks --> output --> compare, flush, close, the command's exit status --> "finished"
//! ```
//!
//! Everything here may block, and nothing here runs in an event loop or under a lock. Must not know sockets.

mod attend;
mod claim;
mod command;
mod place;
mod reader;
mod sink;
mod source;
mod writer;

pub(super) use attend::attend;
pub use command::CommandLine;
pub use place::Place;

use super::caller::Caller;
use super::halt::Halt;
use super::hub::Hub;
use crate::error::Error;
use crate::sys::standard::{is_input_closed, is_output_closed};
use claim::{Claim, Use};
use command::Running;
use sink::Sink;
use source::Source;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What to ask of the kernel for a pipe on either end: its usual limit for ordinary users (pipe(7),
/// /proc/sys/fs/pipe-max-size).
const PIPE_SIZE: usize = 1 << 20;

/// The ends of one session, open and its own.
#[derive(Default)]
pub struct Opened {
    source: Option<Source>,
    sink: Option<Sink>,
    command: Option<Running>,
}

impl Opened {
    /// The ends of pipes within this process.
    #[must_use]
    pub fn of_pipes(input: impl Into<OwnedFd>, output: impl Into<OwnedFd>, name: &str) -> Self {
        Self {
            source: Some(Source::new(File::from(input.into()), name, None)),
            sink: Some(Sink::new(File::from(output.into()), name, None)),
            command: None,
        }
    }
}

fn widen_pipe(file: &File) {
    // Refused for anything but a pipe, and beyond the user's pipe allowance: then it works as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(file, PIPE_SIZE);
}

/// Opens the ends of a session, on the session's own thread. May block for as long as `Halt` allows.
pub type Open = Arc<dyn Fn(&Caller, &Arc<Hub>) -> Result<Opened, Error> + Send + Sync>;

/// What the command line says of the ends; the same for every session.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// What to send, if this side does.
    pub input: Option<Place>,
    /// Where to put what comes, if this side receives.
    pub output: Option<Place>,
    /// What has both ends instead.
    pub command: Option<CommandLine>,
    /// Whether a file that exists and is not empty may be replaced.
    pub force: bool,
    /// Whether there is a session after the first.
    pub keep: bool,
    /// How long to wait for the reader of a FIFO, at most.
    pub patience: Duration,
}

/// See [`Wanted`]: checked, with the standard files in hand.
pub struct Ends {
    wanted: Wanted,
    stdin: Option<File>,
    /// Standard input has been read by a session: what it gave is not there for another.
    spent: AtomicBool,
    stdout: Mutex<Option<File>>,
}

impl Ends {
    /// Checks what can be known before anybody has come. Opens nothing for writing, empties nothing.
    ///
    /// # Errors
    /// What would keep every session from its ends, with the file and the system's reason.
    pub fn check(wanted: Wanted) -> Result<Self, Error> {
        let (mut stdin, mut stdout) = (None, None);
        if let Some(command) = &wanted.command {
            command.check()?;
        } else {
            match &wanted.input {
                Some(Place::Standard) => {
                    stdin = Some(standard(io::stdin().as_fd(), is_input_closed(), "standard input")?);
                }
                Some(Place::Path(path)) => place::check_input(path)
                    .map_err(|error| Error::os(format!("cannot open {}", path.display()), error))?,
                None => {}
            }
            match &wanted.output {
                Some(Place::Standard) => stdout = Some(standard_output(wanted.keep)?),
                Some(pattern @ Place::Path(path)) => {
                    let own = wanted.keep && pattern.is_pattern();
                    let looked = if own { place::check_pattern(path) } else { place::check_output(path, wanted.force) };
                    looked.map_err(|error| cannot_write(&path.display().to_string(), error))?;
                }
                None => {}
            }
        }
        Ok(Self { wanted, stdin, spent: AtomicBool::new(false), stdout: Mutex::new(stdout) })
    }

    /// Whether each session has a command or a file of its own, so that several can go on at once.
    #[must_use]
    pub fn are_own(&self) -> bool {
        self.wanted.command.is_some() || self.wanted.output.as_ref().is_some_and(Place::is_pattern)
    }

    /// Opens them for one session.
    ///
    /// # Errors
    /// As [`Self::check`], and whoever else has them.
    pub fn open(&self, caller: &Caller, halt: &Halt) -> Result<Opened, Error> {
        if let Some(line) = &self.wanted.command {
            return self.start(line, caller, halt);
        }
        let source = self.wanted.input.as_ref().map(|place| self.source(place, caller, halt)).transpose()?;
        let sink = self.wanted.output.as_ref().map(|place| self.sink(place, caller, halt)).transpose()?;
        Ok(Opened { source, sink, command: None })
    }

    fn start(&self, line: &CommandLine, caller: &Caller, halt: &Halt) -> Result<Opened, Error> {
        let directions = (self.wanted.output.is_some(), self.wanted.input.is_some());
        let (command, stdin, stdout) = Running::start(line, caller, directions, halt)?;
        let name = command.name.clone();
        Ok(Opened {
            sink: stdin.map(|pipe| Sink::new(File::from(OwnedFd::from(pipe)), name.clone(), None)),
            source: stdout.map(|pipe| Source::new(File::from(OwnedFd::from(pipe)), name, None)),
            command: Some(command),
        })
    }

    fn source(&self, place: &Place, caller: &Caller, halt: &Halt) -> Result<Source, Error> {
        match place {
            Place::Standard => {
                if self.spent.swap(true, Ordering::AcqRel) {
                    let text = "an earlier session has read it; -i FILE is read anew by each";
                    return Err(Error::os("cannot read standard input", io::Error::other(text)));
                }
                let file = self.stdin.as_ref().ok_or_else(|| Error::Bug("standard input was not kept".into()))?;
                let file = halt.with_descriptors(|| file.try_clone());
                let file = file.map_err(|error| Error::os("cannot use standard input", error))?;
                Ok(Source::new(file, "standard input", None))
            }
            Place::Path(path) => {
                let name = path.display().to_string();
                let opened = halt.with_descriptors(|| place::open_input(path, caller.number));
                let (file, claim) = opened.map_err(|error| Error::os(format!("cannot open {name}"), error))?;
                Ok(Source::new(file, name, Some(claim)))
            }
        }
    }

    fn sink(&self, place: &Place, caller: &Caller, halt: &Halt) -> Result<Sink, Error> {
        match place {
            Place::Standard => {
                let mut kept = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
                let file =
                    if self.wanted.keep { kept.as_ref().map(File::try_clone).transpose() } else { Ok(kept.take()) };
                let cannot = |error| Error::os("cannot use standard output", error);
                let file = file.map_err(cannot)?.ok_or_else(|| Error::Bug("standard output was not kept".into()))?;
                drop(kept);
                let claim = Claim::on(&file, Use::Writing, caller.number).map_err(cannot)?;
                Ok(Sink::new(file, "standard output", Some(claim)).shared())
            }
            Place::Path(path) => {
                let path = if self.wanted.keep { place::expand(path, caller) } else { path.clone() };
                let name = path.display().to_string();
                let Wanted { force, patience, .. } = self.wanted;
                let opened = halt.with_descriptors(|| place::open_output(&path, force, caller.number, patience, halt));
                let (file, claim) = opened.map_err(|error| cannot_write(&name, error))?;
                Ok(Sink::new(file, name, Some(claim)).replacing())
            }
        }
    }
}

fn cannot_write(name: &str, error: io::Error) -> Error {
    Error::os(format!("cannot open {name} for writing"), error)
}

fn standard(fd: BorrowedFd<'_>, closed: bool, name: &str) -> Result<File, Error> {
    let cannot = |error| Error::os(format!("cannot use {name}"), error);
    if closed {
        return Err(cannot(io::Error::other("it was closed when mpnc was started")));
    }
    Ok(fd.try_clone_to_owned().map_err(cannot)?.into())
}

/// Standard output, left to this copy alone if there is one session only: a direction that is over must be seen to be
/// over by whoever reads it, also while the other direction goes on.
fn standard_output(keep: bool) -> Result<File, Error> {
    let file = standard(io::stdout().as_fd(), is_output_closed(), "standard output")?;
    if !keep {
        let nowhere = OpenOptions::new().write(true).open("/dev/null");
        let moved = nowhere.and_then(|nowhere| Ok(rustix::stdio::dup2_stdout(&nowhere)?));
        moved.map_err(|error| Error::os("cannot move standard output", error))?;
    }
    Ok(file)
}
