//! The source ports that streams may use, the lane that each names, and the text forms they come in.
//!
//! Below the ephemeral range nobody's automatic binds take ports away, and hundreds of candidates remain for each slave
//! and lane. Must not know which port leads to which slave, nor where the sysctls were read.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Lanes that a source port can name: bits 1 to 5.
pub const LANES: u16 = 32;
/// Ports below this are left alone whatever the system allows: firewalls drop them as sources.
const LOWEST: u16 = 1024;
/// With fewer ports than this below the ephemeral range, those above it are taken too: 64 streams over 16 slaves in 32
/// lanes find about eight candidates each among 4096.
const ENOUGH: usize = 4096;

/// The lane that a source port names: the receiver's steering takes its worker from it.
pub const fn lane_of(port: u16) -> u16 {
    (port >> 1) % LANES
}

/// A set of source ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPool {
    /// Inclusive, ascending, apart.
    ranges: Vec<(u16, u16)>,
    stated: bool,
}

/// A port range that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PoolError {
    /// Not of the form `LO-HI`.
    #[error("'{0}' is no port range: give it as LO-HI, for example 20000-29999, or as one port")]
    Form(String),
    /// Upside down or with port 0.
    #[error("the port range {0}-{1} is empty: the first port must be at least 1 and no more than the last")]
    Empty(u16, u16),
}

impl PortPool {
    /// Exactly the ports that a person gave (`-p LO-HI`).
    pub fn stated(lo: u16, hi: u16) -> Result<Self, PoolError> {
        if lo == 0 || lo > hi {
            return Err(PoolError::Empty(lo, hi));
        }
        Ok(Self { ranges: vec![(lo, hi)], stated: true })
    }

    /// From the system's settings: `ip_unprivileged_port_start`, `ip_local_port_range`, `ip_local_reserved_ports`.
    ///
    /// The ports below the ephemeral range; where the administrator left few of them, those above as well, and in need
    /// the ephemeral ones too (a port in use then costs one more try).
    pub fn of_system(unprivileged: u16, ephemeral: (u16, u16), reserved: &[(u16, u16)]) -> Self {
        let lowest = unprivileged.max(LOWEST);
        let below = (lowest, ephemeral.0.saturating_sub(1));
        let above = (ephemeral.1.saturating_add(1).max(lowest), u16::MAX);
        let mut ranges = vec![below];
        if ephemeral.1 < u16::MAX {
            ranges.push(above);
        }
        let first = Self::without(vec![below], reserved);
        if first.len() >= ENOUGH {
            return first;
        }
        let both = Self::without(ranges, reserved);
        if both.len() >= ENOUGH { both } else { Self::without(vec![(lowest, u16::MAX)], reserved) }
    }

    /// The kernel's own range, for where filters let answers in to that alone; a port in use then costs one more try.
    pub fn of_kernel(ephemeral: (u16, u16), reserved: &[(u16, u16)]) -> Self {
        Self::without(vec![ephemeral], reserved)
    }

    fn without(ranges: Vec<(u16, u16)>, reserved: &[(u16, u16)]) -> Self {
        let mut left = ranges;
        for &(from, to) in reserved {
            left = left.into_iter().flat_map(|range| cut(range, from, to)).flatten().collect();
        }
        left.retain(|(lo, hi)| lo <= hi);
        Self { ranges: left, stated: false }
    }

    /// All ports, ascending.
    pub fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|&(lo, hi)| lo..=hi)
    }

    /// The largest range of it, in the form that `-p` takes.
    pub fn widest(&self) -> String {
        let widest = self.ranges.iter().max_by_key(|(lo, hi)| hi - lo);
        widest.map_or_else(|| "none".to_owned(), |(lo, hi)| format!("{lo}-{hi}"))
    }

    /// How many ports there are.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(|&(lo, hi)| usize::from(hi - lo) + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether a person asked for these ports: then no others will do.
    pub fn is_stated(&self) -> bool {
        self.stated
    }

    /// Whether the port belongs to the pool.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|&(lo, hi)| (lo..=hi).contains(&port))
    }
}

/// What is left of a range below and above the ports cut out.
fn cut((lo, hi): (u16, u16), from: u16, to: u16) -> [Option<(u16, u16)>; 2] {
    if to < lo || from > hi || lo > hi {
        return [Some((lo, hi)), None];
    }
    let below = (from > lo).then(|| (lo, from - 1));
    let above = (to < hi).then(|| (to + 1, hi));
    [below, above]
}

impl fmt::Display for PortPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("none");
        }
        for (i, (lo, hi)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{lo}")?;
            if hi > lo {
                write!(f, "-{hi}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for PortPool {
    type Err = PoolError;

    fn from_str(s: &str) -> Result<Self, PoolError> {
        let (lo, hi) = range(s).ok_or_else(|| PoolError::Form(s.to_owned()))?;
        Self::stated(lo, hi)
    }
}

/// `ip_local_port_range`: two numbers, blank between.
pub fn parse_ephemeral(text: &str) -> Option<(u16, u16)> {
    let (lo, hi) = text.trim().split_once(|c: char| c.is_ascii_whitespace())?;
    let (lo, hi) = (lo.parse().ok()?, hi.trim().parse().ok()?);
    (lo <= hi).then_some((lo, hi))
}

/// `ip_local_reserved_ports`: `8080,9148-9150`, or empty. Parts that are no range are left out.
pub fn parse_reserved(text: &str) -> Vec<(u16, u16)> {
    text.trim().split(',').filter_map(range).collect()
}

fn range(s: &str) -> Option<(u16, u16)> {
    let s = s.trim();
    let (lo, hi) = s.split_once('-').unwrap_or((s, s));
    Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(unprivileged: u16, ephemeral: (u16, u16), reserved: &str) -> String {
        PortPool::of_system(unprivileged, ephemeral, &parse_reserved(reserved)).to_string()
    }

    #[test]
    fn system_pool_lies_below_the_ephemeral_range() {
        assert_eq!(shown(1024, (32768, 60999), ""), "1024-32767");
        assert_eq!(shown(0, (32768, 60999), ""), "1024-32767");
        assert_eq!(shown(2000, (32768, 60999), "2049,6000-6063\n"), "2000-2048,2050-5999,6064-32767");
        assert_eq!(shown(1024, (32768, 60999), "1-1024,32767-33000"), "1025-32766");
    }

    #[test]
    fn a_wide_ephemeral_range_opens_the_ports_above_and_then_all() {
        assert_eq!(shown(1024, (2000, 50000), ""), "1024-1999,50001-65535");
        assert_eq!(shown(1024, (1024, 65535), ""), "1024-65535");
        assert_eq!(shown(1024, (1024, 65535), "5000"), "1024-4999,5001-65535");
    }

    #[test]
    fn len_and_contains_follow_the_ranges() {
        let pool = PortPool::of_system(1024, (32768, 60999), &[(2049, 2049)]);
        assert_eq!(pool.len(), pool.ports().count());
        assert_eq!(pool.len(), 31743);
        assert!(pool.contains(2048) && !pool.contains(2049) && !pool.contains(1023));
    }

    #[test]
    fn stated_ranges_are_checked() {
        assert_eq!("20000-29999".parse::<PortPool>().unwrap().len(), 10000);
        assert_eq!("20000".parse::<PortPool>().unwrap().to_string(), "20000");
        assert_eq!("9-8".parse::<PortPool>(), Err(PoolError::Empty(9, 8)));
        assert_eq!("0-8".parse::<PortPool>(), Err(PoolError::Empty(0, 8)));
        for bad in ["", "a-b", "1-", "1-70000", "-5"] {
            assert_eq!(bad.parse::<PortPool>(), Err(PoolError::Form(bad.into())), "{bad}");
        }
    }

    #[test]
    fn sysctl_texts() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(parse_ephemeral("60999 32768"), None);
        assert_eq!(parse_ephemeral("32768"), None);
        assert_eq!(parse_reserved("\n"), []);
        assert_eq!(parse_reserved("80,1000-2000"), [(80, 80), (1000, 2000)]);
    }
}
