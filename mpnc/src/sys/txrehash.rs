//! Keeps a socket's transmit hash as it was drawn.
//!
//! Must not know who goes by that hash.
#![expect(unsafe_code, reason = "setsockopt takes pointers")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_TXREHASH`, include/uapi/asm-generic/socket.h, Linux 5.18. The same number on every architecture that mpnc runs
/// on.
const SO_TXREHASH: libc::c_int = 74;

/// From now on the kernel draws no new hash for the socket after a timeout or a retransmission (`sk_rethink_txhash`,
/// include/net/sock.h, 6.12). No privilege.
///
/// # Errors
/// `ENOPROTOOPT`: a kernel before 5.18.
pub fn pin(socket: BorrowedFd<'_>) -> io::Result<()> {
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&off)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; `off` is valid for reads of `len` bytes.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_TXREHASH, std::ptr::from_ref(&off).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_tcp_socket_takes_it_where_the_kernel_has_it() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        match pin(socket.as_fd()) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT)),
        }
    }
}
