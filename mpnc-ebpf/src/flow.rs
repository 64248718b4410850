//! A flow as the bond sees it: addresses and ports in the bytes of the packet's header.
//!
//! Built from packet headers (kernel) or from address values (user space). Must not know how it is hashed.

use core::net::IpAddr;

/// Ethernet type of IPv4, as a number (0x0800).
pub const ETHERTYPE_V4: u16 = 0x0800;
/// Ethernet type of IPv6, as a number (0x86dd).
pub const ETHERTYPE_V6: u16 = 0x86dd;
/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;

/// Length of the IPv6 header without extensions, bytes (RFC 8200 section 3).
const V6_HEADER: usize = 40;
/// "More fragments" and the 13-bit fragment offset of IPv4's flags word (RFC 791 section 3.1).
const V4_FRAGMENT: u16 = 0x3fff;

/// IP version of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The Ethernet type as a number in host order.
    #[inline(always)]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => ETHERTYPE_V4,
            Self::V6 => ETHERTYPE_V6,
        }
    }
}

/// Addresses and ports of one direction of a connection.
///
/// Every word holds the header's bytes in the header's order, as a load from the packet yields them
/// (`u32::from_ne_bytes`). IPv4 uses word 0, the others are zero: XOR over all four is then right for both families.
/// No padding, so the bytes can be a BPF map's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// Source address.
    pub src: [u32; 4],
    /// Destination address.
    pub dst: [u32; 4],
    /// Source port (2 bytes), destination port (2 bytes).
    pub ports: u32,
    /// IP version.
    pub family: Family,
}

impl Flow {
    /// From IPv4 address words and the ports word as loaded from the packet.
    #[inline(always)]
    pub const fn from_v4_words(src: u32, dst: u32, ports: u32) -> Self {
        Self { src: [src, 0, 0, 0], dst: [dst, 0, 0, 0], ports, family: Family::V4 }
    }

    /// From IPv6 address words and the ports word as loaded from the packet.
    #[inline(always)]
    pub const fn from_v6_words(src: [u32; 4], dst: [u32; 4], ports: u32) -> Self {
        Self { src, dst, ports, family: Family::V6 }
    }

    /// From address values and port numbers. Addresses that are IPv4 in IPv6's clothes (`::ffff:a.b.c.d`) leave the
    /// host as IPv4 and are taken as such. `None` when the two are of different families.
    pub fn new(src: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Option<Self> {
        let ports = ports_word(sport, dport);
        match (src.to_canonical(), dst.to_canonical()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                Some(Self::from_v4_words(u32::from_ne_bytes(s.octets()), u32::from_ne_bytes(d.octets()), ports))
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                Some(Self::from_v6_words(v6_words(s.octets()), v6_words(d.octets()), ports))
            }
            _ => None,
        }
    }

    /// Source port as a number.
    #[inline(always)]
    pub const fn sport(&self) -> u16 {
        let b = self.ports.to_ne_bytes();
        u16::from_be_bytes([b[0], b[1]])
    }

    /// Destination port as a number.
    #[inline(always)]
    pub const fn dport(&self) -> u16 {
        let b = self.ports.to_ne_bytes();
        u16::from_be_bytes([b[2], b[3]])
    }

    /// The same flow from another source port.
    #[inline(always)]
    #[must_use]
    pub const fn with_sport(self, sport: u16) -> Self {
        Self { ports: ports_word(sport, self.dport()), ..self }
    }

    /// The way back: source and destination swapped.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, ports: ports_word(self.dport(), self.sport()), family: self.family }
    }
}

#[inline(always)]
const fn ports_word(sport: u16, dport: u16) -> u32 {
    let (s, d) = (sport.to_be_bytes(), dport.to_be_bytes());
    u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
}

#[inline(always)]
const fn v6_words(o: [u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ]
}

/// Bytes of a packet, however they are reached (a slice, `bpf_skb_load_bytes`, direct packet access).
pub trait Packet {
    /// The byte at `offset`, `None` past the end.
    fn byte(&self, offset: usize) -> Option<u8>;
    /// Two bytes at `offset` as a big-endian number.
    fn half(&self, offset: usize) -> Option<u16>;
    /// Four bytes at `offset`, in memory order (`u32::from_ne_bytes`).
    fn word(&self, offset: usize) -> Option<u32>;
}

/// What was found in a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Addresses and ports as bonding takes them: ports are zero where it does not look for them.
    pub flow: Flow,
    /// IPv4's protocol or IPv6's first next-header.
    pub proto: u8,
    /// Where the transport header begins (after IPv6's fixed header only: extensions are not walked).
    pub transport: usize,
}

/// Reads the IP header at `offset` the way `bond_flow_ip` does (`drivers/net/bonding/bond_main.c`, 5.14 and newer by
/// that name; `bond_flow_dissect` before). Fragments of IPv4 and IPv6 packets with any extension header keep ports of
/// zero.
///
/// ICMP's echo identifier (5.5 and newer) is left out: no TCP stream is affected. `None`: not IP, or too short; bonding
/// then hashes the Ethernet header.
#[inline(always)]
pub fn parse_ip(packet: &impl Packet, offset: usize, ethertype: u16) -> Option<Parsed> {
    match ethertype {
        ETHERTYPE_V4 => parse_v4(packet, offset),
        ETHERTYPE_V6 => parse_v6(packet, offset),
        _ => None,
    }
}

#[inline(always)]
fn parse_v4(packet: &impl Packet, at: usize) -> Option<Parsed> {
    let header = ((packet.byte(at)? & 0x0f) as usize) * 4;
    let fragment = packet.half(at + 6)? & V4_FRAGMENT != 0;
    let proto = packet.byte(at + 9)?;
    let (src, dst) = (packet.word(at + 12)?, packet.word(at + 16)?);
    let transport = at + header;
    let ports = if fragment { 0 } else { load_ports(packet, transport, proto)? };
    Some(Parsed { flow: Flow::from_v4_words(src, dst, ports), proto, transport })
}

#[inline(always)]
fn parse_v6(packet: &impl Packet, at: usize) -> Option<Parsed> {
    let proto = packet.byte(at + 6)?;
    let src = [packet.word(at + 8)?, packet.word(at + 12)?, packet.word(at + 16)?, packet.word(at + 20)?];
    let dst = [packet.word(at + 24)?, packet.word(at + 28)?, packet.word(at + 32)?, packet.word(at + 36)?];
    let transport = at + V6_HEADER;
    let ports = load_ports(packet, transport, proto)?;
    Some(Parsed { flow: Flow::from_v6_words(src, dst, ports), proto, transport })
}

/// The word that bonding takes for the ports (`proto_ports_offset`, `include/linux/in.h`): TCP, UDP, DCCP, ESP
/// (its SPI), SCTP and UDP-Lite at the start, AH (its SPI) 4 bytes in, others none.
#[inline(always)]
fn load_ports(packet: &impl Packet, transport: usize, proto: u8) -> Option<u32> {
    match proto {
        PROTO_TCP | 17 | 33 | 50 | 132 | 136 => packet.word(transport),
        51 => packet.word(transport + 4),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    struct Bytes<'a>(&'a [u8]);

    impl Packet for Bytes<'_> {
        fn byte(&self, offset: usize) -> Option<u8> {
            self.0.get(offset).copied()
        }
        fn half(&self, offset: usize) -> Option<u16> {
            Some(u16::from_be_bytes(self.0.get(offset..offset + 2)?.try_into().ok()?))
        }
        fn word(&self, offset: usize) -> Option<u32> {
            Some(u32::from_ne_bytes(self.0.get(offset..offset + 4)?.try_into().ok()?))
        }
    }

    /// A TCP header's ports (30001, 5001) behind an IPv4 header of `ihl` words, flags word `frag`.
    fn v4_packet(ihl: u8, frag: u16) -> [u8; 64] {
        let mut p = [0; 64];
        p[0] = 0x40 | ihl;
        p[6..8].copy_from_slice(&frag.to_be_bytes());
        p[9] = PROTO_TCP;
        p[12..16].copy_from_slice(&[10, 1, 2, 3]);
        p[16..20].copy_from_slice(&[10, 1, 2, 77]);
        let t = usize::from(ihl) * 4;
        p[t..t + 2].copy_from_slice(&30001u16.to_be_bytes());
        p[t + 2..t + 4].copy_from_slice(&5001u16.to_be_bytes());
        p
    }

    fn v4_flow() -> Flow {
        let (s, d) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 77));
        Flow::new(s.into(), d.into(), 30001, 5001).unwrap()
    }

    #[test]
    fn header_and_address_values_make_the_same_flow() {
        for ihl in [5, 6, 15] {
            let parsed = parse_ip(&Bytes(&v4_packet(ihl, 0x4000)), 0, ETHERTYPE_V4).unwrap();
            assert_eq!(parsed.flow, v4_flow());
            assert_eq!(parsed.transport, usize::from(ihl) * 4);
        }
        let s: Ipv6Addr = "fd00::1:2:3".parse().unwrap();
        let d: Ipv6Addr = "fd00::9:8:77".parse().unwrap();
        let mut p = [0; 64];
        p[6] = PROTO_TCP;
        p[8..24].copy_from_slice(&s.octets());
        p[24..40].copy_from_slice(&d.octets());
        p[40..44].copy_from_slice(&[0x75, 0x31, 0x13, 0x89]);
        let parsed = parse_ip(&Bytes(&p), 0, ETHERTYPE_V6).unwrap();
        assert_eq!(parsed.flow, Flow::new(s.into(), d.into(), 30001, 5001).unwrap());
    }

    #[test]
    fn fragments_and_extension_headers_have_no_ports() {
        for frag in [0x2000, 0x0001, 0x20b9] {
            let parsed = parse_ip(&Bytes(&v4_packet(5, frag)), 0, ETHERTYPE_V4).unwrap();
            assert_eq!(parsed.flow.ports, 0);
        }
        let mut p = [0xff; 64];
        p[6] = 44; // a fragment header
        assert_eq!(parse_ip(&Bytes(&p), 0, ETHERTYPE_V6).unwrap().flow.ports, 0);
    }

    #[test]
    fn short_and_foreign_packets_are_none() {
        let p = v4_packet(5, 0);
        for len in 0..24 {
            assert_eq!(parse_ip(&Bytes(&p[..len]), 0, ETHERTYPE_V4), None);
        }
        assert_eq!(parse_ip(&Bytes(&p), 0, 0x8100), None);
    }

    #[test]
    fn ports_can_be_read_replaced_and_swapped() {
        let f = v4_flow();
        assert_eq!((f.sport(), f.dport()), (30001, 5001));
        assert_eq!((f.with_sport(7).sport(), f.with_sport(7).dport()), (7, 5001));
        let r = f.reversed();
        assert_eq!((r.sport(), r.dport(), r.src, r.dst), (5001, 30001, f.dst, f.src));
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_families_do_not_mix() {
        let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        let plain: IpAddr = "10.1.2.77".parse().unwrap();
        assert_eq!(Flow::new(mapped, plain, 30001, 5001), Some(v4_flow()));
        assert_eq!(Flow::new("fd00::1".parse().unwrap(), plain, 1, 2), None);
    }
}
