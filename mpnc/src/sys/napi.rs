//! Which receive queue a socket's packets come in on.
//!
//! Must not know what a queue belongs to; `observe::napi` maps it to an interface.
#![expect(unsafe_code, reason = "getsockopt takes pointers")]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd};

/// The NAPI instance that the socket's last packet came through (`SO_INCOMING_NAPI_ID`, Linux 4.12, no privilege): a
/// receive queue of a physical device, also when a bond is above it. It follows a stream that moves. `None` where the
/// kernel does not say: loopback, veth without GRO, no packet yet, built without `CONFIG_NET_RX_BUSY_POLL`, or an older
/// kernel.
///
/// # Errors
/// The system's own, when the descriptor is no socket.
pub fn incoming_id(socket: &impl AsFd) -> io::Result<Option<NonZeroU32>> {
    let mut id = 0u32;
    let mut len = libc::socklen_t::try_from(size_of_val(&id)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; `id` is valid for writes of `len` bytes, and `len` for a write.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_NAPI_ID,
            (&raw mut id).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(NonZeroU32::new(id));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_socket_has_no_queue_and_a_file_is_no_socket() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(incoming_id(&socket).unwrap(), None);
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = incoming_id(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
