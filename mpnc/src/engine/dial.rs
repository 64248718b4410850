//! One connection to the listener: bound to the source port that was asked for, begun, and what became of it in words.
//!
//! Must not know why this port, nor what is tried next.

use crate::error::{Error, words};
use crate::paths::Failure;
use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Begins to connect; `None` leaves address and port to the kernel. `before` is told of the port before the first
/// packet leaves.
///
/// # Errors
/// The system's, at bind(2) or connect(2).
pub(super) fn start<T>(
    target: SocketAddr,
    (source, port): (Option<IpAddr>, Option<u16>),
    before: Option<impl FnOnce(u16) -> Option<T>>,
) -> io::Result<(TcpStream, Option<T>)> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if source.is_some() || port.is_some() || before.is_some() {
        // Without it a port in TIME_WAIT, or in use towards another host, could not be bound.
        socket.set_reuse_address(true)?;
        let mut from = SocketAddr::new(source.unwrap_or_else(|| any_address(target)), port.unwrap_or(0));
        if let (SocketAddr::V6(from), SocketAddr::V6(target)) = (&mut from, target) {
            // A link-local address means nothing without its link, which is the target's.
            from.set_scope_id(target.scope_id());
        }
        socket.bind(&from.into()).map_err(|error| bind_error(error, from))?;
    }
    let bound = |socket: &Socket| socket.local_addr().ok()?.as_socket();
    let told = before.and_then(|before| before(bound(&socket)?.port()));
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    Ok((TcpStream::from_std(socket.into()), told))
}

fn any_address(target: SocketAddr) -> IpAddr {
    if target.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

/// At bind(2) EADDRNOTAVAIL speaks of the address, at connect(2) of the port: only there another port would help.
fn bind_error(error: io::Error, from: SocketAddr) -> io::Error {
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no address of this host (-s)", from.ip()));
    }
    error
}

/// Whether a non-blocking connect has succeeded, failed, or is still under way. A port of this host on which nobody
/// listens may be the very one that the socket was given: then it has connected to itself (RFC 9293, 3.5), and that is
/// as good as refused.
pub(super) fn is_established(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(peer) if socket.local_addr()? == peer => Err(io::ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// What an error at bind(2), connect(2) or before the greeting means.
pub(super) fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => Failure::PortTaken,
        io::ErrorKind::PermissionDenied => Failure::Forbidden,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Failure::NoRoute,
        io::ErrorKind::TimedOut => Failure::NoAnswer,
        io::ErrorKind::ConnectionRefused => Failure::PortClosed,
        // Whoever resets has taken the connection first: a closed port refuses it.
        io::ErrorKind::ConnectionReset => Failure::Closed,
        _ => Failure::Local,
    }
}

/// Why there is no connection, and what to do. `unanswered` says more of a silence.
pub(super) fn unreachable(target: SocketAddr, error: &io::Error, unanswered: Option<String>) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::ConnectionRefused => "start `mpnc -l` there first, and check the port",
        io::ErrorKind::TimedOut => {
            "no answer: check the address, and let this one TCP port through every firewall on the way"
        }
        io::ErrorKind::AddrInUse => "all source ports of the range are taken: give a wider one with -p",
        io::ErrorKind::AddrNotAvailable => {
            "all source ports of the range are in use towards it: give a wider one with -p"
        }
        io::ErrorKind::PermissionDenied => "a firewall of this host forbids it, or -p has ports below 1024",
        _ => "",
    };
    let more = unanswered.filter(|_| error.kind() == io::ErrorKind::TimedOut);
    let reason = more.map_or_else(|| words(error), |more| format!("{}: {more}", words(error)));
    Error::Unreachable { doing: format!("cannot connect to {target}"), reason, remedy }
}
