//! Whether a listener has its port for itself.
//!
//! Its sockets are a `SO_REUSEPORT` group, which any process of the same user may join, or stand before with a more
//! exact address (seen to be so on 6.18): nothing prevents it, so it is looked for. The kernel lists
//! all sockets that listen on the port (sock_diag, no privilege), and what is not ours and could take what comes is
//! told of. Blocks for as long as the kernel takes to answer: not for a loop. Must not know sessions.

use crate::discover::Channel;
use crate::error::{Error, words};
use netlink_packet_core::{NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use socket2::Socket;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
/// Only sockets in this state: bit number of `TCP_LISTEN` (include/net/tcp_states.h).
const LISTENING: u32 = 1 << 10;
/// Length of `struct inet_diag_req_v2` and of `struct inet_diag_msg` (include/uapi/linux/inet_diag.h).
const ASK_LEN: usize = 56;
const ANSWER_LEN: usize = 72;
const REMEDY: &str = "`ss -ltnp` names it: end it, or take another port";

/// A listener's own sockets, to tell others from them.
pub struct Guard {
    addr: SocketAddr,
    /// The kernel's number of each (`SO_COOKIE`), never used twice.
    own: Vec<u64>,
    told: AtomicBool,
}

impl Guard {
    /// Of these sockets, which listen on `addr`.
    ///
    /// # Errors
    /// The system's: `SO_COOKIE` is of Linux 4.12.
    pub(super) fn of(sockets: &[Socket], addr: SocketAddr) -> io::Result<Self> {
        let own = sockets.iter().map(Socket::cookie).collect::<io::Result<_>>()?;
        Ok(Self { addr, own, told: AtomicBool::new(false) })
    }

    /// Where they listen.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Before anybody is let in: an error if somebody else has the port as well.
    ///
    /// # Errors
    /// [`Error::Unreachable`], with who it is.
    pub(super) fn begin(&self) -> Result<(), Error> {
        match self.others() {
            Ok(others) if others.is_empty() => Ok(()),
            Ok(others) => Err(Error::Unreachable {
                doing: format!("cannot listen on {}", self.addr),
                reason: format!("{} too, and could take what is sent here", describe(&others)),
                remedy: REMEDY,
            }),
            Err(error) => {
                log::info!("whether others listen on {} too cannot be seen: {}", self.addr, words(&error));
                Ok(())
            }
        }
    }

    /// Says, once, that somebody has joined since.
    pub fn look(&self) {
        let Ok(others) = self.others() else { return };
        if !others.is_empty() && !self.told.swap(true, Ordering::Relaxed) {
            log::warn!("{} too since this began, and may take what is sent here; {REMEDY}", describe(&others));
        }
    }

    fn others(&self) -> io::Result<Vec<Listening>> {
        let mut channel = Channel::open(NETLINK_SOCK_DIAG, <[u8]>::to_vec)?;
        let mut others = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let answers = channel.ask(Diag::Ask { family, port: self.addr.port() }, NLM_F_DUMP)?;
            others.extend(answers.into_iter().filter_map(|answer| match answer {
                Diag::Told(one) => Some(one).filter(|one| !self.own.contains(&one.cookie) && self.is_robbed_by(one)),
                Diag::Ask { .. } => None,
            }));
        }
        Ok(others)
    }

    /// Whether what is sent to us could reach that socket instead: a member of the group, or one whose address is more
    /// exact.
    fn is_robbed_by(&self, other: &Listening) -> bool {
        let own = self.addr.ip();
        if other.port != self.addr.port() {
            return false;
        }
        match (own, other.ip) {
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(other)) => other.to_ipv4_mapped().is_some(),
            (own, other) => own.is_unspecified() || own.to_canonical() == other.to_canonical(),
        }
    }
}

fn describe(others: &[Listening]) -> String {
    others.iter().map(Listening::to_string).collect::<Vec<_>>().join(", ")
}

/// A socket that listens, as the kernel tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listening {
    ip: IpAddr,
    port: u16,
    cookie: u64,
    uid: u32,
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, uid, .. } = self;
        write!(f, "another socket of user {uid} listens on {}", SocketAddr::new(*ip, *port))
    }
}

/// Question and answer of `SOCK_DIAG_BY_FAMILY` for TCP.
#[derive(Clone, Debug)]
enum Diag {
    Ask { family: u8, port: u16 },
    Told(Listening),
}

impl NetlinkSerializable for Diag {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        ASK_LEN
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let Self::Ask { family, port } = self else { return };
        let (head, rest) = buffer.split_at_mut(8);
        head[..4].copy_from_slice(&[*family, TCP, 0, 0]);
        head[4..].copy_from_slice(&LISTENING.to_ne_bytes());
        rest.fill(0);
        rest[..2].copy_from_slice(&port.to_be_bytes());
    }
}

impl NetlinkDeserializable for Diag {
    type Error = io::Error;

    fn deserialize(_header: &NetlinkHeader, bytes: &[u8]) -> io::Result<Self> {
        let bytes: &[u8; ANSWER_LEN] = bytes.first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let number = |at: usize| u32::from_ne_bytes(word(at));
        let mut long = [0; 16];
        long.copy_from_slice(&bytes[8..24]);
        Ok(Self::Told(Listening {
            ip: if bytes[0] == AF_INET { Ipv4Addr::from(word(8)).into() } else { Ipv6Addr::from(long).into() },
            port: u16::from_be_bytes([bytes[4], bytes[5]]),
            cookie: u64::from(number(48)) << 32 | u64::from(number(44)),
            uid: number(64),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};

    fn listener(addr: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&addr.into()).unwrap();
        socket.listen(1).unwrap();
        socket
    }

    fn address(socket: &Socket) -> SocketAddr {
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn whoever_joins_is_found_and_our_own_are_not() {
        for any in [(Ipv4Addr::LOCALHOST, 0).into(), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
            let first = listener(any);
            let addr = address(&first);
            let own = [first, listener(addr)];
            let guard = Guard::of(&own, addr).unwrap();
            assert_eq!(guard.others().unwrap(), []);
            guard.begin().unwrap();
            let joined = listener(addr);
            assert_eq!(guard.others().unwrap().len(), 1, "{addr}");
            let error = guard.begin().unwrap_err().to_string();
            assert!(error.contains(&format!("listens on {addr} too")), "{error}");
            drop(joined);
            assert_eq!(guard.others().unwrap(), []);
        }
    }

    #[test]
    fn a_more_exact_address_robs_and_a_wider_one_does_not() {
        let own = listener((Ipv6Addr::UNSPECIFIED, 0).into());
        let addr = address(&own);
        let guard = Guard::of(&[own], addr).unwrap();
        let exact = SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()));
        let thief = listener(exact);
        assert_eq!(guard.others().unwrap().iter().map(|other| other.ip).collect::<Vec<_>>(), [exact.ip()]);
        let robbed = Guard::of(&[thief], exact).unwrap();
        assert_eq!(robbed.others().unwrap(), []);
    }

    #[test]
    fn addresses_decide_who_robs_whom() {
        for (own, other, robs) in [
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "0.0.0.0", true),
            ("0.0.0.0", "::", false),
            ("0.0.0.0", "::1", false),
            ("0.0.0.0", "::ffff:10.0.0.1", true),
            ("::", "0.0.0.0", true),
            ("::", "::1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "0.0.0.0", false),
        ] {
            let guard =
                Guard { addr: SocketAddr::new(own.parse().unwrap(), 9), own: Vec::new(), told: AtomicBool::new(false) };
            let at = |port| Listening { ip: other.parse().unwrap(), port, cookie: 1, uid: 0 };
            assert_eq!(guard.is_robbed_by(&at(9)), robs, "{own} {other}");
            assert!(!guard.is_robbed_by(&at(10)));
        }
    }
}
