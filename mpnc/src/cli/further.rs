//! Tries the listener's further addresses, once each and on the same port, and finds the Ethernet header between those
//! that answer.
//!
//! Under a bond whose hash takes addresses, another pair of them may lead to another slave. A filter that forbids them
//! costs a second at most. Must not know what is planned with them.

use crate::bond::Pair;
use crate::discover::{self, PathView};
use crate::error::words;
use crate::wire::{
    Addresses, BLOCK_RANGE, Directions, Frame, Hello, PREAMBLE_LEN, SessionId, StreamId, check_preamble, preamble,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::thread;
use std::time::Duration;

/// How long one that does not answer is waited for. All are tried at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pairs that are tried at most: enough to reach eight slaves by addresses that fall as they like.
const MOST: usize = 24;

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Further {
    /// Pairs that get through, the session's own first; none if there is no other.
    pub(super) pairs: Vec<Pair>,
    /// The listener's addresses that did not answer.
    pub(super) silent: Vec<IpAddr>,
}

/// Tries what there is beside the pair of the path. `by_family`: addresses of the family in use make no difference.
pub(super) fn explore(view: &PathView, told: &Addresses, by_family: bool) -> Further {
    let none = Further::default();
    let Some(device) = device(view) else { return none };
    let own = discover::addresses_on(device).unwrap_or_else(|error| {
        log::debug!("this host's addresses cannot be read: {}", words(&error));
        Vec::new()
    });
    let ordinary = (view.source, view.destination);
    let candidates = candidates(ordinary, &own, told, device, by_family);
    let tried: Vec<_> = thread::scope(|scope| {
        let attempts: Vec<_> = candidates.iter().map(|&(src, dst)| scope.spawn(move || reach(src, dst))).collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
            .collect()
    });
    let mut further = none;
    let mut through = vec![ordinary];
    for ((src, dst), reached) in candidates.into_iter().zip(tried) {
        match reached {
            Ok(()) => through.push((src, dst)),
            Err(error) => {
                log::info!("{dst} from {src}: {}", words(&error));
                further.silent.push(dst.ip());
            }
        }
    }
    further.pairs = with_ethers(&through, device);
    further
}

/// These pairs with their Ethernet headers; none without the first, or of the first alone.
fn with_ethers(through: &[(IpAddr, SocketAddr)], device: u32) -> Vec<Pair> {
    let ethers = discover::ethers_between(through, device).unwrap_or_else(|error| {
        log::debug!("the next hops cannot be read: {}", words(&error));
        Vec::new()
    });
    let has_own = ethers.first().is_some_and(Option::is_some);
    let pair = |(&(src, dst), ether): (&(IpAddr, SocketAddr), Option<_>)| Some(Pair { src, dst, ether: ether? });
    let pairs: Vec<Pair> = through.iter().zip(ethers).filter_map(pair).collect();
    if has_own && pairs.len() > 1 { pairs } else { Vec::new() }
}

/// The device that the path's route names, if it is one alone.
pub(super) fn device(view: &PathView) -> Option<u32> {
    let [leg] = view.legs.as_slice() else { return None };
    leg.device()
}

/// Pairs that are not the session's own: what `told` has and what this host has on the device, of like family and
/// scope.
fn candidates(
    (source, destination): (IpAddr, SocketAddr),
    own: &[IpAddr],
    told: &Addresses,
    device: u32,
    by_family: bool,
) -> Vec<(IpAddr, SocketAddr)> {
    let theirs = std::iter::once(destination.ip()).chain(told.iter().filter(|ip| *ip != destination.ip()));
    let mut pairs = Vec::new();
    for dst in theirs {
        let fits = |src: &&IpAddr| src.is_ipv4() == dst.is_ipv4() && is_link_local(**src) == is_link_local(dst);
        let mut sources: Vec<IpAddr> = own.iter().filter(fits).copied().collect();
        if by_family {
            sources.retain(|src| src.is_ipv4() != source.is_ipv4());
            sources.truncate(1);
        }
        let to = towards(dst, destination.port(), device);
        pairs.extend(sources.into_iter().map(|src| (src, to)).filter(|pair| *pair != (source, destination)));
    }
    pairs.truncate(MOST);
    pairs
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A link-local address is on the link of the device.
fn towards(ip: IpAddr, port: u16, device: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, device).into(),
        _ => SocketAddr::new(ip, port),
    }
}

/// Whether mpnc listens there: it is greeted as by one who only looks, which a listener refuses without a word to
/// anybody.
fn reach(src: IpAddr, dst: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(dst), Type::STREAM, Some(Protocol::TCP))?;
    let from = match dst {
        SocketAddr::V6(to) => towards(src, 0, to.scope_id()),
        SocketAddr::V4(_) => SocketAddr::new(src, 0),
    };
    socket.bind(&from.into())?;
    socket.connect_timeout(&dst.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&greeting())?;
    let mut answer = [0; PREAMBLE_LEN];
    stream.read_exact(&mut answer)?;
    check_preamble(&answer).map_err(io::Error::other)
}

fn greeting() -> Vec<u8> {
    let hello = Hello {
        stream: StreamId(0),
        session: SessionId([0; 16]),
        directions: Directions::Check,
        established: false,
        window: 0,
        block: *BLOCK_RANGE.start(),
        bond: None,
    };
    let mut bytes = preamble().to_vec();
    Frame::Hello(hello).encode(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tried(told: &[&str], by_family: bool) -> Vec<String> {
        let own = [ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1"), ip("fe80::1")];
        let ordinary = (ip("10.0.0.1"), "10.0.0.9:31337".parse().unwrap());
        let told = Addresses::new(told.iter().map(|text| ip(text)));
        let pairs = candidates(ordinary, &own, &told, 3, by_family);
        pairs.iter().map(|(src, dst)| format!("{src} {dst}")).collect()
    }

    #[test]
    fn where_only_the_family_counts_the_other_one_is_tried() {
        assert_eq!(
            tried(&["10.0.0.8", "fd00::9", "fe80::9"], true),
            ["fd00::1 [fd00::9]:31337", "fe80::1 [fe80::9%3]:31337"]
        );
        assert_eq!(tried(&["10.0.0.8"], true), [""; 0]);
    }

    #[test]
    fn where_addresses_count_each_pair_of_like_ones_is_tried_but_the_sessions_own() {
        assert_eq!(
            tried(&["10.0.0.8", "fe80::9"], false),
            [
                "10.0.0.2 10.0.0.9:31337",
                "10.0.0.1 10.0.0.8:31337",
                "10.0.0.2 10.0.0.8:31337",
                "fe80::1 [fe80::9%3]:31337"
            ]
        );
    }

    #[test]
    fn what_a_peer_tells_is_tried_so_often_and_no_more() {
        let own: Vec<IpAddr> = (1..=200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let told = Addresses::new((1..=8).map(|n| IpAddr::from([10, 0, 1, n])));
        let ordinary = (own[0], "10.0.1.1:31337".parse().unwrap());
        assert_eq!(candidates(ordinary, &own, &told, 3, false).len(), MOST);
    }

    #[test]
    fn one_that_answers_is_told_from_one_that_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, own) = (listener.local_addr().unwrap(), ip("127.0.0.1"));
        for (answer, is_ours) in [(&preamble()[..], true), (b"SSH-2.0-", false), (b"", false)] {
            thread::scope(|scope| {
                scope.spawn(|| listener.accept().unwrap().0.write_all(answer).unwrap());
                assert_eq!(reach(own, open).is_ok(), is_ours);
            });
        }
        drop(listener);
        assert_eq!(reach(own, open).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
