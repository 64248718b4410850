//! mpnc as a child process: its ends, its words, its memory, its end. A child that is forgotten or late is killed.

use super::data::{Digest, Noise, drain, pour};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// No child may take longer. It only bounds a hang: nothing is asserted about speed, and the machine may be busy.
const LIMIT: Duration = Duration::from_mins(5);
/// No side may ever hold more (issue 2, item 4).
const MEMORY: u64 = 128 << 20;
/// How often children and their memory are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A running mpnc.
pub(crate) struct Side {
    child: Child,
    words: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    peak: Arc<AtomicU64>,
    started: Instant,
}

/// How a [`Side`] ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code, or what a shell makes of the signal that it died of: 128 + its number.
    pub(crate) code: Option<i32>,
    /// All that it said on standard error.
    pub(crate) words: String,
    /// Its largest resident set, in bytes.
    peak: u64,
}

impl Side {
    /// Starts mpnc with pipes at both ends.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, Stdio::piped(), Stdio::piped())
    }

    /// Starts mpnc between `input` and `output`.
    pub(crate) fn start_with(args: &[&str], input: Stdio, output: Stdio) -> Self {
        // As a terminal would start it: under nohup, or in the background of a script, signals come ignored, and mpnc
        // leaves them so.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_mpnc")]).args(args);
        Self::of(&mut command, input, output)
    }

    /// Starts what becomes mpnc.
    pub(crate) fn of(command: &mut Command, input: Stdio, output: Stdio) -> Self {
        command.env_remove("RUST_LOG").stdin(input).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let words = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&words);
        let stderr = child.stderr.take().expect("standard error is a pipe");
        let listener = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("mpnc speaks UTF-8");
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        });
        let peak = Arc::new(AtomicU64::new(0));
        watch_memory(child.id(), Arc::downgrade(&peak));
        Self { child, words, listener: Some(listener), peak, started: Instant::now() }
    }

    /// Starts a receiver on a port that the kernel chooses.
    pub(crate) fn receiver(args: &[&str]) -> (Self, u16) {
        Self::receiver_to(args, Stdio::piped())
    }

    /// The same, with the output going to `output`.
    pub(crate) fn receiver_to(args: &[&str], output: Stdio) -> (Self, u16) {
        let args = [&["-l"], args, &["0"]].concat();
        let side = Self::start_with(&args, Stdio::null(), output);
        let port = side.port();
        (side, port)
    }

    /// The port that the kernel chose for a listener, when it says so.
    pub(crate) fn port(&self) -> u16 {
        let line = self.wait_for_words("listening on ");
        let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok());
        port.unwrap_or_else(|| panic!("no port in {line:?}"))
    }

    /// Starts a sender to a port of this host that reads `len` bytes of [`Noise`] from its standard input.
    pub(crate) fn sender(port: u16, args: &[&str], len: u64) -> Self {
        let mut side = Self::start(&[args, &["127.0.0.1", &port.to_string()]].concat());
        pour(Noise::new(len), side.stdin());
        side
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is a pipe, and nobody has it yet")
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("standard output is a pipe, and nobody has it yet")
    }

    /// Hashes its standard output as it comes.
    pub(crate) fn drain(&mut self) -> JoinHandle<Digest> {
        drain(self.stdout())
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by name ("TERM").
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("there is a kill program");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Waits until it has said something that contains `part`, and answers that line.
    pub(crate) fn wait_for_words(&self, part: &str) -> String {
        loop {
            // In this order, or the last words would be missed.
            let over = self.listener.as_ref().is_none_or(JoinHandle::is_finished);
            if let Some(line) = self.heard(part) {
                return line;
            }
            let patient = !over && self.started.elapsed() < LIMIT;
            assert!(patient, "never said {part:?}, but:\n{}", self.said());
            thread::sleep(LOOK);
        }
    }

    /// The first line so far that contains `part`.
    pub(crate) fn heard(&self, part: &str) -> Option<String> {
        self.said().lines().find(|line| line.contains(part)).map(str::to_owned)
    }

    fn said(&self) -> String {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if self.started.elapsed() >= LIMIT {
                let _ = self.child.kill();
                panic!("still running after {LIMIT:?}; it said:\n{}", self.said());
            }
            thread::sleep(LOOK);
        };
        if let Some(listener) = self.listener.take() {
            listener.join().expect("standard error is read to its end");
        }
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ended { code, words: self.said(), peak: self.peak.load(Ordering::Relaxed) }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts the exit code, and that the memory was bounded.
    #[track_caller]
    pub(crate) fn with_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code; {self:?}");
        assert!(self.peak <= MEMORY, "resident set; {self:?}");
        self
    }

    /// Asserts that the last line holds each of these, and that all it said is fit for a person to read.
    #[track_caller]
    pub(crate) fn saying(&self, parts: &[&str]) -> &Self {
        assert!(self.words.lines().count() < 60, "too much to read: {self:?}");
        let last = self.words.lines().last().unwrap_or_default();
        assert!(last.starts_with("mpnc: "), "the last line names the program: {self:?}");
        for part in parts {
            assert!(last.contains(part), "no {part:?} in the last line: {self:?}");
        }
        for ugly in ["os error", "panicked", "Err(", "Some(", "bug"] {
            assert!(!self.words.contains(ugly), "{ugly:?} is not for people: {self:?}");
        }
        self
    }
}

/// Follows the high-water mark of a process until it ends or nobody cares. The mark never falls, so the last look
/// before the end counts.
fn watch_memory(pid: u32, peak: std::sync::Weak<AtomicU64>) {
    thread::spawn(move || {
        while let (Some(mark), Some(peak)) = (high_water(pid), peak.upgrade()) {
            peak.fetch_max(mark, Ordering::Relaxed);
            drop(peak);
            thread::sleep(LOOK);
        }
    });
}

/// VmHWM of proc_pid_status(5), in bytes.
fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}
