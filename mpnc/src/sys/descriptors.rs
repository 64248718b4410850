//! Which file descriptors are free, without taking one: poll(2) tells numbers that are not open from others.

use std::ffi::c_int;

/// Numbers asked for at once; poll(2) refuses more than RLIMIT_NOFILE.
const AT_ONCE: usize = 64;

/// Whether at least `wanted` numbers below `limit` (RLIMIT_NOFILE) are not in use.
#[expect(unsafe_code, reason = "safe forms of poll take only descriptors that are open")]
pub fn are_free(wanted: usize, limit: u64) -> bool {
    let limit = c_int::try_from(limit).unwrap_or(c_int::MAX);
    let (mut first, mut free) = (0, 0);
    while free < wanted && first < limit {
        let mut asked: Vec<libc::pollfd> =
            (first..limit).take(AT_ONCE).map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
        let count = libc::nfds_t::try_from(asked.len()).unwrap_or(0);
        // SAFETY: the pointer and the count describe `asked`, which the kernel only writes answers to; it does not wait.
        let answers = unsafe { libc::poll(asked.as_mut_ptr(), count, 0) };
        if answers < 0 {
            // What cannot be told is left to the call that needs the descriptor.
            return true;
        }
        free += asked.iter().filter(|asked| asked.revents & libc::POLLNVAL != 0).count();
        first = first.saturating_add(c_int::try_from(asked.len()).unwrap_or(c_int::MAX));
    }
    free >= wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_numbers_that_are_not_open_are_free() {
        // The three standard files are open.
        assert!(!are_free(1, 3));
        let files: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
        let last = files.iter().map(AsRawFd::as_raw_fd).max().unwrap();
        let numbers = u64::try_from(last).unwrap() + 1;
        assert!(are_free(500, numbers + 500));
        assert!(!are_free(usize::try_from(numbers).unwrap() - 50, numbers));
    }
}
