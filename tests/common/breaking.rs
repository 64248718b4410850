//! Outputs that are not plain files: one whose errors come late (strace plays the disk), and a real block device.

use super::needs;
use std::fs::File;
use std::io::Read;
use std::process::Command;

/// Runs mpnc with every use of `file` by these calls failing with this error: what a full disk or a broken network file
/// system does.
pub(crate) fn failing<'a>(file: &'a str, trace: &'a str, inject: &'a str) -> Vec<&'a str> {
    vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", trace, "-e", inject]
}

/// Bytes of a device that is only tried.
const MIN: u64 = 64 << 10;

/// A block device backed by a file; detached when dropped.
pub(crate) struct LoopDevice {
    path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    /// Whether there can be one. If not, the running test is skipped and has to return.
    #[track_caller]
    pub(crate) fn is_possible() -> bool {
        let possible = Self::attach(MIN).is_some();
        if !possible {
            needs::missing("no loop device: needs root, losetup (mount, util-linux) and a kernel with them");
        }
        possible
    }

    /// Needs what [`is_possible`](Self::is_possible) has found.
    pub(crate) fn new(len: u64) -> Self {
        Self::attach(len).expect("a loop device, as there was one before")
    }

    fn attach(len: u64) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(len).expect("a sparse file");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(Self { path: String::from_utf8_lossy(&output.stdout).trim().to_owned(), _file: file })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// All that is on it.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        File::open(&self.path).and_then(|mut disk| disk.read_to_end(&mut content)).expect("a disk can be read");
        content
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}
