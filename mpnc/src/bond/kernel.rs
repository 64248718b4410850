//! Which hash formula a kernel release has, and what else of a release decides where packets go.
//!
//! From reading trees of mainline, stable, Debian and Red Hat kernels. Must not know where the release string came
//! from.

use mpnc_ebpf::hash::Era;

/// What a release string says about the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHash {
    /// The most likely formula.
    pub era: Era,
    /// Another formula that gives other layer3+4 slaves and cannot be excluded (vendor backports of the shift).
    pub or: Option<Era>,
}

impl KernelHash {
    /// A formula that is known.
    pub const fn certain(era: Era) -> Self {
        Self { era, or: None }
    }

    const fn either(era: Era, or: Era) -> Self {
        Self { era, or: Some(or) }
    }

    /// From `uname -r`. A string that is no version is taken for a new kernel, with the formula before it in doubt.
    pub fn of_release(release: &str) -> Self {
        let Some(v) = Version::parse(release) else {
            return Self::either(Era::V5_18, Era::V3_13);
        };
        match (v.major, v.minor) {
            (0..=2, _) | (3, 0..=9 | 11..=12) => Self::certain(Era::Before3_13),
            (3, 10) => of_3_10(&v),
            (3, 13..) | (4, 0..=13) => of_unshifted(&v),
            (4, 14..) | (5, 0..=14) => Self::certain(Era::V4_14),
            (5, 15) if v.patch < 38 => Self::certain(Era::V5_15),
            (5, 16..=17) => Self::certain(Era::V5_15),
            _ => Self::certain(Era::V5_18),
        }
    }
}

/// Whether TCP over IPv6 puts a hop-by-hop header before its own in packets of more than 64 KiB, so that bonding finds
/// no ports in them: up to 6.19 (BIG TCP; `ip6_xmit`, net/ipv6/ip6_output.c, 6.12). A kernel without BIG TCP (before
/// 5.19) makes no such packets.
pub fn hides_ports_of_big_packets(release: &str) -> bool {
    Version::parse(release).is_some_and(|v| v.major < 7)
}

/// Whether programs can be put on a device's egress so that they go with their maker: tcx, from 6.6 on
/// (`tcx_link_attach`, kernel/bpf/tcx.c).
pub fn has_tcx(release: &str) -> bool {
    Version::parse(release).is_some_and(|v| (v.major, v.minor) >= (6, 6))
}

/// Whether each socket draws its next hop of an IPv6 multipath route where `fib_multipath_hash_policy` is 0, and may
/// draw anew after a timeout: from 7.2 on (`ip6_ecmp_set_mp_hash`, include/net/ipv6.h). Before, its addresses decide.
pub fn draws_next_hops_of_v6(release: &str) -> bool {
    Version::parse(release).is_some_and(|v| (v.major, v.minor) >= (7, 2))
}

/// 3.10: mainline has the oldest formula; Red Hat 7 has the new one, without the shift up to build 514 (7.3), with it
/// from 1127 (7.8).
fn of_3_10(v: &Version) -> KernelHash {
    match v.el7_build {
        None => KernelHash::certain(Era::Before3_13),
        Some(0..=514) => KernelHash::certain(Era::V3_13),
        Some(1127..) => KernelHash::certain(Era::V4_14),
        Some(_) => KernelHash::either(Era::V4_14, Era::V3_13),
    }
}

/// 3.13 to 4.13: no shift in mainline, but stable and vendor kernels of 4.4 and 4.9 took it over.
fn of_unshifted(v: &Version) -> KernelHash {
    match (v.major, v.minor, v.patch) {
        (4, 4, 121..) | (4, 9, 73..) => KernelHash::certain(Era::V4_14),
        // A patch level of 0 with a suffix is a distribution's own numbering.
        (4, 9, 1..=57) | (3, 18, 1..) => KernelHash::certain(Era::V3_13),
        (4, 4 | 9, _) => KernelHash::either(Era::V4_14, Era::V3_13),
        _ => KernelHash::either(Era::V3_13, Era::V4_14),
    }
}

struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    /// The build number of a Red Hat 7 kernel (`3.10.0-1160.el7.x86_64`).
    el7_build: Option<u32>,
}

impl Version {
    fn parse(release: &str) -> Option<Self> {
        let release = release.trim();
        let (numbers, rest) = release.split_once('-').unwrap_or((release, ""));
        let mut parts = numbers.split('.').map(leading_number);
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = parts.next().flatten().unwrap_or(0);
        let el7_build = rest.contains("el7").then(|| leading_number(rest).unwrap_or(0));
        Some(Self { major, minor, patch, el7_build })
    }
}

fn leading_number(s: &str) -> Option<u32> {
    let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    s[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_the_formula_that_their_source_shows() {
        let certain = [
            ("3.2.0-4-amd64", Era::Before3_13),
            ("3.10.105", Era::Before3_13),
            ("3.10.0-514.el7.x86_64", Era::V3_13),
            ("3.10.0-1160.105.1.el7.x86_64", Era::V4_14),
            ("3.18.140", Era::V3_13),
            ("4.4.121", Era::V4_14),
            ("4.9.57", Era::V3_13),
            ("4.9.73", Era::V4_14),
            ("4.14.0", Era::V4_14),
            ("4.18.0-147.el8.x86_64", Era::V4_14),
            ("5.10.0-32-cloud-amd64", Era::V4_14),
            ("5.15.32", Era::V5_15),
            ("5.15.38", Era::V5_18),
            ("5.17.0", Era::V5_15),
            ("5.18.0-rc1", Era::V5_18),
            ("6.1.0-26-amd64", Era::V5_18),
            ("6.18.44-fc-v669", Era::V5_18),
            ("7.2.13", Era::V5_18),
        ];
        for (release, era) in certain {
            assert_eq!(KernelHash::of_release(release), KernelHash::certain(era), "{release}");
        }
    }

    #[test]
    fn big_packets_lose_their_ports_before_7_0_and_next_hops_are_drawn_from_7_2_on() {
        let of = |release| (hides_ports_of_big_packets(release), draws_next_hops_of_v6(release));
        let found = ["6.19.3", "7.0.0", "7.2.13", "8.0"].map(of);
        assert_eq!(found, [(true, false), (false, false), (false, true), (false, true)]);
        assert_eq!(of("6.18.44-fc-v669"), (true, false));
        assert_eq!(of("?"), (false, false));
    }

    #[test]
    fn doubt_is_kept_where_vendors_backport() {
        for release in ["4.9.0-13-amd64", "4.4.0-210-generic", "4.9.60", "3.10.0-957.el7.x86_64"] {
            assert_eq!(KernelHash::of_release(release), KernelHash::either(Era::V4_14, Era::V3_13), "{release}");
        }
        assert_eq!(KernelHash::of_release("3.16.0-4-amd64").or, Some(Era::V4_14));
        for odd in ["", "x", "6", "six.one"] {
            assert!(KernelHash::of_release(odd).or.is_some(), "{odd}");
        }
    }
}
