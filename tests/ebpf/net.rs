//! The network of these tests: namespaces, cables between them, connections over those.

use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

pub(crate) use crate::namespace::Namespace;

/// A namespace; these tests have looked for the right to make one.
pub(crate) fn namespace() -> Namespace {
    Namespace::try_new().unwrap()
}

/// The interface's index.
pub(crate) fn ifindex(namespace: &Namespace, interface: &str) -> u32 {
    let text = namespace.ip(&format!("-o link show dev {interface}"));
    text.split(':').next().unwrap().parse().unwrap()
}

/// Joins two namespaces by `links` cables. Cable `i` is interface `a<i>` with 10.9.i.1 and `fd09:i::1` in the first and
/// `b<i>` with .2 and `::2` in the second.
pub(crate) fn join(first: &Namespace, second: &Namespace, links: u8) {
    for i in 0..links {
        let (a, b) = (format!("a{i}"), format!("b{i}"));
        first.ip(&format!("link add {a} type veth peer name {b} netns {}", second.name()));
        for (namespace, interface, host) in [(first, &a, 1), (second, &b, 2)] {
            namespace.ip(&format!("addr add 10.9.{i}.{host}/24 dev {interface}"));
            namespace.ip(&format!("addr add fd09:{i}::{host}/64 dev {interface} nodad"));
            namespace.ip(&format!("link set {interface} up"));
        }
    }
}

/// A connection from this very address and port.
pub(crate) fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}
