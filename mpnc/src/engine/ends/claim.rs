//! Who may use an end: one session at a time, by what the file is and not by what it is called.
//!
//! Within this process the device and inode numbers decide; other processes of mpnc see a lock on a regular file
//! (flock(2)). A block device needs none: it is opened with O_EXCL, which the kernel grants once, to a file system, an
//! array or a process (open(2)).

use rustix::fs::{FileType, FlockOperation, Stat, flock, fstat, major};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an end is used for: a FIFO has a reader and a writer, which are not in each other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Reading,
    Writing,
}

/// Device, inode, use.
type Key = (u64, u64, Use);

/// The number of the session that has it.
static CLAIMED: Mutex<BTreeMap<Key, u64>> = Mutex::new(BTreeMap::new());

/// Memory devices (/dev/null, /dev/zero, /dev/full ...): whoever writes there is alone anyway
/// (Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u32 = 1;

/// A file that is this session's alone. Given back when dropped.
#[derive(Debug)]
pub(super) struct Claim(Option<Key>);

fn claimed() -> MutexGuard<'static, BTreeMap<Key, u64>> {
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    /// Claims an open file for session number `session`.
    ///
    /// # Errors
    /// `ResourceBusy`, with words, if somebody has it.
    pub(super) fn on(file: &File, usage: Use, session: u64) -> io::Result<Self> {
        let stat = fstat(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if is_shared(kind, &stat, usage) {
            return Ok(Self(None));
        }
        let key = (stat.st_dev, stat.st_ino, usage);
        let claim = Self::of(key, session)?;
        if kind == FileType::RegularFile {
            lock(file)?;
        }
        Ok(claim)
    }
}

impl Claim {
    fn of(key: Key, session: u64) -> io::Result<Self> {
        match claimed().entry(key) {
            Entry::Vacant(free) => {
                free.insert(session);
                Ok(Self(Some(key)))
            }
            Entry::Occupied(other) => {
                let doing = if key.2 == Use::Writing { "written" } else { "read" };
                Err(busy(format!("it is being {doing} by session {}", other.get())))
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            claimed().remove(&key);
        }
    }
}

/// Whether any number of sessions may use it at once.
fn is_shared(kind: FileType, stat: &Stat, usage: Use) -> bool {
    match kind {
        FileType::RegularFile | FileType::BlockDevice => usage == Use::Reading,
        FileType::CharacterDevice => major(stat.st_rdev) == MEMORY_DEVICES,
        _ => false,
    }
}

fn lock(file: &File) -> io::Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(busy("another process is writing it".to_owned())),
        // A file system without locks (some network and FUSE ones): then there is this process's own word alone.
        Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives the lock back where the open file is shared with others (standard output) and goes on after us.
pub(super) fn unlock(file: &File) {
    let _ = flock(file, FlockOperation::Unlock);
}

fn busy(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_claimed_by_what_it_is_not_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let file = File::create(&one).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let first = Claim::on(&file, Use::Writing, 1).unwrap();
        let again = File::create(&other).unwrap();
        let error = Claim::on(&again, Use::Writing, 2).unwrap_err();
        assert_eq!(error.to_string(), "it is being written by session 1");
        drop(first);
        let elsewhere = Claim::on(&again, Use::Writing, 2).unwrap_err();
        assert_eq!(
            elsewhere.to_string(),
            "another process is writing it",
            "the lock is the open file's, as another process's is"
        );
        drop(file);
        Claim::on(&again, Use::Writing, 2).unwrap();
    }

    #[test]
    fn what_swallows_everything_is_for_all() {
        let null = File::create("/dev/null").unwrap();
        let _first = Claim::on(&null, Use::Writing, 1).unwrap();
        Claim::on(&null, Use::Writing, 2).unwrap();
    }

    #[test]
    fn a_pipe_has_one_reader_and_one_writer() {
        let (reader, writer) = io::pipe().unwrap();
        let [reader, writer] =
            [File::from(std::os::fd::OwnedFd::from(reader)), File::from(std::os::fd::OwnedFd::from(writer))];
        let _read = Claim::on(&reader, Use::Reading, 1).unwrap();
        let _wrote = Claim::on(&writer, Use::Writing, 1).unwrap();
        assert!(Claim::on(&reader, Use::Reading, 2).is_err());
    }
}
