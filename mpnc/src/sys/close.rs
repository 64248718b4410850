//! close(2), with what it reports: a file system may tell of a write that failed only then (NFS, FUSE, quotas).
//!
//! Must not know what the file is.
#![expect(unsafe_code, reason = "the standard library drops the result of close")]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

/// Closes the descriptor. It is gone also when that fails (close(2), "Dealing with error returns").
///
/// # Errors
/// What the file system reports of earlier writes: `EIO`, `ENOSPC`, `EDQUOT`.
pub fn close(file: impl Into<OwnedFd>) -> io::Result<()> {
    let fd = file.into().into_raw_fd();
    // SAFETY: the descriptor is open and nobody else's: it was owned, and ownership was given up just now.
    let result = unsafe { libc::close(fd) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // Linux has closed it all the same.
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_other_end_of_a_pipe_sees_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        close(writer).unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
