//! Programs of the system that break things on purpose: strace (errors that a disk would report), losetup (a disk to write to).
//!
//! Where one is missing that is said loudly; on a build machine (`CI=true`) it is a failure, as nobody would read what was said.

use super::common::process::Side;
use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Whether strace works here: it may be missing, or forbidden.
pub(crate) fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        missing("strace does not work here: install it, and in a container give it CAP_SYS_PTRACE");
    }
    works
}

/// Says why something is not shown here.
pub(crate) fn missing(what: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test}: {what}");
    eprintln!("SKIP: {test}: {what}");
}

/// Runs mpnc with every use of `file` by these calls failing with this error: what a full disk or a broken network file system does.
pub(crate) fn failing<'a>(file: &'a str, trace: &'a str, inject: &'a str) -> Vec<&'a str> {
    vec!["strace", "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", trace, "-e", inject]
}

/// Whether it ends within a few seconds, without a signal: what is refused at the start does.
pub(crate) fn ended_early(side: &mut Side) -> bool {
    let stat = format!("/proc/{}/stat", side.pid());
    let gone = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    let early = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(50));
        gone()
    });
    if !early {
        side.signal("KILL");
    }
    early
}

/// A block device backed by a file; detached when dropped.
pub(crate) struct LoopDevice {
    path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// Needs root, and a system with loop devices.
    pub(crate) fn new(len: u64) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(len).expect("a sparse file");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output();
        match output {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                Some(Self { path, _file: file })
            }
            _ => {
                missing("no loop device: needs root, losetup (mount, util-linux) and a kernel with them");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Whether these bytes are at its beginning.
    pub(crate) fn begins_with(&self, bytes: &[u8]) -> bool {
        let mut there = vec![0; bytes.len()];
        File::open(&self.path).and_then(|mut disk| disk.read_exact(&mut there)).is_ok() && there == bytes
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}
