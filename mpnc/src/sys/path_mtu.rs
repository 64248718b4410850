//! The largest packet that a connected socket may send.
//!
//! Must not know what makes it smaller than a device's.
#![expect(unsafe_code, reason = "getsockopt takes pointers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes of an IP packet towards where the socket is connected, as the kernel's routing has it (`IP_MTU`, `IPV6_MTU`:
/// `dst_mtu`, include/net/dst.h, 6.12). What transforms packets on their way to the device (IPsec by policy, a route
/// that encapsulates) has taken its share already. No privilege.
///
/// # Errors
/// The system's own, `ENOTCONN` for one.
pub fn path_mtu(socket: &impl AsFd, v6: bool) -> io::Result<u32> {
    let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut mtu: libc::c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of_val(&mtu)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while borrowed; `mtu` is valid for writes of `len` bytes, and `len` for a write.
    let result =
        unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut len) };
    if result == 0 { u32::try_from(mtu).map_err(io::Error::other) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connected_socket_has_one_and_another_does_not() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(path_mtu(&socket, false).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
        socket.connect("127.0.0.1:9").unwrap();
        assert!(path_mtu(&socket, false).unwrap() > 1000);
    }
}
