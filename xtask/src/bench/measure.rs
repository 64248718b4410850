//! Runs a receiver and a sender to their end and says what they used: wall time, processor time, memory. Knows
//! processes, not programs.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use wait4::{ResUse, Wait4 as _};

use crate::{feed, sh};

/// What one process used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time (getrusage(2) through wait4(2)).
    pub(crate) cpu: Duration,
    /// Largest resident set. Never below this program's own few MiB: a process that was started with vfork
    /// inherits its parent's mark (Linux, `setmax_mm_hiwater_rss` in fs/exec.c).
    pub(crate) peak_bytes: u64,
}

/// What one transfer used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// From the sender's start until both have ended.
    pub(crate) wall: Duration,
    pub(crate) sender: Usage,
    pub(crate) receiver: Usage,
}

impl Usage {
    /// The peak in units of 2^20 bytes.
    pub(crate) fn peak_mib(&self) -> f64 {
        super::report::float(self.peak_bytes) / f64::from(1 << 20)
    }
}

/// Runs the pair: the sender starts once `listens` says that the receiver does.
///
/// # Errors
/// A side that cannot be started, fails, or outlives the patience (it is killed), with what it said on stderr.
pub(crate) fn pair(
    receiver: Command,
    sender: Command,
    listens: impl FnMut() -> bool,
    patience: Duration,
) -> Result<Sample> {
    let mut receiver = Side::start("receiver", receiver)?;
    let listening = feed::wait_listening(listens, || receiver.poll().is_ok() && receiver.ended.is_none());
    listening.with_context(|| receiver.stop())?;
    let start = Instant::now();
    let mut sender = Side::start("sender", sender)?;
    let deadline = start + patience;
    while sender.ended.is_none() || receiver.ended.is_none() {
        for side in [&mut sender, &mut receiver] {
            side.poll()?;
        }
        let failed = [&sender, &receiver].iter().any(|side| side.ended.is_some_and(|end| !end.status.success()));
        if failed || Instant::now() > deadline {
            let (sender, receiver) = (sender.stop(), receiver.stop());
            bail!("{}\n{sender}\n{receiver}", if failed { "the transfer failed" } else { "the transfer hangs" });
        }
        thread::sleep(Duration::from_millis(1));
    }
    let wall = start.elapsed();
    Ok(Sample { wall, sender: sender.usage()?, receiver: receiver.usage()? })
}

/// One process of the pair; killed when dropped before its end.
struct Side {
    role: &'static str,
    shown: String,
    child: Child,
    /// What it said on stderr. A file, not a pipe: a grandchild that lives on must not keep us waiting.
    stderr: File,
    ended: Option<ResUse>,
}

impl Side {
    fn start(role: &'static str, mut command: Command) -> Result<Self> {
        let shown = sh::line(&command);
        let stderr = tempfile::tempfile().context("making a file for stderr")?;
        command.stderr(stderr.try_clone().context("sharing the file for stderr")?);
        let child = command.spawn().with_context(|| format!("starting the {role} `{shown}`"))?;
        Ok(Self { role, shown, child, stderr, ended: None })
    }

    /// Notes the end, if it has come.
    fn poll(&mut self) -> Result<()> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait4().with_context(|| format!("waiting for the {}", self.role))?;
        }
        Ok(())
    }

    /// Ends it if need be; its state and its words, for an error.
    fn stop(&mut self) -> String {
        let state = match self.ended {
            Some(end) => end.status.to_string(),
            None => "still running: killed".into(),
        };
        self.kill();
        let mut said = Vec::new();
        let read = self.stderr.rewind().and_then(|()| (&self.stderr).take(64 << 10).read_to_end(&mut said));
        let said =
            read.map_or_else(|e| format!("(its stderr is lost: {e})"), |_| String::from_utf8_lossy(&said).into());
        format!("  {} `{}`: {state}: {}", self.role, self.shown, said.trim())
    }

    fn kill(&mut self) {
        // Once its end is noted the process id may be another's: no signal then.
        if self.ended.is_none() && self.child.kill().is_ok() {
            while self.ended.is_none() && self.poll().is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn usage(&self) -> Result<Usage> {
        let used = self.ended.with_context(|| format!("the {} has not ended", self.role))?.rusage;
        Ok(Usage { cpu: used.utime + used.stime, peak_bytes: used.maxrss })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn run(receiver: &str, sender: &str) -> Result<Sample> {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        pair(shell(receiver), shell(sender), || true, Duration::from_secs(1))
    }

    #[test]
    fn processor_time_and_memory_are_those_of_each_side() {
        let sample = run("exit 0", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").unwrap();
        assert!(sample.sender.cpu > sample.receiver.cpu, "{sample:?}");
        assert!(sample.sender.peak_bytes > 0 && sample.receiver.peak_bytes > 0, "{sample:?}");
        assert!(sample.wall >= sample.sender.cpu / 2, "{sample:?}");
    }

    #[test]
    fn a_side_that_fails_ends_the_other_and_its_words_are_kept() {
        let start = Instant::now();
        let error = run("sleep 60", "echo no route >&2; exit 3").unwrap_err().to_string();
        assert!(
            error.contains("the transfer failed") && error.contains("no route") && error.contains("exit status: 3"),
            "{error}"
        );
        assert!(error.contains("still running: killed"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn a_hang_is_an_error() {
        let error = run("exec sleep 60", "exec sleep 60").unwrap_err().to_string();
        assert!(error.contains("the transfer hangs"), "{error}");
    }
}
