//! Which file descriptors are free, without taking one: fcntl(2) tells numbers that are open from others, and never
//! waits.

use std::ffi::c_int;

/// Whether at least `wanted` numbers below `limit` (RLIMIT_NOFILE) are not in use.
#[expect(unsafe_code, reason = "safe forms of fcntl take only descriptors that are open")]
pub fn are_free(wanted: usize, limit: u64) -> bool {
    let limit = c_int::try_from(limit).unwrap_or(c_int::MAX);
    // SAFETY: F_GETFD takes no argument, touches no memory, and answers EBADF for a number that is not open.
    let is_free = |fd: &c_int| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == -1;
    (0..limit).filter(is_free).take(wanted).count() >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    /// Other tests open and close files meanwhile: only what this one holds is certain.
    #[test]
    fn only_numbers_that_are_not_open_are_free() {
        // The three standard files are open.
        assert!(!are_free(1, 3));
        let files: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let last = files.iter().map(AsRawFd::as_raw_fd).max().unwrap();
        let numbers = usize::try_from(last).unwrap() + 1;
        assert!(!are_free(numbers - files.len() + 1, numbers as u64));
        assert!(are_free(1, 1 << 16));
    }
}
