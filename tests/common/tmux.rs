//! A terminal of a stated size with a command in it, and what it shows.

use super::needs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// It only bounds a hang.
const LIMIT: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

/// A tmux server of its own, with one window; gone when dropped.
pub(crate) struct Terminal {
    dir: tempfile::TempDir,
}

impl Terminal {
    /// Whether this system has tmux. If not, the running test is skipped and has to return.
    #[track_caller]
    pub(crate) fn is_there() -> bool {
        let there = Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
        if !there {
            needs::missing("tmux is not installed, so nothing is seen on a terminal");
        }
        there
    }

    /// Runs a shell command line in a window of so many columns.
    pub(crate) fn run(columns: u16, command: &str) -> Self {
        let terminal = Self { dir: tempfile::tempdir().unwrap() };
        let size = columns.to_string();
        // The window stays when the command has ended.
        let command = format!("{command}; echo \"it ended with $?\"; sleep 600");
        let args = ["-f", "/dev/null", "new-session", "-d", "-x", &size, "-y", "24", &command];
        let output = terminal.tmux(&args);
        assert!(output.status.success(), "tmux: {output:?}");
        terminal
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("RUST_LOG");
        command.arg("-S").arg(self.socket()).args(args).output().expect("tmux runs")
    }

    /// The lines on the screen, without the empty ones at its end. A line longer than the screen shows as two.
    pub(crate) fn screen(&self) -> Vec<String> {
        let output = self.tmux(&["capture-pane", "-p"]);
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        text.lines().map(str::to_owned).collect()
    }

    /// Types, by the names that tmux has for keys; what is no name is typed as it stands.
    pub(crate) fn type_keys(&self, keys: &[&str]) {
        let output = self.tmux(&[&["send-keys"], keys].concat());
        assert!(output.status.success(), "tmux: {output:?}");
    }

    /// Waits until some line holds `part`, and answers the screen.
    pub(crate) fn wait_for(&self, part: &str) -> Vec<String> {
        let started = Instant::now();
        loop {
            let screen = self.screen();
            if screen.iter().any(|line| line.contains(part)) {
                return screen;
            }
            assert!(started.elapsed() < LIMIT, "never showed {part:?}, but:\n{}", screen.join("\n"));
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}
