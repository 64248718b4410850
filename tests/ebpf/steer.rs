//! Steering in the kernel: asked by test run, and live on a reuseport group, proved by the program's own counters.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;

use aya::programs::{ReusePortSocketFilter, TestRun, TestRunOptions};
use caps::Capability;
use fastrand::Rng;
use mpnc::bpf::privilege::keep_only;
use mpnc::bpf::{self, EbpfMode};
use mpnc::observe::napi::Queues;
use mpnc::steer::{self, Counts, Steering, SteeringMode, queues};
use mpnc_ebpf::contract::{global, program, worker};
use socket2::{Domain, Socket, Type};

use crate::frames::{Frame, Kind};
use crate::needs;
use crate::net::{connect, ifindex, join, namespace};

const WORKERS: u32 = 4;

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn any_segment_goes_to_the_worker_of_its_lane() {
    const WHAT: &str = "testing the selector";
    if !crate::able(&[Capability::CAP_BPF]) {
        return;
    }
    for workers in [1, 3, WORKERS, 32] {
        let mut ebpf = bpf::load(WHAT, &[(global::WORKERS, workers)]).unwrap();
        let selector = bpf::program(&mut ebpf, WHAT, program::STEER, ReusePortSocketFilter::load).unwrap();
        let mut random = Rng::with_seed(u64::from(workers));
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.vlan) {
            for _ in 0..2_000 {
                let frame = Frame::random(&mut random, kind);
                let options = TestRunOptions { data_in: Some(&frame.bytes), ..TestRunOptions::default() };
                let answer = selector.test_run(options).unwrap().return_value;
                // Behind an extension header nobody is picked, and the kernel's own hash decides.
                let want = if frame.is_plain() || !kind.v6 { worker(frame.source_port(), workers) } else { u32::MAX };
                assert_eq!(answer, want, "{kind:?} {:02x?}", frame.bytes);
            }
        }
    }
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn sixteen_streams_over_four_workers_are_four_each_by_the_programs_count() {
    if !crate::able(&[Capability::CAP_BPF, Capability::CAP_SYS_ADMIN]) {
        return;
    }
    let place = namespace();
    place.enter(|| {
        let (listeners, port) = group();
        // The least right is enough, and none is needed once it runs.
        keep_only(&[Capability::CAP_BPF]).unwrap();
        let mode = SteeringMode::Only(Steering::Ebpf);
        let active = steer::attach(&listeners, mode, EbpfMode::On).unwrap();
        assert_eq!(active.steering(), Steering::Ebpf);
        keep_only(bpf::privilege::needed_to_read_maps()).unwrap();

        let v4 = streams(port, "127.0.0.1");
        assert_eq!(active.counts().unwrap(), Some(by_lane(4)));
        assert_exact(&listeners, &v4);
        let v6 = streams(port, "::1");
        assert_eq!(active.counts().unwrap(), Some(by_lane(8)));
        assert_exact(&listeners, &v6);
    });
}

#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn classic_bpf_does_the_same_without_any_capability() {
    if !crate::able(&[Capability::CAP_SYS_ADMIN]) {
        return;
    }
    let place = namespace();
    place.enter(|| {
        keep_only(&[]).unwrap();
        let (listeners, port) = group();
        let active = steer::attach(&listeners, SteeringMode::Auto, EbpfMode::Auto).unwrap();
        assert_eq!(active.steering(), Steering::Cbpf);
        let why = active.fallbacks()[0].to_string();
        let remedy = if bpf::embedded().is_some() { "setcap cap_bpf=ep" } else { "cargo xtask build-ebpf" };
        assert!(why.contains(remedy), "{why}");
        assert_exact(&listeners, &streams(port, "127.0.0.1"));
        assert_exact(&listeners, &streams(port, "::1"));
    });
}

/// Two cables with receive queues, two workers: each connection goes to the worker of its cable, whatever its lane
/// says; and to that of its lane again once the queues are nobody's.
#[test]
#[ignore = "needs root and the eBPF object: cargo xtask test"]
fn connections_go_to_the_worker_of_their_receive_queue() {
    if !crate::able(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]) {
        return;
    }
    let (sender, receiver) = (namespace(), namespace());
    join(&sender, &receiver, 2);
    let links = [0, 1].map(|i| {
        receiver.shell(&format!("ethtool -K b{i} gro on"));
        // What can be sent whole goes around the queue.
        sender.shell(&format!("ethtool -K a{i} tso off"));
        ifindex(&receiver, &format!("b{i}"))
    });
    let (listeners, port, active, known) = receiver.enter(|| {
        let (listeners, port) = group_of(2);
        let active = steer::attach(&listeners, SteeringMode::Only(Steering::Ebpf), EbpfMode::On).unwrap();
        (listeners, port, active, Queues::read().unwrap())
    });
    let Some(known) = known else {
        return needs::missing("a kernel from 6.8 on tells which receive queues there are");
    };
    let slaves: Vec<_> = links.map(|link| known.of(link).into_iter().map(NonZero::get).collect()).to_vec();
    let served = queues::workers(&[slaves], 2);
    assert!(served.len() >= 2, "{known:?}");
    active.serve(&served).unwrap();
    let connect_over = |link: u8, lanes: std::ops::Range<u16>| {
        let (from, to) = (format!("10.9.{link}.1"), format!("10.9.{link}.2"));
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let open = |lane: u16| connect((from, 20_032 + lane * 2).into(), (to, port).into());
        sender.enter(|| lanes.map(open).collect::<Vec<_>>())
    };
    let first = connect_over(0, 0..6);
    let second = connect_over(1, 0..4);
    assert_eq!(active.counts().unwrap(), Some(Counts { all: vec![6, 4], by_queue: vec![6, 4] }));
    for (listener, streams) in listeners.iter().zip([&first, &second]) {
        assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), streams.len());
    }
    active.serve(&[]).unwrap();
    let third = connect_over(0, 6..12);
    assert_eq!(active.counts().unwrap(), Some(Counts { all: vec![9, 7], by_queue: vec![6, 4] }));
    drop((first, second, third));
}

/// So many on each worker, none by its queue: loopback has none.
fn by_lane(each: u64) -> Counts {
    Counts { all: vec![each; WORKERS as usize], by_queue: vec![0; WORKERS as usize] }
}

/// Dual-stack listeners in one group, and their port.
fn group() -> (Vec<TcpListener>, u16) {
    group_of(WORKERS)
}

fn group_of(members: u32) -> (Vec<TcpListener>, u16) {
    let mut port = 0;
    let member = |_| {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        socket.set_only_v6(false).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.listen(64).unwrap();
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        port = listener.local_addr().unwrap().port();
        listener
    };
    let listeners = (0..members).map(member).collect();
    (listeners, port)
}

/// Sixteen connections from ports of lanes 0 to 15. The namespace is ours, so every port is free.
fn streams(port: u16, host: &str) -> Vec<TcpStream> {
    let host: IpAddr = host.parse().unwrap();
    let open = |lane: u16| connect((host, 20_032 + lane * 2).into(), (host, port).into());
    (0..16).map(open).collect()
}

#[track_caller]
fn assert_exact(listeners: &[TcpListener], streams: &[TcpStream]) {
    for (index, listener) in (0..WORKERS).zip(listeners) {
        let ports: Vec<u16> = std::iter::from_fn(|| listener.accept().ok()).map(|(_, peer)| peer.port()).collect();
        assert_eq!(ports.len(), streams.len() / listeners.len(), "worker {index}: {ports:?}");
        assert!(ports.iter().all(|&port| worker(port, WORKERS) == index), "worker {index}: {ports:?}");
    }
}
