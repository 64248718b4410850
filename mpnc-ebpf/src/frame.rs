//! A whole frame as the bond hashes it: Ethernet header, VLAN tags, then [`crate::flow`] and [`crate::hash`].
//!
//! Follows `bond_xmit_hash`, `bond_flow_dissect` and `bond_eth_hash` (`drivers/net/bonding/bond_main.c`, 5.15 to 6.12)
//! down to what they do with frames they cannot read. Generic over [`Packet`]: a slice on the host, an `__sk_buff` in
//! the kernel. Must not know how the bytes are reached.

use crate::flow::{Packet, Parsed, parse_ip};
use crate::hash::{self, ByteOrder, Era, Ether, Policy};

const ETHERTYPE_8021Q: u16 = 0x8100;
const ETHERTYPE_8021AD: u16 = 0x88a8;
const ETHER_HEADER: usize = 14;
const VLAN_TAG: usize = 4;

/// Layer 2 of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Addresses and outermost tag.
    pub ether: Ether,
    /// The Ethernet type that bonding reads: the one after the outermost tag, which the stack carries beside the frame.
    /// With a second tag (`QinQ`) it is that tag's own type, and bonding finds no IP header behind it.
    pub ethertype: u16,
    /// VLAN tags, in the frame and beside it.
    pub tags: u32,
    /// The Ethernet type after all tags (at most two in the frame are stepped over).
    pub network_type: u16,
    /// Where the network header begins, bytes.
    pub network: usize,
}

/// Reads layer 2. `beside` is the tag that the stack keeps outside the frame (`skb->vlan_tci`). `None`: too short.
#[inline(always)]
pub fn parse_link(packet: &impl Packet, beside: Option<u16>) -> Option<Link> {
    let (a, b, c) = (packet.word(0)?, packet.word(4)?, packet.word(8)?);
    let (a, b, c) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    let first = packet.half(12)?;
    let mut link = Link {
        ether: Ether {
            dst: [a[0], a[1], a[2], a[3], b[0], b[1]],
            src: [b[2], b[3], c[0], c[1], c[2], c[3]],
            vlan: beside,
        },
        ethertype: first,
        tags: u32::from(beside.is_some()),
        network_type: first,
        network: ETHER_HEADER,
    };
    if !is_vlan(first) {
        return Some(link);
    }
    let outer = step_over_tag(packet, &mut link)?;
    if beside.is_none() {
        link.ether.vlan = Some(outer);
        link.ethertype = link.network_type;
    }
    if is_vlan(link.network_type) {
        step_over_tag(packet, &mut link)?;
    }
    Some(link)
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_8021Q | ETHERTYPE_8021AD)
}

/// Returns the tag's control information.
#[inline(always)]
fn step_over_tag(packet: &impl Packet, link: &mut Link) -> Option<u16> {
    let tci = packet.half(link.network)?;
    link.network_type = packet.half(link.network + 2)?;
    link.network += VLAN_TAG;
    link.tags += 1;
    Some(tci)
}

/// The IP header behind all tags.
#[inline(always)]
pub fn parse_network(packet: &impl Packet, link: &Link) -> Option<Parsed> {
    parse_ip(packet, link.network, link.network_type)
}

/// The bond's hash of a frame. Where bonding finds no IP header it hashes layer 2, whatever the policy; behind two tags
/// only the encap policies find one. `None`: shorter than an Ethernet header.
#[inline(always)]
pub fn hash_frame(
    packet: &impl Packet,
    beside: Option<u16>,
    policy: Policy,
    era: Era,
    order: ByteOrder,
) -> Option<u32> {
    let link = parse_link(packet, beside)?;
    let macs = hash::layer2_of_type(era, order, link.ethertype, &link.ether);
    let sees_ip = match policy {
        Policy::Layer2 | Policy::VlanSrcmac => false,
        Policy::Layer34 | Policy::Layer23 => link.tags < 2,
        Policy::Encap23 | Policy::Encap34 => true,
    };
    let parsed = if sees_ip { parse_network(packet, &link) } else { None };
    let flow = parsed.as_ref().map(|parsed| &parsed.flow);
    Some(hash::hash_found(policy, era, order, &link.ether, macs, flow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Flow;

    struct Slice<'a>(&'a [u8]);

    impl Packet for Slice<'_> {
        fn byte(&self, offset: usize) -> Option<u8> {
            self.0.get(offset).copied()
        }
        fn half(&self, offset: usize) -> Option<u16> {
            let b = self.0.get(offset..offset + 2)?;
            Some(u16::from_be_bytes(b.try_into().ok()?))
        }
        fn word(&self, offset: usize) -> Option<u32> {
            let b = self.0.get(offset..offset + 4)?;
            Some(u32::from_ne_bytes(b.try_into().ok()?))
        }
    }

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 0x2c, 2, 0, 0, 0, 0, 0x11];

    /// 10.1.2.3:30001 to 10.1.2.77:5001 behind the given tags (type, control information), outermost first.
    fn frame(tags: &[(u16, u16)]) -> ([u8; 64], usize) {
        let mut f = [0; 64];
        f[..12].copy_from_slice(&MACS);
        let mut at = 12;
        for (kind, tci) in tags {
            f[at..at + 2].copy_from_slice(&kind.to_be_bytes());
            f[at + 2..at + 4].copy_from_slice(&tci.to_be_bytes());
            at += 4;
        }
        f[at..at + 3].copy_from_slice(&[8, 0, 0x45]);
        f[at + 11] = crate::flow::PROTO_TCP;
        f[at + 14..at + 22].copy_from_slice(&[10, 1, 2, 3, 10, 1, 2, 77]);
        f[at + 22..at + 26].copy_from_slice(&[0x75, 0x31, 0x13, 0x89]);
        (f, at + 26)
    }

    fn flow() -> Flow {
        Flow::new("10.1.2.3".parse().unwrap(), "10.1.2.77".parse().unwrap(), 30001, 5001).unwrap()
    }

    fn of(tags: &[(u16, u16)], beside: Option<u16>, policy: Policy) -> u32 {
        let (f, len) = frame(tags);
        hash_frame(&Slice(&f[..len]), beside, policy, Era::V5_18, ByteOrder::NATIVE).unwrap()
    }

    #[test]
    fn one_tag_changes_nothing_wherever_it_is() {
        let want = hash::layer34(Era::V5_18, ByteOrder::NATIVE, &flow());
        assert_eq!(of(&[], None, Policy::Layer34), want);
        assert_eq!(of(&[], Some(100), Policy::Layer34), want);
        assert_eq!(of(&[(ETHERTYPE_8021Q, 100)], None, Policy::Layer34), want);
        assert_eq!(of(&[(ETHERTYPE_8021Q, 100)], None, Policy::Layer23), of(&[], None, Policy::Layer23));
    }

    #[test]
    fn two_tags_hide_the_ports_except_from_encap() {
        let layer2 = 0x3d ^ u32::from(ETHERTYPE_8021Q);
        let tags = [(ETHERTYPE_8021AD, 7), (ETHERTYPE_8021Q, 100)];
        for policy in [Policy::Layer34, Policy::Layer23, Policy::Layer2] {
            assert_eq!(of(&tags, None, policy), layer2);
            assert_eq!(of(&tags[1..], Some(7), policy), layer2);
        }
        assert_eq!(of(&tags, None, Policy::Encap34), of(&[], None, Policy::Layer34));
        assert_ne!(of(&tags, None, Policy::Encap23), of(&[], None, Policy::Layer23));
    }

    #[test]
    fn the_outermost_tag_is_vlan_srcmacs() {
        let without = of(&[], None, Policy::VlanSrcmac);
        assert_eq!(of(&[], Some(100), Policy::VlanSrcmac), without ^ 0x64);
        assert_eq!(of(&[(ETHERTYPE_8021Q, 100)], None, Policy::VlanSrcmac), without ^ 0x64);
        let tags = [(ETHERTYPE_8021AD, 7), (ETHERTYPE_8021Q, 100)];
        assert_eq!(of(&tags, None, Policy::VlanSrcmac), without ^ 7);
    }

    #[test]
    fn what_is_not_ip_is_hashed_by_layer2() {
        let mut arp = [0; 42];
        arp[..12].copy_from_slice(&MACS);
        arp[12..14].copy_from_slice(&[8, 6]);
        let hash = hash_frame(&Slice(&arp), None, Policy::Layer34, Era::V5_18, ByteOrder::NATIVE);
        assert_eq!(hash, Some(0x3d ^ 0x0806));
        assert_eq!(hash_frame(&Slice(&arp[..13]), None, Policy::Layer34, Era::V5_18, ByteOrder::NATIVE), None);
    }
}
