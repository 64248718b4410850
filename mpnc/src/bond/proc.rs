//! Parsing `/proc/net/bonding/<bond>`: where a mount namespace hides sysfs, this page still has the slaves' order.
//!
//! Printed by `bond_info_seq_show` (`drivers/net/bonding/bond_procfs.c`). It lacks the slaves' active/backup state; in
//! 802.3ad the aggregator id stands in for it, in balance-xor every slave that is up is active.

use super::model::{Bond, Mii, Mode, Slave, SlaveState};
use super::sysfs;

/// Mode lines by their beginning, as `bond_mode_name` prints them.
const MODES: [(&str, Mode); 7] = [
    ("load balancing (round-robin)", Mode::RoundRobin),
    ("fault-tolerance (active-backup)", Mode::ActiveBackup),
    ("load balancing (xor)", Mode::Xor),
    ("fault-tolerance (broadcast)", Mode::Broadcast),
    ("IEEE 802.3ad Dynamic link aggregation", Mode::Ieee8023ad),
    ("transmit load balancing", Mode::Tlb),
    ("adaptive load balancing", Mode::Alb),
];

/// The bond on that page; `None` when it has no mode line. The policy is printed only in modes that use it.
pub fn bond(name: &str, text: &str) -> Option<Bond> {
    let mut bond = Bond {
        name: name.to_owned(),
        ifindex: 0,
        mode: mode(text)?,
        policy: None,
        dynamic_lb: true,
        aggregator: None,
        slaves: Vec::new(),
        ordered: true,
    };
    for (key, value) in text.lines().filter_map(|line| line.trim().split_once(':')) {
        let value = value.trim();
        match bond.slaves.last_mut() {
            None => bond_line(&mut bond, key, value),
            Some(slave) if key != "Slave Interface" => slave_line(slave, key, value),
            Some(_) => bond.slaves.push(new_slave(value)),
        }
    }
    Some(bond)
}

fn mode(text: &str) -> Option<Mode> {
    let line = text.lines().find_map(|l| l.strip_prefix("Bonding Mode:"))?.trim();
    MODES.iter().find(|(start, _)| line.starts_with(start)).map(|(_, m)| *m)
}

fn bond_line(bond: &mut Bond, key: &str, value: &str) {
    match key {
        // `layer3+4 (1)`
        "Transmit Hash Policy" => bond.policy = value.split_whitespace().next().and_then(sysfs::policy),
        "Aggregator ID" => bond.aggregator = sysfs::number(value),
        "Slave Interface" => bond.slaves.push(new_slave(value)),
        _ => {}
    }
}

fn slave_line(slave: &mut Slave, key: &str, value: &str) {
    match key {
        "MII Status" => slave.mii = sysfs::mii(value).unwrap_or(Mii::Down),
        "Aggregator ID" => slave.aggregator = sysfs::number(value),
        // `1000 Mbps`, `Unknown`
        "Speed" => slave.speed = value.strip_suffix(" Mbps").and_then(sysfs::speed),
        _ => {}
    }
}

fn new_slave(name: &str) -> Slave {
    Slave {
        name: name.to_owned(),
        ifindex: 0,
        state: SlaveState::Active,
        mii: Mii::Down,
        carrier: None,
        aggregator: None,
        lacp: None,
        speed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpnc_ebpf::hash::Policy;

    const PAGE: &str = "\
Ethernet Channel Bonding Driver: v6.1.0-26-amd64

Bonding Mode: IEEE 802.3ad Dynamic link aggregation
Transmit Hash Policy: layer3+4 (1)
MII Status: up
MII Polling Interval (ms): 100

802.3ad info
LACP active: on
Aggregator selection policy (ad_select): stable
Active Aggregator Info:
\tAggregator ID: 1
\tNumber of ports: 2
\tActor Key: 15

Slave Interface: a2
MII Status: up
Speed: 10000 Mbps
Duplex: full
Aggregator ID: 1
details actor lacp pdu:
    port number: 1

Slave Interface: a1
MII Status: up
Speed: Unknown
Aggregator ID: 1

Slave Interface: a3
MII Status: down
Aggregator ID: 2
";

    #[test]
    fn page_gives_order_mode_and_aggregator() {
        let b = bond("bond0", PAGE).unwrap();
        assert_eq!((b.mode, b.policy, b.aggregator), (Mode::Ieee8023ad, Some(Policy::Layer34), Some(1)));
        let all: Vec<_> = b.slaves.iter().map(|s| (s.name.as_str(), s.mii, s.speed)).collect();
        assert_eq!(all, [("a2", Mii::Up, Some(10_000)), ("a1", Mii::Up, None), ("a3", Mii::Down, None)]);
        assert_eq!(b.usable().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a2", "a1"]);
    }

    #[test]
    fn a_policy_of_a_later_kernel_is_none_that_is_known() {
        let page = PAGE.replace("layer3+4 (1)", "layer5+6 (9)");
        assert_eq!(bond("bond0", &page).unwrap().policy, None);
    }

    #[test]
    fn every_mode_is_known_and_other_text_is_none() {
        for (line, mode) in MODES {
            assert_eq!(bond("b", &format!("Bonding Mode: {line} (fail_over_mac active)\n")).unwrap().mode, mode);
        }
        assert_eq!(bond("b", "Bonding Mode: unknown\n"), None);
        assert_eq!(bond("b", ""), None);
    }
}
