//! Where an end is: a standard file, or a path; and how that is opened without surprise.
//!
//! What exists and is not empty is not replaced unasked, nothing is emptied before there is something to write, and
//! nothing waits for ever.

use super::claim::{Claim, Use};
use crate::engine::caller::Caller;
use crate::engine::halt::Halt;
use rustix::fs::{Access, FileType, OFlags, access};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A FIFO that nobody reads is given up after so long, or after `-w` if that is less.
const FIFO_PATIENCE: Duration = Duration::from_secs(10);

/// Which file an end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard input or output.
    Standard,
    /// A file, device or FIFO; of an output, `%n` is the session's number, `%a` the peer's address, `%%` a per cent
    /// sign.
    Path(PathBuf),
}

impl Place {
    /// From the command line: `-` and the device of the name are the standard file, as is no path at all.
    #[must_use]
    pub fn of(path: Option<&Path>, device: &str) -> Self {
        match path {
            Some(path) if path != "-" && path != device => Self::Path(path.to_owned()),
            _ => Self::Standard,
        }
    }

    /// Whether it is another file for each session.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        matches!(self, Self::Path(path) if path.as_os_str().as_bytes().contains(&b'%'))
    }
}

/// The path of one session's output.
pub(super) fn expand(pattern: &Path, caller: &Caller) -> PathBuf {
    let mut out = Vec::new();
    let mut bytes = pattern.as_os_str().as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'%', Some(b'n')) => out.extend(caller.number.to_string().bytes()),
            (b'%', Some(b'a')) => out.extend(caller.peer.ip().to_string().bytes()),
            (b'%', Some(b'%')) => out.push(b'%'),
            _ => {
                out.push(byte);
                continue;
            }
        }
        bytes.next();
    }
    OsString::from_vec(out).into()
}

// --- before anybody has come -----------------------------------------------------------------------------------------

/// What can be known of an input before it is needed.
pub(super) fn check_input(path: &Path) -> io::Result<()> {
    let kind = path.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // Of a FIFO it is opening that waits.
    if kind.is_fifo() { Ok(access(path, Access::READ_OK)?) } else { File::open(path).map(drop) }
}

/// What can be known of an output before it is needed; nothing is opened for writing.
pub(super) fn check_output(path: &Path, force: bool) -> io::Result<()> {
    match path.metadata() {
        Ok(meta) => {
            check_existing(&meta, force)?;
            Ok(access(path, Access::WRITE_OK)?)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => check_directory(&directory_of(path), true),
        Err(error) => Err(error),
    }
}

/// The same for a pattern: the directory, as far as it is the same for all.
pub(super) fn check_pattern(pattern: &Path) -> io::Result<()> {
    let fixed: PathBuf =
        parent(pattern).components().take_while(|part| !part.as_os_str().as_bytes().contains(&b'%')).collect();
    check_directory(if fixed.as_os_str().is_empty() { Path::new(".") } else { &fixed }, fixed == parent(pattern))
}

fn check_directory(dir: &Path, is_last: bool) -> io::Result<()> {
    if !dir.metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if is_last {
        refuse_devices(dir)?;
        access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    }
    Ok(())
}

/// Where a file of that name would be made: at the end of links that lead to nothing.
fn directory_of(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = path.read_link() else { break };
        path = parent(&path).join(target);
    }
    parent(&path)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => ".".into(),
    }
}

/// A name in /dev that is not there is a device that is not there: a file of that name would fill memory.
fn refuse_devices(dir: &Path) -> io::Result<()> {
    let dev = Path::new("/dev");
    let inside = dir.canonicalize()?.starts_with(dev) && dir.metadata()?.dev() == dev.metadata()?.dev();
    if inside { Err(io::Error::new(io::ErrorKind::NotFound, "there is no such device")) } else { Ok(()) }
}

fn check_existing(meta: &Metadata, force: bool) -> io::Result<()> {
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a socket"));
    }
    if kind.is_file() && meta.len() > 0 && !force {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not empty: --force replaces it"));
    }
    Ok(())
}

// --- for a session ---------------------------------------------------------------------------------------------------

/// Opens an input and claims it.
pub(super) fn open_input(path: &Path, session: u64) -> io::Result<(File, Claim)> {
    let mut options = OpenOptions::new();
    let kind = path.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        // That nobody writes yet, or a line has no carrier, is no reason to wait here: the reader does.
        options.custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY));
    }
    let file = options.read(true).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let claim = Claim::on(&file, Use::Reading, session)?;
    Ok((file, claim))
}

/// Opens an output and claims it. A regular file is as it was: [`empty`] is for the moment when there is something to
/// write.
pub(super) fn open_output(
    path: &Path,
    force: bool,
    session: u64,
    patience: Duration,
    halt: &Halt,
) -> io::Result<(File, Claim)> {
    let mut options = OpenOptions::new();
    options.write(true);
    let found = match path.metadata() {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let file = match found.as_ref().map(Metadata::file_type) {
        None => {
            refuse_devices(&directory_of(path))?;
            options.create(true).truncate(false).open(path)?
        }
        Some(kind) if kind.is_block_device() => {
            options.custom_flags(flags(OFlags::EXCL)).open(path).map_err(explain_busy)?
        }
        Some(kind) if kind.is_fifo() => wait_for_reader(path, Instant::now() + patience.min(FIFO_PATIENCE), halt)?,
        // A line without a carrier would wait here, where nobody could wake it.
        Some(kind) if kind.is_char_device() => {
            options.custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY)).open(path)?
        }
        Some(_) => options.open(path)?,
    };
    let claim = Claim::on(&file, Use::Writing, session)?;
    // What was made or filled since it was looked at counts as well.
    check_existing(&file.metadata()?, force)?;
    Ok((file, claim))
}

/// Empties a regular file, and answers whether it is one; a device keeps its contents until they are overwritten.
pub(super) fn empty(file: &File) -> io::Result<bool> {
    let regular = file.metadata()?.is_file();
    if regular {
        file.set_len(0)?;
    }
    Ok(regular)
}

fn wait_for_reader(path: &Path, until: Instant, halt: &Halt) -> io::Result<File> {
    loop {
        match OpenOptions::new().write(true).custom_flags(flags(OFlags::NONBLOCK)).open(path) {
            Ok(file) => return Ok(file),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                if !halt.pause(until)? {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads this FIFO"));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn explain_busy(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::ResourceBusy {
        return io::Error::new(
            error.kind(),
            "it is in use: mounted, part of an array or a volume, or opened by another program",
        );
    }
    error
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// Whether it is a regular file or a block device.
pub(super) fn is_storage(file: &File) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice)
    })
}

/// The number of bytes from the current position to the end, where the kind of file has one.
pub(super) fn remaining(mut file: &File) -> Option<u64> {
    use io::{Seek, SeekFrom};
    if !is_storage(file) {
        return None;
    }
    let here = file.stream_position().ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(here)).ok()?;
    end.checked_sub(here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn patterns_name_each_session() {
        let caller = Caller { number: 7, peer: "10.0.0.1:5".parse().unwrap() };
        assert_eq!(expand(Path::new("disk-%n-from-%a.img"), &caller), Path::new("disk-7-from-10.0.0.1.img"));
        assert_eq!(expand(Path::new("100%%-%x-%"), &caller), Path::new("100%-%x-%"));
        let odd = PathBuf::from(OsString::from_vec(b"\xff-%n".to_vec()));
        assert_eq!(expand(&odd, &caller).as_os_str().as_bytes(), b"\xff-7", "names need not be UTF-8");
    }

    #[test]
    fn dashes_and_devices_are_the_standard_files() {
        for path in [None, Some("-"), Some("/dev/stdout")] {
            assert_eq!(Place::of(path.map(Path::new), "/dev/stdout"), Place::Standard);
        }
        assert_eq!(Place::of(Some(Path::new("./-")), "/dev/stdout"), Place::Path("./-".into()));
    }

    #[test]
    fn what_is_wrong_with_an_output_is_known_before_it_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("full"), b"x").unwrap();
        fs::write(at("empty"), b"").unwrap();
        let kind = |path: &Path, force| check_output(path, force).map_err(|error| error.kind());
        assert_eq!(kind(&at("full"), false), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(kind(&at("full"), true), Ok(()));
        assert_eq!(kind(&at("empty"), false), Ok(()));
        assert_eq!(kind(&at("new"), false), Ok(()));
        assert_eq!(kind(dir.path(), true), Err(io::ErrorKind::IsADirectory));
        assert_eq!(kind(&at("none/new"), true), Err(io::ErrorKind::NotFound));
        assert_eq!(kind(&at("full/new"), true), Err(io::ErrorKind::NotADirectory));
        assert_eq!(kind(Path::new("/dev/no-such-device"), true), Err(io::ErrorKind::NotFound));
        std::os::unix::fs::symlink("/dev/no-such-device", at("link")).unwrap();
        assert_eq!(kind(&at("link"), true), Err(io::ErrorKind::NotFound), "a link does not make it a file");
        assert_eq!(kind(Path::new("/dev/null"), false), Ok(()));
        assert!(!at("new").exists(), "looking makes nothing");
        assert!(check_pattern(&at("%a-%n")).is_ok());
        assert!(check_pattern(&at("%a/x")).is_ok());
        assert!(check_pattern(&at("none/%n")).is_err());
    }
}
