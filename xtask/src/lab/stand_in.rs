//! The stand-in for a bond where the kernel has no bonding module: one pair of devices, on each end a class of traffic
//! per "slave", chosen per packet by the bond's own hash. Knows nothing of mpnc, which is told `--slaves N`.

use anyhow::{Context, Result};

use super::classifier;
use super::netns::Namespace;
use super::topology::{Family, Place, Topology};
use super::units::BitRate;

/// Two hosts, each with one device (a0, b0) that behaves as a bond towards TCP.
#[derive(Debug)]
pub struct StandIn {
    slaves: usize,
    a: Namespace,
    b: Namespace,
}

impl StandIn {
    /// Builds it.
    ///
    /// # Errors
    /// When a tool fails, or the topology asks for what only a real bond has.
    pub fn build(topology: &Topology) -> Result<Self> {
        topology.check_stand_in()?;
        let lab = Self { slaves: topology.slaves, a: Namespace::new("a")?, b: Namespace::new("b")? };
        let mtu = topology.mtu;
        lab.a.ip(&format!("link add a0 mtu {mtu} type veth peer name b0 mtu {mtu} netns {}", lab.b.name()))?;
        for (place, device) in [(Place::A, "a0"), (Place::B, "b0")] {
            let host = lab.namespace(place);
            let address = topology.address(place);
            match topology.family {
                Family::Ipv4 => host.ip(&format!("address add {address}/16 dev {device}"))?,
                Family::Ipv6 => host.ip(&format!("address add {address}/64 dev {device} nodad"))?,
            };
            host.tc(&format!("qdisc add dev {device} root handle 1: htb default 1"))?;
            for (slave, rate) in topology.link_rates().into_iter().enumerate() {
                host.tc(&format!("class add dev {device} parent 1: {}", class(slave, rate)))?;
            }
            let code = classifier::bytecode(&classifier::program(u32::try_from(topology.slaves)?));
            let filter = format!("filter add dev {device} parent 1: protocol all prio 1 bpf bytecode")
                .split(' ')
                .map(str::to_owned)
                .collect::<Vec<_>>();
            let mut command = std::process::Command::new("tc");
            super::command::capture(command.args(["-n", host.name()]).args(filter).arg(code))?;
            host.ip(&format!("link set {device} up"))?;
        }
        Ok(lab)
    }

    /// The namespace of a place.
    pub fn namespace(&self, place: Place) -> &Namespace {
        if place == Place::B { &self.b } else { &self.a }
    }

    /// Bytes sent and received by each "slave" of a host.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn counters(&self, place: Place) -> Result<Vec<(u64, u64)>> {
        let sent = [(&self.a, "a0"), (&self.b, "b0")].map(|(host, device)| {
            let table = host.tc(&format!("-s class show dev {device}"))?;
            (0..self.slaves).map(|slave| sent_by_class(&table, slave)).collect::<Result<Vec<u64>>>()
        });
        let [a, b] = sent;
        let (own, other) = if place == Place::B { (b?, a?) } else { (a?, b?) };
        Ok(own.into_iter().zip(other).collect())
    }

    /// Sets the rate of one "slave" (counted from 0), in both directions.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn set_rate(&self, slave: usize, rate: BitRate) -> Result<()> {
        for (host, device) in [(&self.a, "a0"), (&self.b, "b0")] {
            host.tc(&format!("class change dev {device} parent 1: {}", class(slave, rate)))?;
        }
        Ok(())
    }
}

/// The quantum only matters when classes compete for their parent; here it keeps `tc` from warning.
fn class(slave: usize, rate: BitRate) -> String {
    format!("classid 1:{:x} htb rate {rate} ceil {rate} quantum 60000", slave + 1)
}

/// The bytes that a class has sent, from the text of `tc -s class show`.
fn sent_by_class(table: &str, slave: usize) -> Result<u64> {
    let head = format!("class htb 1:{:x} ", slave + 1);
    let mut lines = table.lines().skip_while(|line| !line.starts_with(&head));
    let sent = lines.nth(1).and_then(|line| line.trim().strip_prefix("Sent ")?.split(' ').next()?.parse().ok());
    sent.with_context(|| format!("`tc -s class show` names no bytes of class 1:{:x}:\n{table}", slave + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_counters_are_read() {
        let table = "class htb 1:1 root prio 0 rate 1Gbit \n Sent 77 bytes 4 pkt (dropped 0)\n backlog 0b\n\n\
            class htb 1:10 root prio 0\n Sent 5 bytes 1 pkt\n";
        assert_eq!(sent_by_class(table, 0).unwrap(), 77);
        assert_eq!(sent_by_class(table, 15).unwrap(), 5);
        assert!(sent_by_class(table, 1).is_err());
    }
}
