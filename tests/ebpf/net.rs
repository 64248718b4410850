//! Network namespaces of these tests, made with `ip` and gone with the test, also when it fails.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

/// A namespace with `lo` up.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("mpnc-ebpf-{}-{number}", std::process::id()) };
        run("ip", &["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in the namespace.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        run("ip", &[&["-n", &self.name], arguments].concat());
    }

    /// Runs `work` on a thread of its own in the namespace; sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let inside = move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The interface's index.
    pub(crate) fn ifindex(&self, interface: &str) -> u32 {
        let output =
            Command::new("ip").args(["-n", &self.name, "-o", "link", "show", "dev", interface]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "del", &self.name]).status();
        assert!(deleted.is_ok_and(|s| s.success()) || thread::panicking(), "ip netns del {}", self.name);
    }
}

/// Joins two namespaces by `links` cables. Cable `i` is interface `a<i>` with 10.9.i.1 and `fd09:i::1` in the first and
/// `b<i>` with .2 and `::2` in the second.
pub(crate) fn join(first: &Namespace, second: &Namespace, links: u8) {
    for i in 0..links {
        let (a, b) = (format!("a{i}"), format!("b{i}"));
        first.ip(&["link", "add", &a, "type", "veth", "peer", "name", &b, "netns", second.name()]);
        for (namespace, interface, host) in [(first, &a, 1), (second, &b, 2)] {
            namespace.ip(&["addr", "add", &format!("10.9.{i}.{host}/24"), "dev", interface]);
            namespace.ip(&["addr", "add", &format!("fd09:{i}::{host}/64"), "dev", interface, "nodad"]);
            namespace.ip(&["link", "set", interface, "up"]);
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

#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
