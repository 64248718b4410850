//! A folder in which mpnc and its commands run, marked so that whatever they leave behind is found: processes, threads,
//! descriptors, files.
//!
//! It must not know what a test expects of them.

use super::common::process::Side;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Inherited by all that a scene starts, and by what that starts.
const MARK: &str = "MPNC_SCENE";
/// How long something may take that happens by itself. It only bounds a hang.
const LIMIT: Duration = Duration::from_mins(1);

/// See the module documentation. What it has started is killed with it.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder for what is temporary") }
    }

    /// The path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("the path is UTF-8").to_owned()
    }

    /// What is in a file of the folder; nothing if there is none.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_default()
    }

    /// mpnc in this folder, started by `wrapper` if there is one: a program that becomes mpnc, or runs it and ends as
    /// it ends.
    pub(crate) fn command(&self, wrapper: &[&str], args: &[&str]) -> Command {
        // As a terminal would start it: in the background of a script signals come ignored, and mpnc leaves them so.
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,TERM").args(wrapper).arg(env!("CARGO_BIN_EXE_mpnc")).args(args);
        command.current_dir(self.dir.path()).env(MARK, self.mark());
        command
    }

    /// A listener on a port that the kernel chooses.
    pub(crate) fn listener(&self, wrapper: &[&str], args: &[&str], output: impl Into<Stdio>) -> (Side, u16) {
        let args = [&["-l"], args, &["0"]].concat();
        let side = Side::of(&mut self.command(wrapper, &args), Stdio::null(), output.into());
        let port = side.port();
        (side, port)
    }

    /// What runs with this scene's mark and is neither mpnc nor a tracer: commands, and what they started. Each as "PID
    /// name".
    pub(crate) fn commands(&self) -> Vec<String> {
        let name = |pid: &String| {
            // Not its comm: a child between fork and exec has the name of the thread that made it.
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
            program.file_name()?.to_str().map(str::to_owned)
        };
        let commands = self.marked().into_iter().filter_map(|pid| Some((name(&pid)?, pid)));
        let ours = ["mpnc", "strace", "env", "prlimit"];
        commands.filter(|(name, _)| !ours.contains(&&**name)).map(|(name, pid)| format!("{pid} {name}")).collect()
    }

    /// Kills all that runs with its mark.
    pub(crate) fn sweep(&self) {
        for pid in self.marked() {
            let _ = Command::new("kill").args(["-s", "KILL", &pid]).stderr(Stdio::null()).status();
        }
    }

    fn mark(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// Every process that has the mark in its environment (proc_pid_environ(5)).
    fn marked(&self) -> Vec<String> {
        let wanted = format!("{MARK}={}", self.mark());
        let processes = fs::read_dir("/proc").expect("/proc is mounted").filter_map(|entry| {
            let pid = entry.ok()?.file_name().into_string().ok()?;
            pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
        });
        let marked = |pid: &String| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        processes.filter(marked).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.sweep();
    }
}

/// Waits until it is so, and panics with what `otherwise` says if it never is.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(mut look: impl FnMut() -> Result<(), T>) {
    within(LIMIT, &mut look);
}

/// The same, with a limit that is itself what is tested: leave room for a busy machine.
#[track_caller]
pub(crate) fn within<T: std::fmt::Debug>(limit: Duration, mut look: impl FnMut() -> Result<(), T>) {
    let started = Instant::now();
    while let Err(found) = look() {
        assert!(started.elapsed() < limit, "still after {limit:?}: {found:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Nothing, or what there is.
pub(crate) fn none<T>(found: Vec<T>) -> Result<(), Vec<T>> {
    if found.is_empty() { Ok(()) } else { Err(found) }
}
