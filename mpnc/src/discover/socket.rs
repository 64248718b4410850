//! What connect(2) would do here: what every new socket of this process is given, and the address that one would send
//! from.
//!
//! `ip vrf exec` and other cgroup programs bind or mark sockets as they are made (`BPF_PROG_TYPE_CGROUP_SOCK`), without
//! the process being told. Must not know routes.

use super::names::printable;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

/// What a route must be asked with to be the one that connect(2) takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// The device that a socket is bound to, by its printable name: a VRF, mostly.
    pub(super) device: Option<String>,
    /// Its mark (`SO_MARK`), 0 for none.
    pub(super) mark: u32,
}

impl Given {
    /// Makes a socket such as a stream has, and looks at it.
    pub(super) fn to_streams(destination: SocketAddr) -> Self {
        let Ok(socket) = Socket::new(Domain::for_address(destination), Type::STREAM, Some(Protocol::TCP)) else {
            return Self::default();
        };
        let device = socket.device().ok().flatten();
        Self { device: device.map(|name| printable(&name)), mark: socket.mark().unwrap_or(0) }
    }
}

/// The address that a connection would have as its source; `from` is one that it must have. Connecting a UDP socket
/// sends nothing and shows it.
pub(super) fn chosen_source(destination: SocketAddr, from: Option<IpAddr>) -> io::Result<IpAddr> {
    let any = || if destination.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind(on_link_of(from.unwrap_or_else(any), destination))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip().to_canonical())
}

/// The largest packet that a connection would send, bytes: connecting a UDP socket sends nothing and shows it.
pub(super) fn path_mtu(destination: SocketAddr, from: IpAddr) -> io::Result<u32> {
    let socket = UdpSocket::bind(on_link_of(from, destination))?;
    socket.connect(destination)?;
    crate::sys::path_mtu::path_mtu(&socket, destination.is_ipv6())
}

/// A local address to bind to. A link-local one means nothing without its link, which is the destination's.
fn on_link_of(from: IpAddr, destination: SocketAddr) -> SocketAddr {
    match (from, destination) {
        (IpAddr::V6(from), SocketAddr::V6(to)) => SocketAddrV6::new(from, 0, 0, to.scope_id()).into(),
        _ => SocketAddr::new(from, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback_and_not_from_an_address_of_others() {
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(chosen_source(to, None).unwrap(), to.ip());
        assert_eq!(chosen_source(to, Some(to.ip())).unwrap(), to.ip());
        assert!(chosen_source(to, Some("198.51.100.7".parse().unwrap())).is_err());
        assert_eq!(Given::to_streams(to).mark, 0);
        assert!(path_mtu(to, to.ip()).unwrap() > 1000);
    }
}
