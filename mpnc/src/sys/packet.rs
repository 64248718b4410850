//! Packet sockets on one interface.
//!
//! Must not know what is done with the packets.
#![expect(unsafe_code, reason = "bind takes a pointer to sockaddr_ll")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{Domain, Socket, Type};

/// A packet socket that receives nothing until [`bind`]. Needs `CAP_NET_RAW`.
///
/// # Errors
/// `EPERM`: without the capability. `EAFNOSUPPORT`: a kernel without `CONFIG_PACKET`.
pub fn open() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, None)
}

/// From now on the socket sees every frame of the interface, in both directions. Filters go on before.
///
/// # Errors
/// `ENODEV`: no such interface. `ENETDOWN`: it is down.
pub fn bind(socket: &Socket, ifindex: u32) -> io::Result<()> {
    let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    // SAFETY: plain old data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = family;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex.try_into().map_err(io::Error::other)?;
    let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: `address` is valid for reads of `len` bytes; the descriptor is open while borrowed.
    let result = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
