//! A network namespace of a test, made with `ip` and gone with the test, also when it fails.
//!
//! The lab has one of its own (`xtask/src/lab/netns.rs`): it is read from outside and outlives threads, which costs a
//! process inside; a test enters its namespace with a thread. Must not know what is tried in it.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace with `lo` up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one; what `ip` says where it cannot (no root).
    pub(crate) fn try_new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // As the lab names its own, which removes those whose maker is gone.
        let name = format!("mpnc-{}-t{number}", std::process::id());
        said_by(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in the namespace, with the words of the line; what it says.
    #[track_caller]
    pub(crate) fn ip(&self, line: &str) -> String {
        said_by(Command::new("ip").args(["-n", &self.name]).args(line.split(' '))).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A line of shell in the namespace, with its own `/sys`; what it says.
    #[track_caller]
    pub(crate) fn shell(&self, line: &str) -> String {
        said_by(Command::new("ip").args(["netns", "exec", &self.name, "sh", "-c", line]))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs `work` on a thread of its own in the namespace: sockets and processes made there stay there. `/sys` is this
    /// process's, and so another network's.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let inside = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = said_by(Command::new("ip").args(["netns", "del", &self.name]));
        assert!(deleted.is_ok() || thread::panicking(), "{deleted:?}");
    }
}

/// What a command says, on standard error if it fails.
fn said_by(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(said(&output.stdout))
    } else {
        Err(format!("{command:?}: {}", said(&output.stderr)))
    }
}
