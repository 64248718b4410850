//! Parsing the attributes under `/sys/class/net/<bond>/bonding` and `/sys/class/net/<slave>/bonding_slave`.
//!
//! Text to values only; which file it came from is the caller's affair. `None` means: not in a form that bonding
//! prints.

use mpnc_ebpf::hash::Policy;

use super::model::{Mii, Mode, SlaveState, policy_named};

/// `bonding/mode`: `802.3ad 4`.
pub fn mode(text: &str) -> Option<Mode> {
    Mode::from_number(last_number(text)?)
}

/// `bonding/xmit_hash_policy`: `layer3+4 1`. Kernels newer than this program may print a name only we do not know.
pub fn policy(text: &str) -> Option<Policy> {
    match last_number(text) {
        Some(n) => Policy::from_u32(u32::from(n)),
        None => policy_named(text.trim()),
    }
}

/// `bonding/slaves`: names in enslave order. Over a page long, the kernel ends the list with `++more++` (never seen).
pub fn slaves(text: &str) -> Vec<&str> {
    // Names may hold blanks that only Unicode knows.
    text.split_ascii_whitespace().filter(|name| *name != "++more++").collect()
}

/// `bonding/ad_aggregator`, `bonding_slave/ad_aggregator_id`: a number, or empty.
pub fn number(text: &str) -> Option<u16> {
    text.trim().parse().ok()
}

/// `bonding/tlb_dynamic_lb`: `0` or `1`.
pub fn flag(text: &str) -> Option<bool> {
    match text.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// `bonding_slave/state`.
pub fn state(text: &str) -> Option<SlaveState> {
    [SlaveState::Active, SlaveState::Backup].into_iter().find(|s| s.name() == text.trim())
}

/// `bonding_slave/mii_status`.
pub fn mii(text: &str) -> Option<Mii> {
    [Mii::Up, Mii::GoingDown, Mii::Down, Mii::GoingBack].into_iter().find(|m| m.name() == text.trim())
}

/// `/sys/class/net/<slave>/speed`, Mbit/s. `-1` (or a read error) while the link is down or the device is virtual.
pub fn speed(text: &str) -> Option<u32> {
    text.trim()
        .parse::<i64>()
        .ok()
        .and_then(|mbit| u32::try_from(mbit).ok())
        .filter(|mbit| *mbit > 0 && *mbit != u32::MAX)
}

fn last_number(text: &str) -> Option<u8> {
    text.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_as_kernels_print_them() {
        assert_eq!(mode("802.3ad 4\n"), Some(Mode::Ieee8023ad));
        assert_eq!(mode("balance-rr 0\n"), Some(Mode::RoundRobin));
        assert_eq!(policy("layer3+4 1\n"), Some(Policy::Layer34));
        assert_eq!(policy("vlan+srcmac 5\n"), Some(Policy::VlanSrcmac));
        assert_eq!(policy("layer2\n"), Some(Policy::Layer2));
        assert_eq!(slaves("d3 d2 d1\n"), ["d3", "d2", "d1"]);
        assert_eq!(slaves("a ++more++ \n"), ["a"]);
        assert_eq!(slaves("\n"), [""; 0]);
        assert_eq!(number("3\n"), Some(3));
        assert_eq!(flag("0\n"), Some(false));
        assert_eq!(state("backup\n"), Some(SlaveState::Backup));
        assert_eq!(mii("going down\n"), Some(Mii::GoingDown));
        assert_eq!(speed("10000\n"), Some(10_000));
    }

    #[test]
    fn what_kernels_do_not_print_is_none() {
        assert_eq!(mode(""), None);
        assert_eq!(mode("new-mode 9\n"), None);
        assert_eq!(policy("layer9 9\n"), None);
        assert_eq!(number("\n"), None);
        assert_eq!(flag("yes"), None);
        assert_eq!(state(""), None);
        for down in ["-1\n", "0\n", "4294967295\n", ""] {
            assert_eq!(speed(down), None);
        }
    }
}
