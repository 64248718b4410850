//! Outputs that are not plain files: one whose errors come late (strace plays the disk), and a real block device.

use super::needs::skipped;
use std::fs::File;
use std::io::Read;
use std::process::Command;

/// Runs mpnc with every use of `file` by these calls failing with this error: what a full disk or a broken network file system does.
pub(crate) fn failing<'a>(file: &'a str, trace: &'a str, inject: &'a str) -> Vec<&'a str> {
    vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", file, "-e", trace, "-e", inject]
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
                skipped("no loop device: needs root, losetup (mount, util-linux) and a kernel with them");
                None
            }
        }
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
