//! THE bond hash: what Linux bonding computes from a packet to choose a slave, for every era of kernels.
//!
//! Formulae from reading `bond_xmit_hash` and its helpers in `drivers/net/bonding/bond_main.c` of 3.10 to 7.2, checked
//! against running kernels (5.10, 6.1, 6.12, 7.2). Pure arithmetic over [`Flow`] and [`Ether`]; must not know devices
//! or policies' names on any command line. `>>`, `^` and one modulo: no loop, no panic, fit for the eBPF verifier.

use crate::flow::{Family, Flow};

/// The byte order of the host whose bond hashes: the kernel XORs header words as native integers.
///
/// For a count of slaves that divides 128 the order makes no difference to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// `x86_64`, `aarch64`, `riscv64`, `ppc64le` ...
    Little,
    /// `s390x`, `ppc64` ...
    Big,
}

impl ByteOrder {
    /// This host's order.
    pub const NATIVE: Self = if cfg!(target_endian = "little") { Self::Little } else { Self::Big };

    /// A header word as this order's host reads it.
    #[inline(always)]
    const fn read(self, memory_word: u32) -> u32 {
        match self {
            Self::Little => u32::from_le(memory_word),
            Self::Big => u32::from_be(memory_word),
        }
    }
}

/// Which formula the kernel has. Each name is the first release that has it; vendor kernels may differ (see
/// `mpnc::bond::model`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Era {
    /// Up to 3.12: 16-bit folds in network order for IPv4, XOR of three words for IPv6.
    Before3_13 = 0,
    /// 3.13 to 4.13: the folded 32-bit hash, not shifted (commit 32819dc18348).
    V3_13 = 1,
    /// 4.14 to 5.14: shifted right by one on every policy but layer2 (commit b5f862180d70).
    V4_14 = 2,
    /// 5.15.0 to 5.15.37, 5.16, 5.17: as before, the Ethernet type in host order.
    V5_15 = 3,
    /// 5.15.38 and newer 5.15, 5.18 and newer: shifted on layer3+4 and encap3+4 only (commit 49aefd131739).
    V5_18 = 4,
}

impl Era {
    /// All eras, oldest first.
    pub const ALL: [Self; 5] = [Self::Before3_13, Self::V3_13, Self::V4_14, Self::V5_15, Self::V5_18];

    /// From the number that a BPF map or global holds.
    #[inline(always)]
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            0 => Some(Self::Before3_13),
            1 => Some(Self::V3_13),
            2 => Some(Self::V4_14),
            3 => Some(Self::V5_15),
            4 => Some(Self::V5_18),
            _ => None,
        }
    }

    #[inline(always)]
    const fn shifts_ports(self) -> bool {
        matches!(self, Self::V4_14 | Self::V5_15 | Self::V5_18)
    }

    #[inline(always)]
    const fn shifts_addresses(self) -> bool {
        matches!(self, Self::V4_14 | Self::V5_15)
    }
}

/// `xmit_hash_policy`, by the kernel's numbers (`BOND_XMIT_POLICY_*`, `include/uapi/linux/if_bonding.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Policy {
    /// MAC addresses and Ethernet type. The kernel's default.
    Layer2 = 0,
    /// IP addresses and ports.
    Layer34 = 1,
    /// MAC and IP addresses.
    Layer23 = 2,
    /// MAC and innermost IP addresses.
    Encap23 = 3,
    /// Innermost addresses and ports; for locally made TCP the socket's random hash instead.
    Encap34 = 4,
    /// VLAN tag and source MAC address (5.12 and newer).
    VlanSrcmac = 5,
}

impl Policy {
    /// From the kernel's number.
    #[inline(always)]
    pub const fn from_u32(n: u32) -> Option<Self> {
        match n {
            0 => Some(Self::Layer2),
            1 => Some(Self::Layer34),
            2 => Some(Self::Layer23),
            3 => Some(Self::Encap23),
            4 => Some(Self::Encap34),
            5 => Some(Self::VlanSrcmac),
            _ => None,
        }
    }
}

/// The Ethernet header's part in the hash, as the bond sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Ether {
    /// Source MAC address.
    pub src: [u8; 6],
    /// Destination MAC address (of the next hop).
    pub dst: [u8; 6],
    /// The hardware VLAN tag (priority, DEI, id), `None` when untagged.
    pub vlan: Option<u16>,
}

/// The hash before the modulo, by policy.
///
/// encap policies: for packets without an inner header, which is what they are here; they then read the outer one.
/// [`Policy::Encap34`] is the value for packets that carry no socket hash (forwarded ones). **TCP of this host does
/// carry one**, random per connection: do not predict it with this.
#[inline(always)]
pub fn hash(policy: Policy, era: Era, order: ByteOrder, flow: &Flow, ether: &Ether) -> u32 {
    hash_found(policy, era, order, ether, layer2(era, order, flow.family, ether), Some(flow))
}

/// [`hash`] of what bonding finds in a frame: `macs`, the layer 2 part, whose Ethernet type behind two VLAN tags is not
/// the flow's; and the flow, `None` where it finds no IP header. The one place that knows what each policy hashes.
#[inline(always)]
pub fn hash_found(policy: Policy, era: Era, order: ByteOrder, ether: &Ether, macs: u32, flow: Option<&Flow>) -> u32 {
    match policy {
        Policy::VlanSrcmac => vlan_srcmac(ether),
        Policy::Layer2 => macs,
        Policy::Layer34 | Policy::Encap34 => match flow {
            Some(flow) => layer34(era, order, flow),
            None => macs,
        },
        Policy::Layer23 | Policy::Encap23 => match flow {
            Some(flow) => layer23_over(macs, era, order, flow),
            None => macs,
        },
    }
}

/// The slave's index among the usable ones; `None` when there is none.
#[inline(always)]
pub const fn index(hash: u32, usable: u32) -> Option<u32> {
    hash.checked_rem(usable)
}

/// layer3+4: the only policy in which ports choose.
#[inline(always)]
pub const fn layer34(era: Era, order: ByteOrder, flow: &Flow) -> u32 {
    if matches!(era, Era::Before3_13) {
        let ports = (flow.sport() ^ flow.dport()) as u32;
        return match flow.family {
            Family::V4 => ports ^ old_v4(flow),
            Family::V6 => old_v6_fold(ports ^ old_v6(order, flow)),
        };
    }
    let mixed = mix(order.read(flow.ports) ^ addresses(order, flow));
    if era.shifts_ports() { mixed >> 1 } else { mixed }
}

/// layer2+3, over the layer 2 part: ports play no part.
#[inline(always)]
pub const fn layer23_over(macs: u32, era: Era, order: ByteOrder, flow: &Flow) -> u32 {
    if matches!(era, Era::Before3_13) {
        return macs
            ^ match flow.family {
                Family::V4 => old_v4(flow),
                Family::V6 => old_v6_fold(old_v6(order, flow)),
            };
    }
    let mixed = mix(macs ^ addresses(order, flow));
    if era.shifts_addresses() { mixed >> 1 } else { mixed }
}

/// layer2, and what every policy falls back to when there is no IP header behind the Ethernet type.
#[inline(always)]
pub const fn layer2(era: Era, order: ByteOrder, family: Family, ether: &Ether) -> u32 {
    layer2_of_type(era, order, family.ethertype(), ether)
}

/// [`layer2`] for any Ethernet type, given as a number.
#[inline(always)]
pub const fn layer2_of_type(era: Era, order: ByteOrder, number: u16, ether: &Ether) -> u32 {
    let macs = (ether.dst[5] ^ ether.src[5]) as u32;
    macs ^ match era {
        Era::Before3_13 => 0,
        // The big-endian field, taken as an integer of the host.
        Era::V3_13 | Era::V4_14 => match order {
            ByteOrder::Little => number.swap_bytes() as u32,
            ByteOrder::Big => number as u32,
        },
        Era::V5_15 | Era::V5_18 => number as u32,
    }
}

/// vlan+srcmac: the tag and the two 24-bit halves of the source MAC address.
#[inline(always)]
pub const fn vlan_srcmac(ether: &Ether) -> u32 {
    let m = ether.src;
    let vendor = u32::from_be_bytes([0, m[0], m[1], m[2]]);
    let device = u32::from_be_bytes([0, m[3], m[4], m[5]]);
    let tag = match ether.vlan {
        Some(tci) => tci as u32,
        None => 0,
    };
    vendor ^ device ^ tag
}

/// Folds the two upper thirds of the entropy into the low byte, which becomes the XOR of all four.
#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h ^= h >> 8;
    h
}

#[inline(always)]
const fn addresses(order: ByteOrder, flow: &Flow) -> u32 {
    let (s, d) = (flow.src, flow.dst);
    order.read(s[0] ^ s[1] ^ s[2] ^ s[3] ^ d[0] ^ d[1] ^ d[2] ^ d[3])
}

/// Up to 3.12, IPv4: the low 16 bits of the addresses' XOR in network order.
#[inline(always)]
const fn old_v4(flow: &Flow) -> u32 {
    u32::from_be(flow.src[0] ^ flow.dst[0]) & 0xffff
}

/// Up to 3.12, IPv6: words 1 to 3, word 0 has no part.
#[inline(always)]
const fn old_v6(order: ByteOrder, flow: &Flow) -> u32 {
    let (s, d) = (flow.src, flow.dst);
    order.read(s[1] ^ s[2] ^ s[3] ^ d[1] ^ d[2] ^ d[3])
}

#[inline(always)]
const fn old_v6_fold(x: u32) -> u32 {
    x ^ (x >> 24) ^ (x >> 16) ^ (x >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str, sport: u16, dport: u16) -> Flow {
        Flow::new(src.parse().unwrap(), dst.parse().unwrap(), sport, dport).unwrap()
    }

    /// Source, destination, source port, destination port; hash unshifted, shifted; index for 2, 3, 4 slaves.
    type Vector = (&'static str, &'static str, u16, u16, u32, u32, [u32; 3]);

    /// Seen on a 6.12 kernel with real TCP over 802.3ad (the index for 3 slaves), little-endian.
    const SEEN: [Vector; 10] = [
        ("10.1.2.3", "10.1.2.77", 30001, 5001, 0xc7d4_e590, 0x63ea_72c8, [0, 2, 0]),
        ("10.1.2.3", "10.1.2.77", 30002, 5001, 0xc7d4_e693, 0x63ea_7349, [1, 2, 1]),
        ("10.1.2.3", "10.1.2.77", 30003, 5001, 0xc7d4_e792, 0x63ea_73c9, [1, 1, 1]),
        ("10.1.2.3", "10.1.2.77", 30004, 5001, 0xc7d4_e095, 0x63ea_704a, [0, 0, 2]),
        ("10.1.2.3", "10.1.2.77", 41002, 5001, 0xc7d4_fe5e, 0x63ea_7f2f, [1, 0, 3]),
        ("10.1.2.77", "10.1.2.3", 5001, 30001, 0x7f0a_8390, 0x3f85_41c8, [0, 2, 0]),
        ("10.1.2.77", "10.1.2.3", 5001, 30003, 0x7d08_8192, 0x3e84_40c9, [1, 0, 1]),
        ("fd00::1:2:3", "fd00::9:8:77", 30001, 5001, 0xf5e6_dda8, 0x7af3_6ed4, [0, 0, 0]),
        ("fd00::1:2:3", "fd00::9:8:77", 41004, 5001, 0xf5e6_c060, 0x7af3_6030, [0, 2, 0]),
        ("fd00::9:8:77", "fd00::1:2:3", 5001, 41006, 0x52f2_7162, 0x2979_38b1, [1, 2, 1]),
    ];

    #[test]
    fn layer34_matches_running_kernels() {
        for (src, dst, sport, dport, plain, shifted, slaves) in SEEN {
            let f = flow(src, dst, sport, dport);
            assert_eq!(layer34(Era::V3_13, ByteOrder::Little, &f), plain, "{src} {sport}");
            for era in [Era::V4_14, Era::V5_15, Era::V5_18] {
                assert_eq!(layer34(era, ByteOrder::Little, &f), shifted, "{src} {sport}");
            }
            for (n, want) in (2..).zip(slaves) {
                assert_eq!(index(shifted, n), Some(want), "{src} {sport} over {n}");
            }
        }
    }

    #[test]
    fn byte_order_changes_the_hash_but_not_its_low_byte() {
        for (src, dst, sport, dport, plain, ..) in SEEN {
            let f = flow(src, dst, sport, dport);
            let big = layer34(Era::V3_13, ByteOrder::Big, &f);
            assert_ne!(big, plain);
            assert_eq!(big & 0xff, plain & 0xff);
        }
        // Worked by hand: P = 75311389, S^D = 0000004e; 753113c7 ^ 7531 = 753166f6; ^ 753166 = 75445790.
        let f = flow("10.1.2.3", "10.1.2.77", 30001, 5001);
        assert_eq!(layer34(Era::V3_13, ByteOrder::Big, &f), 0x7544_5790);
    }

    #[test]
    fn way_back_has_the_same_index_for_powers_of_two() {
        for (src, dst, sport, dport, ..) in SEEN {
            let f = flow(src, dst, sport, dport);
            for era in Era::ALL {
                let (there, back) =
                    (layer34(era, ByteOrder::Little, &f), layer34(era, ByteOrder::Little, &f.reversed()));
                assert_eq!(there % 64, back % 64, "{era:?}");
            }
        }
    }

    #[test]
    fn oldest_era_xors_ports_and_low_address_halves() {
        let f = flow("10.1.2.3", "10.1.2.77", 30001, 5001);
        // 0x7531 ^ 0x1389 ^ (0x0203 ^ 0x024d)
        assert_eq!(layer34(Era::Before3_13, ByteOrder::Little, &f), 0x66f6);
        assert_eq!(layer34(Era::Before3_13, ByteOrder::Big, &f), 0x66f6);
        // IPv6: 66b8 ^ (words 1..3 of fd00::1:2:3 ^ fd00::9:8:77 read little-endian: 00080000 ^ 7400_0a00 as bytes)
        let f = flow("fd00::1:2:3", "fd00::9:8:77", 30001, 5001);
        let x: u32 = 0x66b8 ^ u32::from_le_bytes([0, 0, 0, 8]) ^ u32::from_le_bytes([0, 10, 0, 0x74]);
        let want = x ^ (x >> 24) ^ (x >> 16) ^ (x >> 8);
        assert_eq!(layer34(Era::Before3_13, ByteOrder::Little, &f), want);
    }

    const ETHER: Ether = Ether { src: [2, 0, 0x5e, 0x10, 0, 0x11], dst: [2, 0, 0x5e, 0x10, 0, 0x2c], vlan: Some(100) };

    #[test]
    fn layer2_takes_the_type_as_its_era_reads_it() {
        let l2 = |era, order, family| layer2(era, order, family, &ETHER);
        assert_eq!(l2(Era::Before3_13, ByteOrder::Little, Family::V4), 0x3d);
        assert_eq!(l2(Era::V4_14, ByteOrder::Little, Family::V4), 0x3d ^ 0x0008);
        assert_eq!(l2(Era::V4_14, ByteOrder::Little, Family::V6), 0x3d ^ 0xdd86);
        assert_eq!(l2(Era::V4_14, ByteOrder::Big, Family::V4), 0x3d ^ 0x0800);
        assert_eq!(l2(Era::V5_18, ByteOrder::Little, Family::V6), 0x3d ^ 0x86dd);
    }

    #[test]
    fn layer23_is_shifted_only_between_4_14_and_5_17_and_ignores_ports() {
        let f = flow("10.1.2.3", "10.1.2.77", 30001, 5001);
        let at = |era, f: &Flow| hash(Policy::Layer23, era, ByteOrder::Little, f, &ETHER);
        // E ^ S ^ D = 3d ^ 0800 ^ 4e000000, mixed.
        let x: u32 = 0x4e00_083d;
        let x = x ^ (x >> 16);
        let mixed = x ^ (x >> 8);
        assert_eq!(at(Era::V5_18, &f), mixed);
        assert_eq!(at(Era::V5_15, &f), mixed >> 1);
        assert_eq!(at(Era::V4_14, &f), at(Era::V3_13, &f) >> 1);
        for era in Era::ALL {
            assert_eq!(at(era, &f), at(era, &f.with_sport(9)));
        }
    }

    #[test]
    fn vlan_srcmac_is_two_halves_and_the_tag() {
        assert_eq!(vlan_srcmac(&ETHER), 0x02_005e ^ 0x10_0011 ^ 0x64);
        assert_eq!(vlan_srcmac(&Ether { vlan: None, ..ETHER }), 0x02_005e ^ 0x10_0011);
    }

    #[test]
    fn no_slave_is_no_index() {
        assert_eq!(index(7, 0), None);
        assert_eq!(index(7, 4), Some(3));
    }

    #[test]
    fn numbers_read_back() {
        for era in Era::ALL {
            assert_eq!(Era::from_u32(era as u32), Some(era));
        }
        for n in 0..6 {
            assert_eq!(Policy::from_u32(n).map(|p| p as u32), Some(n));
        }
        assert_eq!(Era::from_u32(5), None);
        assert_eq!(Policy::from_u32(6), None);
    }
}
