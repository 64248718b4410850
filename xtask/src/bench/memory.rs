//! A file of random bytes in memory: what the benchmarks move, so that no disk and no generator is measured.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};

use crate::feed::Prbs;

/// Where such files are.
const MEMORY: &str = "/dev/shm";

/// A file of this many random bytes, without a name: gone with this process, however it ends.
pub(crate) fn random_file(bytes: u64) -> Result<File> {
    let stat = rustix::fs::statvfs(MEMORY).with_context(|| format!("asking for the space in {MEMORY}"))?;
    if stat.f_bavail * stat.f_frsize < bytes + (bytes >> 4) {
        bail!("{MEMORY} has not enough room for {bytes} bytes: use a smaller --bytes");
    }
    let mut file = tempfile::tempfile_in(MEMORY).with_context(|| format!("making a file in {MEMORY}"))?;
    eprintln!("making {bytes} random bytes in memory ...");
    Prbs::new(1).write_to(&mut file, bytes).with_context(|| format!("filling the file in {MEMORY}"))?;
    Ok(file)
}

/// The same file from its start: a clone of the descriptor would share the offset with the last reader.
pub(crate) fn reopen(file: &File) -> Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).context("opening the file in memory again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed;

    #[test]
    fn the_file_reads_from_its_start_every_time() {
        let mut file = tempfile::tempfile().unwrap();
        let made = Prbs::new(1).write_to(&mut file, 100_000).unwrap();
        for _ in 0..2 {
            assert_eq!(feed::digest(&mut reopen(&file).unwrap()).unwrap(), (100_000, made.clone()));
        }
    }
}
