//! The observer on real traffic between two namespaces joined by several cables.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use caps::Capability;
use mpnc::bpf::BpfError;
use mpnc::bpf::privilege::{keep_only, kernel_at_least, needed_to_read_maps};
use mpnc::observe::{Backend, Direction, FlowCount, Observer, Role, napi};
use mpnc::sys::napi::incoming_id;

use crate::net::{Namespace, connect, ifindex, join, namespace};

/// What observing takes, and making the namespaces of the test.
const RIGHTS: [Capability; 4] =
    [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_SYS_ADMIN];
const CABLES: u8 = 3;
const PORT: u16 = 31_337;
const OTHER_PORT: u16 = 31_338;
/// Bytes that stream `i` sends: no two alike.
const PAYLOAD: [usize; 3] = [300_000, 1_000_000, 50_000];

struct Pair {
    sender: Namespace,
    receiver: Namespace,
}

impl Pair {
    fn new() -> Self {
        let pair = Self { sender: namespace(), receiver: namespace() };
        join(&pair.sender, &pair.receiver, CABLES);
        pair
    }

    fn observer(&self, role: Role, backend: Backend) -> Observer {
        let (namespace, letter) = match role {
            Role::Connector => (&self.sender, 'a'),
            Role::Listener => (&self.receiver, 'b'),
        };
        let names: Vec<String> = (0..CABLES).map(|i| format!("{letter}{i}")).collect();
        let slaves: Vec<(&str, u32)> = names.iter().map(|n| (n.as_str(), ifindex(namespace, n))).collect();
        namespace.enter(|| Observer::attach_with(backend, &slaves, PORT, role)).unwrap()
    }

    /// Sends `PAYLOAD[i]` bytes over cable `i` to `port`, each stream from its own source port, and waits until all is
    /// read.
    fn transfer(&self, port: u16, network: impl Fn(u8, u8) -> IpAddr + Sync) {
        let listener = self.receiver.enter(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port))).unwrap();
        thread::scope(|scope| {
            for (i, size) in (0..CABLES).zip(PAYLOAD) {
                let (from, to) = (network(i, 1), SocketAddr::new(network(i, 2), port));
                scope.spawn(move || {
                    self.sender.enter(|| connect(source(i, from), to).write_all(&vec![0x5a; size])).unwrap();
                });
                let mut stream = listener.accept().unwrap().0;
                scope.spawn(move || std::io::copy(&mut stream, &mut std::io::sink()).unwrap());
            }
        });
    }
}

fn v4(cable: u8, host: u8) -> IpAddr {
    IpAddr::from([10, 9, cable, host])
}

fn v6(cable: u8, host: u8) -> IpAddr {
    IpAddr::from([0xfd09, cable.into(), 0, 0, 0, 0, 0, host.into()])
}

fn source(cable: u8, from: IpAddr) -> SocketAddr {
    SocketAddr::new(from, 20_000 + u16::from(cable) * 2)
}

/// Each stream on its cable only, with at least its payload one way and acknowledgements the other; nothing else.
#[track_caller]
fn assert_truth(namespace: &Namespace, role: Role, counts: &[FlowCount], network: impl Fn(u8, u8) -> IpAddr) {
    assert_eq!(counts.len(), usize::from(CABLES) * 2, "{counts:#?}");
    for (cable, payload) in (0..CABLES).zip(PAYLOAD) {
        let src = source(cable, network(cable, 1));
        let dst = SocketAddr::new(network(cable, 2), PORT);
        let (interface, local, peer, data_way) = match role {
            Role::Connector => (format!("a{cable}"), src, dst, Direction::Egress),
            Role::Listener => (format!("b{cable}"), dst, src, Direction::Ingress),
        };
        let ifindex = ifindex(namespace, &interface);
        let of = |data: bool| {
            let found = counts.iter().find(|c| c.peer == peer && (c.direction == data_way) == data);
            *found.unwrap_or_else(|| panic!("nothing of {src}: {counts:#?}"))
        };
        let (data, acks) = (of(true), of(false));
        for count in [data, acks] {
            assert_eq!((count.local_port, count.ifindex), (local.port(), ifindex), "{count:?}");
        }
        // Headers add less than a tenth, however the stack cuts the stream.
        let bytes = usize::try_from(data.bytes).unwrap();
        assert!((payload..payload + payload / 10).contains(&bytes), "{payload} sent, {data:?}");
        assert!(acks.bytes >= 60 * acks.packets && acks.bytes < data.bytes / 2, "{acks:?}");
    }
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn both_ends_see_each_stream_on_its_slave_and_no_other_traffic() {
    if !crate::able(&RIGHTS) {
        return;
    }
    for backend in backends() {
        for (network, name) in [(v4 as fn(u8, u8) -> IpAddr, "IPv4"), (v6, "IPv6")] {
            let pair = Pair::new();
            let sender = pair.observer(Role::Connector, backend);
            let receiver = pair.observer(Role::Listener, backend);
            pair.transfer(OTHER_PORT, network);
            assert!(sender.read().unwrap().is_empty(), "{backend:?} {name}");
            pair.transfer(PORT, network);
            assert_truth(&pair.sender, Role::Connector, &sender.read().unwrap(), network);
            assert_truth(&pair.receiver, Role::Listener, &receiver.read().unwrap(), network);
            assert_eq!((sender.missed().unwrap(), receiver.missed().unwrap()), (0, 0));
        }
    }
}

fn backends() -> Vec<Backend> {
    if kernel_at_least(6, 6) { vec![Backend::Tcx, Backend::PacketSocket] } else { vec![Backend::PacketSocket] }
}

/// Two programs that share no hook must agree on every packet.
#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn the_backends_count_the_same() {
    if !crate::able(&RIGHTS) {
        return;
    }
    if backends().len() < 2 {
        return crate::skip::elsewhere("needs Linux 6.6 for the second one");
    }
    let pair = Pair::new();
    for role in [Role::Connector, Role::Listener] {
        let both = [Backend::Tcx, Backend::PacketSocket].map(|backend| pair.observer(role, backend));
        pair.transfer(PORT, v4);
        let [tcx, sockets] = both.map(|observer| {
            let counts = observer.read().unwrap().into_iter();
            let key = |c: &FlowCount| (c.local_port, c.peer, c.ifindex, c.direction);
            counts.map(|c| (key(&c), (c.bytes, c.packets))).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(tcx, sockets);
        assert_eq!(tcx.len(), usize::from(CABLES) * 2);
    }
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn the_least_rights_are_enough_and_a_missing_one_is_named() {
    if !crate::able(&RIGHTS) {
        return;
    }
    let pair = Pair::new();
    let slave = [("a0", ifindex(&pair.sender, "a0"))];
    let with = |rights: &[Capability], backend| {
        pair.sender.enter(|| {
            keep_only(rights).unwrap();
            let observer = Observer::attach_with(backend, &slave, PORT, Role::Connector)?;
            keep_only(needed_to_read_maps()).unwrap();
            observer.read()
        })
    };
    for backend in backends() {
        let needed = match backend {
            Backend::Tcx => [Capability::CAP_BPF, Capability::CAP_NET_ADMIN],
            Backend::PacketSocket => [Capability::CAP_BPF, Capability::CAP_NET_RAW],
        };
        with(&needed, backend).unwrap();
        for (have, lack) in [(needed[0], needed[1]), (needed[1], needed[0])] {
            let error = with(&[have], backend).unwrap_err();
            assert!(matches!(&error, BpfError::Capability { missing, .. } if *missing == [lack]), "{error}");
        }
    }
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn an_interface_that_is_not_there_is_named() {
    if !crate::able(&RIGHTS) {
        return;
    }
    for backend in backends() {
        let error = Observer::attach_with(backend, &[("mpnc-none", 0x7fff_0000)], PORT, Role::Connector).unwrap_err();
        assert!(error.to_string().contains("mpnc-none"), "{error}");
        let BpfError::Attach { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.raw_os_error(), Some(libc::ENODEV));
    }
}

/// The variable that makes this test binary hold an observer until it is killed.
const HOLD: &str = "MPNC_TEST_HOLD_OBSERVER";

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn nothing_is_left_after_sigkill() {
    if !crate::able(&RIGHTS) {
        return;
    }
    if let Ok(name) = std::env::var(HOLD) {
        let backend = backends().into_iter().find(|b| format!("{b:?}") == name);
        return hold(backend.expect("a backend's name"));
    }
    for backend in backends() {
        let pair = Pair::new();
        let mut holder = spawn_holder(&pair.sender, backend);
        let mut line = [0; 5];
        holder.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready");
        assert_ne!(pair.sender.enter(|| attached(backend)), 0, "{backend:?}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        // The kernel frees a link from a work queue, some moments after the descriptor went.
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            pair.sender.enter(|| attached(backend)) == 0
        });
        assert!(gone, "{backend:?}: something is still attached");
    }
}

/// What hangs on the first cable or in this namespace.
fn attached(backend: Backend) -> usize {
    match backend {
        Backend::Tcx => {
            let of = |way| SchedClassifier::query_tcx("a0", way).unwrap().1.len();
            of(TcAttachType::Egress) + of(TcAttachType::Ingress)
        }
        Backend::PacketSocket => {
            let table = std::fs::read_to_string("/proc/thread-self/net/packet").unwrap();
            table.lines().skip(1).count()
        }
    }
}

/// This very test, in a process that only holds an observer.
fn spawn_holder(namespace: &Namespace, backend: Backend) -> Child {
    Command::new("ip")
        .args(["netns", "exec", namespace.name()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "observe::nothing_is_left_after_sigkill", "--nocapture", "--include-ignored"])
        .env(HOLD, format!("{backend:?}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn hold(backend: Backend) {
    let index = std::fs::read_to_string("/sys/class/net/a0/ifindex").unwrap();
    let slave = [("a0", index.trim().parse().unwrap())];
    let observer = Observer::attach_with(backend, &slave, PORT, Role::Connector).unwrap();
    std::io::stderr().write_all(b"ready").unwrap();
    thread::sleep(Duration::from_mins(1));
    drop(observer);
}

/// A receiver without any right learns which slave each stream comes in on.
#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn a_receiver_sees_the_slave_of_each_stream_by_its_queue() {
    if !crate::able(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]) {
        return;
    }
    if !kernel_at_least(6, 8) {
        return crate::skip::elsewhere("needs Linux 6.8");
    }
    if Command::new("ethtool").arg("--version").output().is_err() {
        return crate::needs::missing("ethtool is not installed");
    }
    let pair = Pair::new();
    for i in 0..CABLES {
        // With GRO a veth has NAPI instances, as a NIC has.
        pair.receiver.shell(&format!("ethtool -K b{i} gro on"));
        // What can be sent whole goes around them.
        pair.sender.shell(&format!("ethtool -K a{i} tso off"));
    }
    let want: Vec<u32> = (0..CABLES).map(|i| ifindex(&pair.receiver, &format!("b{i}"))).collect();
    let listener = pair.receiver.enter(|| TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, PORT))).unwrap();
    for (i, ifindex) in (0..CABLES).zip(want) {
        let mut client = pair.sender.enter(|| connect(source(i, v4(i, 1)), SocketAddr::new(v4(i, 2), PORT)));
        let mut server = listener.accept().unwrap().0;
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let seen = pair.receiver.enter(|| {
            keep_only(&[]).unwrap();
            let queues = napi::Queues::read().unwrap().expect("Linux 6.8");
            queues.ifindex(incoming_id(&server).unwrap().expect("a queue"))
        });
        assert_eq!(seen, Some(ifindex), "cable {i}");
    }
}
