//! Writes the archive that Linux unpacks as its first file system (cpio, "newc" form, uncompressed).
//! Uncompressed on purpose: unpacking costs more under emulation than copying. Knows nothing of what is archived.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const FILE: u32 = 0o100_755;

/// An archive under construction, in memory.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    present: BTreeSet<String>,
}

impl Archive {
    /// Adds a file at an absolute path, its directories too. The same path a second time is ignored: libraries are
    /// shared.
    ///
    /// # Errors
    /// When the file is too large for the format (4 GiB).
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, FILE, content)
    }

    /// Adds a copy of a file of this machine, following symbolic links.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(path, &content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK, target.as_bytes())
    }

    /// Adds an empty directory, its parents too.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, DIRECTORY, &[])
    }

    /// The finished archive.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.header("TRAILER!!!", 0, 0)?;
        Ok(self.bytes)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        ensure!(path.starts_with('/'), "the archive takes absolute paths, not {path}");
        let cuts: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
        cuts.into_iter().try_for_each(|at| self.entry(&path[..at], DIRECTORY, &[]))
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.trim_start_matches('/');
        if !self.present.insert(name.to_owned()) {
            return Ok(());
        }
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for an initramfs"))?;
        self.inode += 1;
        self.header(name, mode, size)?;
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    /// 6 bytes of magic and 13 numbers of 8 hexadecimal digits, then the name with its NUL, padded to 4 bytes.
    fn header(&mut self, name: &str, mode: u32, size: u32) -> Result<()> {
        let name_size = u32::try_from(name.len() + 1)?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device and rdevice as major and minor, name size, check
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn another_program_reads_the_archive() {
        let mut archive = Archive::default();
        archive.file("/bin/odd", b"abc").unwrap();
        archive.file("/bin/odd", b"ignored").unwrap();
        archive.link("/sbin/other", "../bin/odd").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);

        let Ok(busybox) = super::super::command::find("busybox", "busybox-static") else {
            return;
        };
        let mut list =
            Command::new(busybox).args(["cpio", "-t"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        list.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = list.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "bin\nbin/odd\nsbin\nsbin/other\n");
    }
}
