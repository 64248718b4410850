//! Real sockets on loopback, no privilege: who gets which connection.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use mpnc_ebpf::contract::worker;
use socket2::{Domain, Socket, Type};

use super::*;

/// Listeners of one group, in listening order.
fn group(address: SocketAddr, members: usize, v6_only: bool) -> (Vec<TcpListener>, SocketAddr) {
    let mut listeners = Vec::new();
    let mut address = address;
    for _ in 0..members {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        if address.is_ipv6() {
            socket.set_only_v6(v6_only).unwrap();
        }
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(64).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        listeners.push(listener);
    }
    (listeners, address)
}

/// Connects from ports of consecutive lanes, as the sender's plan does, until `count` are up. A port that somebody else
/// holds is replaced by the same lane 64 ports on.
fn connect(from: IpAddr, to: SocketAddr, count: u16) -> Vec<TcpStream> {
    let base = 20_000 + u16::try_from(std::process::id() % 97).unwrap() * 64;
    let open = |lane: u16| {
        (0..40).find_map(|turn| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            let port = base + lane * 2 + turn * 64;
            socket.bind(&SocketAddr::new(from, port).into()).ok()?;
            socket.connect(&to.into()).ok()?;
            Some(TcpStream::from(socket))
        })
    };
    (0..count).map(|lane| open(lane).expect("a free port of the lane")).collect()
}

/// Source ports that each member accepted.
fn accepted(listeners: &[TcpListener]) -> Vec<Vec<u16>> {
    let of = |listener: &TcpListener| {
        let mut ports = Vec::new();
        while let Ok((_, peer)) = listener.accept() {
            ports.push(peer.port());
        }
        ports
    };
    listeners.iter().map(of).collect()
}

/// 16 streams over 4 workers, each where the shared rule says, and so 4 each.
#[track_caller]
fn assert_exact(listeners: &[TcpListener], streams: &[TcpStream]) {
    let members = u32::try_from(listeners.len()).unwrap();
    let got = accepted(listeners);
    for (member, ports) in (0..).zip(&got) {
        assert_eq!(ports.len(), streams.len() / listeners.len(), "{got:?}");
        assert!(ports.iter().all(|&port| worker(port, members) == member), "{got:?}");
    }
    let sent: HashSet<u16> = streams.iter().map(|s| s.local_addr().unwrap().port()).collect();
    assert_eq!(got.concat().into_iter().collect::<HashSet<_>>(), sent);
}

const CBPF: SteeringMode = SteeringMode::Only(Steering::Cbpf);

#[test]
fn classic_bpf_spreads_exactly_over_ipv4() {
    let (listeners, to) = group((Ipv4Addr::LOCALHOST, 0).into(), 4, false);
    let active = attach(&listeners, CBPF, EbpfMode::Off).unwrap();
    assert_eq!(active.steering(), Steering::Cbpf);
    assert!(active.counts().unwrap().is_none());
    assert_exact(&listeners, &connect(Ipv4Addr::LOCALHOST.into(), to, 16));
}

#[test]
fn classic_bpf_spreads_exactly_over_ipv6() {
    let (listeners, to) = group((Ipv6Addr::LOCALHOST, 0).into(), 4, true);
    attach(&listeners, CBPF, EbpfMode::Off).unwrap();
    assert_exact(&listeners, &connect(Ipv6Addr::LOCALHOST.into(), to, 16));
}

#[test]
fn classic_bpf_spreads_ipv4_on_dual_stack_listeners() {
    let (listeners, to) = group((Ipv6Addr::UNSPECIFIED, 0).into(), 4, false);
    attach(&listeners, CBPF, EbpfMode::Off).unwrap();
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()));
    assert_exact(&listeners, &connect(Ipv4Addr::LOCALHOST.into(), v4, 16));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, to.port()));
    assert_exact(&listeners, &connect(Ipv6Addr::LOCALHOST.into(), v6, 16));
}

#[test]
fn the_kernels_hash_loses_no_connection() {
    let (listeners, to) = group((Ipv4Addr::LOCALHOST, 0).into(), 4, false);
    let mode = SteeringMode::Only(Steering::Kernel);
    let active = attach(&listeners, mode, EbpfMode::Auto).unwrap();
    assert_eq!(active.steering(), Steering::Kernel);
    let streams = connect(Ipv4Addr::LOCALHOST.into(), to, 16);
    assert_eq!(accepted(&listeners).concat().len(), streams.len());
}

#[test]
fn a_group_of_one_has_a_program_and_too_many_are_refused() {
    let (listeners, _) = group((Ipv4Addr::LOCALHOST, 0).into(), 33, false);
    let one = attach(&listeners[..1], SteeringMode::Auto, EbpfMode::Auto).unwrap();
    assert_eq!(one.steering(), Steering::Cbpf);
    assert!(one.fallbacks().is_empty());
    let error = attach(&listeners, SteeringMode::Auto, EbpfMode::Auto).unwrap_err();
    assert!(matches!(error, SteerError::TooManyWorkers(33)));
}

#[test]
fn without_ebpf_auto_is_classic_and_on_is_an_error() {
    let (listeners, _) = group((Ipv4Addr::LOCALHOST, 0).into(), 2, false);
    let off = attach(&listeners, SteeringMode::Auto, EbpfMode::Off).unwrap();
    assert_eq!(off.steering(), Steering::Cbpf);
    // Capabilities are a thread's own: this one has none, whoever runs the test.
    std::thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            crate::bpf::privilege::keep_only(&[]).unwrap();
            let auto = attach(&listeners, SteeringMode::Auto, EbpfMode::Auto).unwrap();
            assert_eq!(auto.steering(), Steering::Cbpf);
            assert_eq!(auto.fallbacks().len(), 1, "{:?}", auto.fallbacks());
            assert!(attach(&listeners, SteeringMode::Auto, EbpfMode::On).is_err());
        });
        unprivileged.join().unwrap();
    });
    let only = SteeringMode::Only(Steering::Ebpf);
    let error = attach(&listeners, only, EbpfMode::Off).unwrap_err();
    assert!(matches!(error, SteerError::Contradiction));
}

#[test]
fn a_listener_outside_a_group_cannot_be_steered() {
    let alone = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = attach(&[alone], CBPF, EbpfMode::Off).unwrap_err();
    assert!(error.to_string().contains("SO_ATTACH_REUSEPORT_CBPF"), "{error}");
}

#[test]
fn modes_read_back() {
    for name in SteeringMode::NAMES {
        let mode: SteeringMode = name.parse().unwrap();
        let spelt = match mode {
            SteeringMode::Auto => "auto".to_owned(),
            SteeringMode::Only(steering) => steering.to_string(),
        };
        assert_eq!(spelt, name);
    }
    assert!("hash".parse::<SteeringMode>().is_err());
}
