//! Keeps a socket from sending in bursts that are faster than it may be.
//!
//! Must not know why.
#![expect(unsafe_code, reason = "setsockopt takes pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// From now on TCP paces the socket's segments to at most so many bytes a second (`SO_MAX_PACING_RATE`, socket(7),
/// Linux 3.13; from 4.13 on without the qdisc fq). No privilege.
///
/// # Errors
/// The system's.
pub fn limit(socket: BorrowedFd<'_>, rate: u64) -> io::Result<()> {
    // Kernels before 4.20 take 32 bits (`sk_max_pacing_rate`), all ones for no limit; so does this, which loses nothing
    // below 34 Gbit/s.
    let rate = libc::c_uint::try_from(rate).unwrap_or(libc::c_uint::MAX);
    let len = libc::socklen_t::try_from(size_of_val(&rate)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; `rate` is valid for reads of `len` bytes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            std::ptr::from_ref(&rate).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_tcp_socket_takes_any_rate() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for rate in [1, 1_000_000, u64::from(u32::MAX), u64::MAX] {
            limit(socket.as_fd(), rate).unwrap();
        }
    }
}
