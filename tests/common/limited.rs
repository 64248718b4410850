//! mpnc with few descriptors, and what a process holds: descriptors, memory, processor time (proc(5)).

use super::common::process::Side;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running listener whose process can be looked into.
pub(crate) struct Limited {
    pub(crate) side: Side,
    pub(crate) port: u16,
    proc: PathBuf,
}

impl Limited {
    /// A listener that may have so many descriptors; it works in `folder`.
    pub(crate) fn listener(descriptors: u32, args: &str, folder: &tempfile::TempDir) -> Self {
        let script = format!(
            "echo $$ > pid; ulimit -n {descriptors}; exec env --default-signal=HUP,INT,TERM {} -l {args} 0",
            env!("CARGO_BIN_EXE_mpnc")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(folder.path());
        let side = Side::of(&mut command, Stdio::null(), Stdio::null());
        let line = side.wait_for_words("listening on ");
        let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port");
        let pid = fs::read_to_string(folder.path().join("pid")).expect("the shell has left its number");
        Self { side, port, proc: PathBuf::from("/proc").join(pid.trim()) }
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc.join("fd")).expect("it runs").count()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(self.proc.join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc_pid_status(5)");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Processor time used during `span`.
    pub(crate) fn busy(&self, span: Duration) -> Duration {
        let before = self.used();
        thread::sleep(span);
        self.used().saturating_sub(before)
    }

    /// Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second (USER_HZ); the name before them has no space.
    fn used(&self) -> Duration {
        let stat = fs::read_to_string(self.proc.join("stat")).expect("it runs");
        let ticks: u64 = stat.split(' ').skip(13).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// Waits until it is so, for a minute at most.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_mins(1), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
