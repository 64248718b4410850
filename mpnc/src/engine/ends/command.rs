//! A command as the ends of a session: it belongs to the session, and does not outlive it.
//!
//! It runs in a process group of its own and is waited for by its pidfd. When the session fails, the group is asked to
//! end (SIGTERM), after [`GRACE`] it is killed, and only then are its pipes closed: it must not take a broken stream
//! for a whole one. What it leaves running after it has said 0 is its own affair.

use crate::engine::caller::Caller;
use crate::engine::halt::Halt;
use crate::error::Error;
use crate::sys::child::isolate;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take to end when its session has failed, before it is killed.
const GRACE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How often it is looked at where the kernel has no pidfd.
const LOOK: Duration = Duration::from_millis(20);

/// What `--exec` says.
#[derive(Debug, Clone)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// A line of words, as a person would separate them (quotes keep words together), or a line for a shell.
    ///
    /// # Errors
    /// [`Error::Usage`] for a line that is none.
    pub fn parse(line: &str, shell: bool) -> Result<Self, Error> {
        let words = if shell { Some(vec!["sh".into(), "-c".into(), line.to_owned()]) } else { shlex::split(line) };
        let Some(words) = words.filter(|words| !words.is_empty() && !line.trim().is_empty()) else {
            return Err(Error::Usage(format!("--exec: '{line}' is no command: a quote is open, or it is empty")));
        };
        Ok(Self { words })
    }

    /// Whether the program is there.
    ///
    /// # Errors
    /// [`Error::Os`] if it cannot be found.
    pub(super) fn check(&self) -> Result<(), Error> {
        find(&self.words[0]).map_err(|error| Error::os(format!("cannot run {}", self.words[0]), error))
    }
}

/// Whether the program can be started, as execvp(3) looks for it.
fn find(program: &str) -> io::Result<()> {
    let runs = |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return match Path::new(program).metadata() {
            Ok(_) if runs(Path::new(program)) => Ok(()),
            Ok(_) => Err(io::ErrorKind::PermissionDenied.into()),
            Err(error) => Err(error),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let found = std::env::split_paths(&path).map(|dir: PathBuf| dir.join(program)).any(|path| runs(&path));
    if found { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "no such program in PATH")) }
}

/// A running command.
pub(super) struct Running {
    child: Child,
    /// Linux 5.3.
    pidfd: Option<OwnedFd>,
    pub(super) name: String,
}

impl Running {
    /// Starts it, with a pipe for each direction that is wanted. The calling thread must live until [`Self::reap`].
    pub(super) fn start(
        line: &CommandLine,
        caller: &Caller,
        (reads, writes): (bool, bool),
        halt: &Halt,
    ) -> Result<(Self, Option<ChildStdin>, Option<ChildStdout>), Error> {
        let program = &line.words[0];
        let failed = |error| Error::os(format!("cannot run {program}"), error);
        let mut command = Command::new(program);
        command
            .args(&line.words[1..])
            .env("MPNC_SESSION", caller.number.to_string())
            .env("MPNC_PEER", caller.peer.ip().to_string())
            .stdin(if reads { Stdio::piped() } else { Stdio::null() })
            .stdout(if writes { Stdio::piped() } else { Stdio::inherit() });
        isolate(&mut command);
        let mut child = halt.with_descriptors(|| command.spawn()).map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let pidfd = pidfd_open(pid_of(&child), PidfdFlags::empty()).ok();
        Ok((Self { child, pidfd, name: format!("the command {program}") }, stdin, stdout))
    }

    /// Waits until it has ended by itself; it is still to be reaped.
    ///
    /// # Errors
    /// If it ended otherwise than with 0, in words; or nobody wants to know any more.
    pub(super) fn succeed(&self, halt: &Halt) -> io::Result<()> {
        while !self.has_ended(&GRACE) {
            halt.check()?;
        }
        match self.status() {
            Some(status) if status.exit_status() == Some(0) => Ok(()),
            status => Err(io::Error::other(format!("it ended with {}", words(status.as_ref())))),
        }
    }

    /// Whether it has ended, or ends within `patience`, or before the thread is interrupted.
    fn has_ended(&self, patience: &Timespec) -> bool {
        if let Some(pidfd) = &self.pidfd {
            return poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(patience)).is_ok_and(|ready| ready > 0);
        }
        let until = Instant::now() + Duration::try_from(*patience).unwrap_or_default();
        while self.status().is_none() && Instant::now() < until {
            thread::sleep(LOOK);
        }
        self.status().is_some()
    }

    /// How it ended, if it has. It stays to be reaped, so that the numbers of process and group stay its own.
    fn status(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid_of(&self.child)), options).ok().flatten()
    }

    /// Why writing to it failed, where that is that it is gone: in words, with how it ended.
    pub(super) fn explain(&self, error: io::Error) -> io::Error {
        let gone = error.kind() == io::ErrorKind::BrokenPipe && self.has_ended(&GRACE);
        if !gone {
            return error;
        }
        let status = words(self.status().as_ref());
        io::Error::new(error.kind(), format!("it ended with {status} before it had read everything"))
    }

    /// Ends it and what it has started, if that has not left its process group.
    pub(super) fn end(&self) {
        let group = pid_of(&self.child);
        let _ = kill_process_group(group, Signal::TERM);
        let _ = kill_process_group(group, Signal::CONT);
        self.has_ended(&GRACE);
        // Also when the command itself has ended: others of its group may still be at work.
        let _ = kill_process_group(group, Signal::KILL);
    }

    /// Waits for its end for good.
    pub(super) fn reap(mut self) {
        if let Err(error) = self.child.wait() {
            log::debug!("waiting for {}: {error}", self.name);
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// As a shell's user knows it.
fn words(status: Option<&WaitIdStatus>) -> String {
    let Some(status) = status else { return "an unknown status".into() };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status: {code}"),
        (_, Some(signal)) => format!("signal: {signal}"),
        _ => "an unknown status".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_would_without_running_one() {
        assert_eq!(CommandLine::parse("tar -x -C '/a b'", false).unwrap().words, ["tar", "-x", "-C", "/a b"]);
        assert!(matches!(CommandLine::parse("tar 'open", false), Err(Error::Usage(_))));
        for empty in ["", "  "] {
            assert!(matches!(CommandLine::parse(empty, false), Err(Error::Usage(_))));
            assert!(matches!(CommandLine::parse(empty, true), Err(Error::Usage(_))));
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_missed_before_it_is_needed() {
        for missing in ["no-such-program-here", "/no/such/program", "/etc/passwd", "/"] {
            let line = CommandLine::parse(missing, false).unwrap();
            assert!(matches!(line.check(), Err(Error::Os { .. })), "{missing}");
        }
    }
}
