//! Random frames whose hash is known without parsing them.

use std::net::IpAddr;

use fastrand::Rng;
use mpnc_ebpf::{ByteOrder, Era, Ether, Flow, Policy, hash};

/// As many random bytes.
fn drawn<const N: usize>(random: &mut Rng) -> [u8; N] {
    let mut out = [0; N];
    random.fill(&mut out);
    out
}

/// What a batch of frames has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) v6: bool,
    pub(crate) vlan: bool,
    /// IPv4 header with 1 to 10 words of options.
    pub(crate) options: bool,
}

impl Kind {
    /// IPv6 has no such options.
    pub(crate) const ALL: [Self; 6] = [
        Self { v6: false, vlan: false, options: false },
        Self { v6: false, vlan: false, options: true },
        Self { v6: false, vlan: true, options: false },
        Self { v6: false, vlan: true, options: true },
        Self { v6: true, vlan: false, options: false },
        Self { v6: true, vlan: true, options: false },
    ];
}

/// A frame, and what bonding should make of it.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    flow: Flow,
    ether: Ether,
    /// The second tag's Ethernet type: bonding finds no IP header behind it.
    inner_tag: Option<u16>,
    /// A fragment, or behind an extension header.
    portless: bool,
}

impl Frame {
    /// A TCP segment; one in 16 is a fragment or has an extension header (so that bonding sees no ports), and of tagged
    /// frames one in 16 has two tags.
    pub(crate) fn random(random: &mut Rng, kind: Kind) -> Self {
        let (dst, src) = (drawn::<6>(random), drawn::<6>(random));
        let mut bytes = [dst, src].concat();
        let mut ether = Ether { src, dst, vlan: None };
        let mut inner_tag = None;
        if kind.vlan {
            let tci = u16::from_ne_bytes(drawn(random));
            ether.vlan = Some(tci);
            inner_tag = (random.u8(..16) == 0).then_some(0x8100);
            let outer = if inner_tag.is_some() { 0x88a8 } else { 0x8100 };
            put_tag(&mut bytes, outer, tci);
            if let Some(kind) = inner_tag {
                put_tag(&mut bytes, kind, u16::from_ne_bytes(drawn(random)));
            }
        }
        let ports: [u8; 4] = drawn(random);
        let portless = random.u8(..16) == 0;
        let (src, dst) = if kind.v6 {
            put_v6(&mut bytes, random, portless)
        } else {
            put_v4(&mut bytes, random, portless, kind.options)
        };
        bytes.extend(ports);
        bytes.extend(drawn::<16>(random)); // the rest of TCP's header
        let [s0, s1, d0, d1] = if portless { [0; 4] } else { ports };
        let (sport, dport) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        // Not Flow::new: on the wire an IPv4-mapped IPv6 address is IPv6.
        let flow = match (src, dst) {
            (IpAddr::V4(_), _) => Flow::new(src, dst, sport, dport).expect("one family"),
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let ports = u32::from_ne_bytes([s0, s1, d0, d1]);
                Flow::from_v6_words(words(s.octets()), words(d.octets()), ports)
            }
            _ => unreachable!("both addresses are of one family"),
        };
        Self { bytes, flow, ether, inner_tag, portless }
    }

    /// Whether the TCP header follows the IP header at once.
    pub(crate) fn is_plain(&self) -> bool {
        !self.portless
    }

    /// The port that bonding reads.
    pub(crate) fn source_port(&self) -> u16 {
        self.flow.sport()
    }

    /// The library's hash of what was put in, without looking at the bytes.
    pub(crate) fn hash(&self, policy: Policy, era: Era) -> u32 {
        const ORDER: ByteOrder = ByteOrder::NATIVE;
        let Some(tag) = self.inner_tag else {
            return hash::hash(policy, era, ORDER, &self.flow, &self.ether);
        };
        let layer2 = hash::layer2_of_type(era, ORDER, tag, &self.ether);
        match policy {
            Policy::VlanSrcmac => hash::vlan_srcmac(&self.ether),
            Policy::Encap34 => hash::layer34(era, ORDER, &self.flow),
            Policy::Encap23 => hash::layer23_over(layer2, era, ORDER, &self.flow),
            Policy::Layer2 | Policy::Layer23 | Policy::Layer34 => layer2,
        }
    }
}

fn put_tag(bytes: &mut Vec<u8>, kind: u16, tci: u16) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend(tci.to_be_bytes());
}

fn put_v4(bytes: &mut Vec<u8>, random: &mut Rng, fragment: bool, options: bool) -> (IpAddr, IpAddr) {
    let words = if options { 6 + random.u16(..10) } else { 5 };
    let mut header: [u8; 20] = drawn(random);
    header[0] = 0x40 | u8::try_from(words).expect("at most 15");
    let flags: u16 = if fragment { 0x2000 | random.u16(..0x2000) } else { 0x4000 };
    header[6..8].copy_from_slice(&flags.to_be_bytes());
    header[9] = 6;
    bytes.extend([0x08, 0x00]);
    bytes.extend(header);
    for _ in 5..words {
        bytes.extend(drawn::<4>(random));
    }
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    (address(12), address(16))
}

fn put_v6(bytes: &mut Vec<u8>, random: &mut Rng, extension: bool) -> (IpAddr, IpAddr) {
    let mut header: [u8; 8] = drawn(random);
    header[0] = 0x60 | (header[0] & 0x0f);
    // Hop-by-hop, routing, fragment, destination options.
    header[6] = if extension { [0, 43, 44, 60][usize::from(random.u16(..4))] } else { 6 };
    let (src, dst): ([u8; 16], [u8; 16]) = (drawn(random), drawn(random));
    bytes.extend([0x86, 0xdd]);
    bytes.extend(header);
    bytes.extend(src);
    bytes.extend(dst);
    (src.into(), dst.into())
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    let word = |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
    [word(0), word(4), word(8), word(12)]
}
