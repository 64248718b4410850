//! Random frames whose hash is known without parsing them.

use std::net::IpAddr;

use mpnc_ebpf::{ByteOrder, Era, Ether, Flow, Policy, hash};

/// splitmix64 (Vigna, public domain): small, seeded, the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(8) {
            let word = self.next().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        out
    }

    /// A number below `n`.
    fn below(&mut self, n: u16) -> u16 {
        u16::try_from(self.next() % u64::from(n)).expect("below a u16")
    }

    /// True once in `n`.
    fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
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
    pub(crate) fn random(random: &mut Random, kind: Kind) -> Self {
        let (dst, src) = (random.bytes::<6>(), random.bytes::<6>());
        let mut bytes = [dst, src].concat();
        let mut ether = Ether { src, dst, vlan: None };
        let mut inner_tag = None;
        if kind.vlan {
            let tci = u16::from_ne_bytes(random.bytes());
            ether.vlan = Some(tci);
            inner_tag = random.once_in(16).then_some(0x8100);
            let outer = if inner_tag.is_some() { 0x88a8 } else { 0x8100 };
            put_tag(&mut bytes, outer, tci);
            if let Some(kind) = inner_tag {
                put_tag(&mut bytes, kind, u16::from_ne_bytes(random.bytes()));
            }
        }
        let ports: [u8; 4] = random.bytes();
        let portless = random.once_in(16);
        let (src, dst) = if kind.v6 {
            put_v6(&mut bytes, random, portless)
        } else {
            put_v4(&mut bytes, random, portless, kind.options)
        };
        bytes.extend(ports);
        bytes.extend(random.bytes::<16>()); // the rest of TCP's header
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

fn put_v4(bytes: &mut Vec<u8>, random: &mut Random, fragment: bool, options: bool) -> (IpAddr, IpAddr) {
    let words = if options { 6 + random.below(10) } else { 5 };
    let mut header: [u8; 20] = random.bytes();
    header[0] = 0x40 | u8::try_from(words).expect("at most 15");
    let flags: u16 = if fragment { 0x2000 | random.below(0x2000) } else { 0x4000 };
    header[6..8].copy_from_slice(&flags.to_be_bytes());
    header[9] = 6;
    bytes.extend([0x08, 0x00]);
    bytes.extend(header);
    for _ in 5..words {
        bytes.extend(random.bytes::<4>());
    }
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    (address(12), address(16))
}

fn put_v6(bytes: &mut Vec<u8>, random: &mut Random, extension: bool) -> (IpAddr, IpAddr) {
    let mut header: [u8; 8] = random.bytes();
    header[0] = 0x60 | (header[0] & 0x0f);
    // Hop-by-hop, routing, fragment, destination options.
    header[6] = if extension { [0, 43, 44, 60][usize::from(random.below(4))] } else { 6 };
    let (src, dst): ([u8; 16], [u8; 16]) = (random.bytes(), random.bytes());
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
