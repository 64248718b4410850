//! One description of a test network: two hosts, their bonds, the switch between them. Real bonds in a virtual machine
//! and the stand-in for them on a machine without the bonding module are both built from it. Runs no command itself.

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::units::BitRate;

/// The `[topology]` table of a scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Topology {
    /// Links of each host's bond.
    pub slaves: usize,
    /// Rate of each link.
    pub rate: BitRate,
    /// Rates of the links, first to last, where they differ; overrides `rate`.
    pub rates: Vec<BitRate>,
    /// Links of the second host's bond, where it has another number of them.
    pub receiver_slaves: Option<usize>,
    /// Rate of each of the second host's links, where it is another.
    pub receiver_rate: Option<BitRate>,
    /// The hosts' links take packets in through receive queues (NAPI), as network cards do, so that the kernel
    /// remembers the queue.
    pub gro: bool,
    /// Bonding mode of the hosts. The switch's side follows from it.
    pub mode: Mode,
    /// `xmit_hash_policy` of the hosts' bonds.
    pub policy: String,
    /// `xmit_hash_policy` of the switch's bonds.
    pub switch_policy: String,
    /// Extra options of the hosts' bonds, as `ip link add type bond` takes them: "`tlb_dynamic_lb` 0".
    pub bond_options: String,
    /// Which addresses the hosts have.
    pub family: Family,
    /// What lies on top of each bond and bears the address.
    pub stack: Stack,
    /// MTU of links and bonds, in bytes.
    pub mtu: u32,
    /// Sizes of the aggregators into which the switch cuts the first host's bond; empty means one. The largest is the
    /// active one.
    pub aggregators: Vec<usize>,
    /// What the network in the middle does to the first host's address and ports.
    pub nat: Nat,
    /// The first host has no bond: its links are the next hops of one multipath route, with this
    /// `fib_multipath_hash_policy`.
    pub multipath: Option<u32>,
    /// `tc netem` settings of every link in both directions: "delay 20ms 5ms loss 1%". Empty means none.
    pub netem: String,
    /// The second host accepts new connections to the one port only.
    pub firewall: bool,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            slaves: 4,
            rate: BitRate(50_000_000),
            rates: Vec::new(),
            receiver_slaves: None,
            receiver_rate: None,
            gro: false,
            mode: Mode::Lacp,
            policy: "layer3+4".to_owned(),
            switch_policy: "layer3+4".to_owned(),
            bond_options: String::new(),
            family: Family::Ipv4,
            stack: Stack::Plain,
            mtu: 1500,
            aggregators: Vec::new(),
            nat: Nat::None,
            multipath: None,
            netem: String::new(),
            firewall: false,
        }
    }
}

/// A bonding mode, by the kernel's own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Mode {
    /// LACP; the switch answers with LACP.
    #[serde(rename = "802.3ad")]
    Lacp,
    /// Static aggregation; the switch has a static group.
    #[serde(rename = "balance-xor")]
    Xor,
    /// Packet by packet; the switch has a static group.
    #[serde(rename = "balance-rr")]
    RoundRobin,
    /// Every frame on every slave; the switch has a static group.
    #[serde(rename = "broadcast")]
    Broadcast,
    /// One slave at a time; plain ports on the switch.
    #[serde(rename = "active-backup")]
    ActiveBackup,
    /// Transmit balancing by the host; plain ports on the switch.
    #[serde(rename = "balance-tlb")]
    Tlb,
    /// Transmit and receive balancing by the host; plain ports on the switch.
    #[serde(rename = "balance-alb")]
    Alb,
}

impl Mode {
    /// The name that `ip link add type bond mode` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lacp => "802.3ad",
            Self::Xor => "balance-xor",
            Self::RoundRobin => "balance-rr",
            Self::Broadcast => "broadcast",
            Self::ActiveBackup => "active-backup",
            Self::Tlb => "balance-tlb",
            Self::Alb => "balance-alb",
        }
    }

    /// What the switch groups the same links into; none where the host's mode wants plain ports.
    pub fn switch_side(self) -> Option<Self> {
        match self {
            Self::Lacp => Some(Self::Lacp),
            Self::Xor | Self::RoundRobin | Self::Broadcast => Some(Self::Xor),
            Self::ActiveBackup | Self::Tlb | Self::Alb => None,
        }
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// The devices between the bond and the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stack {
    /// The address is on the bond.
    Plain,
    /// On VLAN 100 of the bond.
    Vlan,
    /// The same, with `reorder_hdr off`.
    VlanRaw,
    /// On a bridge that has the bond as a port, as hypervisors do.
    Bridge,
    /// On a bridge over VLAN 100 of the bond.
    VlanBridge,
    /// On a macvlan of the bond.
    Macvlan,
    /// On VLAN 200 inside VLAN 100: the kernel's hash then sees no ports.
    Qinq,
}

/// Address translation between the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// The hosts share a network.
    None,
    /// The middle routes and masquerades; ports stay as they are where possible.
    Masquerade,
    /// The middle routes, masquerades and draws new ports.
    MasqueradeRandom,
}

/// A place in which commands run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The first host: its bond's slaves are a1, a2, ... (one device a0 in the stand-in).
    A,
    /// The second host, with b1, b2, ... (b0).
    B,
    /// The switch: sa1, sb1, ... are the other ends. Not in the stand-in.
    Sw,
}

impl Topology {
    /// The rate of each link, first to last.
    pub fn link_rates(&self) -> Vec<BitRate> {
        if self.rates.is_empty() { vec![self.rate; self.slaves] } else { self.rates.clone() }
    }

    /// The same for the links of one host.
    pub fn link_rates_of(&self, place: Place) -> Vec<BitRate> {
        let own = self.link_rates();
        match (place, self.receiver_slaves, self.receiver_rate) {
            (Place::B, slaves, Some(rate)) => vec![rate; slaves.unwrap_or(self.slaves)],
            (Place::B, Some(slaves), None) => vec![self.rate; slaves],
            _ => own,
        }
    }

    /// Links of one host.
    pub fn slaves_of(&self, place: Place) -> usize {
        self.link_rates_of(place).len()
    }

    /// Which of the first host's links (counted from 0) can carry its data: all, or those of the largest aggregator.
    pub fn usable(&self) -> Vec<usize> {
        let mut first = 0;
        let mut best = 0..self.slaves;
        let mut largest = 0;
        for &size in &self.aggregators {
            if size > largest {
                (largest, best) = (size, first..first + size);
            }
            first += size;
        }
        best.collect()
    }

    /// The address of a host. The two differ in more than their last bytes: the hash must be put to the test.
    pub fn address(&self, place: Place) -> &'static str {
        match (place, self.family, self.is_routed()) {
            (Place::A, Family::Ipv4, _) => "10.77.19.1",
            (Place::A, Family::Ipv6, _) => "fd77::1:a3:1",
            (_, Family::Ipv4, false) => "10.77.84.2",
            (_, Family::Ipv6, false) => "fd77::9c:2:2",
            (_, Family::Ipv4, _) => "10.78.84.2",
            (_, Family::Ipv6, _) => "fd78::9c:2:2",
        }
    }

    /// Whether the middle routes between the hosts' networks, rather than to join them in one.
    pub fn is_routed(&self) -> bool {
        self.nat != Nat::None || self.multipath.is_some()
    }

    /// Refuses what cannot be built.
    ///
    /// # Errors
    /// With the rule that the description breaks.
    pub fn check(&self) -> Result<()> {
        ensure!((1..=16).contains(&self.slaves), "slaves = {}: from 1 to 16", self.slaves);
        ensure!(
            self.rates.is_empty() || self.rates.len() == self.slaves,
            "`rates` has {} entries for {} slaves",
            self.rates.len(),
            self.slaves
        );
        ensure!(self.link_rates().iter().all(|rate| rate.0 > 0), "a link's rate must be above 0");
        let cut: usize = self.aggregators.iter().sum();
        ensure!(
            self.aggregators.is_empty() || cut == self.slaves,
            "`aggregators` add up to {cut}, not to {} slaves",
            self.slaves
        );
        ensure!(self.aggregators.is_empty() || self.mode == Mode::Lacp, "`aggregators` need mode 802.3ad");
        ensure!(
            self.receiver_slaves.is_none_or(|slaves| (1..=16).contains(&slaves)),
            "`receiver-slaves`: from 1 to 16"
        );
        ensure!(
            self.rates.is_empty() || self.receiver_slaves.is_none(),
            "`rates` are those of both hosts' links: with `receiver-slaves` use `rate` and `receiver-rate`"
        );
        ensure!(!self.is_routed() || self.family == Family::Ipv4, "`nat` and `multipath` need IPv4");
        ensure!(self.nat == Nat::None || self.multipath.is_none(), "either `nat` or `multipath`");
        let plain = self.stack == Stack::Plain && self.aggregators.is_empty();
        ensure!(self.multipath.is_none() || plain, "`multipath` means no bond: no `stack`, no `aggregators`");
        Ok(())
    }

    /// Refuses what the stand-in cannot be: it has one device on each host, and hashes as layer3+4 does.
    ///
    /// # Errors
    /// Names the setting that needs a real bond.
    pub fn check_stand_in(&self) -> Result<()> {
        self.check()?;
        let usual = Self::default();
        let needs = |setting: &str, plain: bool| {
            ensure!(plain, "`{setting}` needs a real bond: give `kernels`, not `native`");
            Ok(())
        };
        needs("mode", self.mode == usual.mode)?;
        needs("policy", self.policy == usual.policy)?;
        needs("switch-policy", self.switch_policy == usual.switch_policy)?;
        needs("stack", self.stack == usual.stack)?;
        needs("nat", self.nat == usual.nat)?;
        needs("multipath", self.multipath.is_none())?;
        needs("receiver-slaves", self.receiver_slaves.is_none() && self.receiver_rate.is_none())?;
        needs("gro", !self.gro)?;
        needs("netem", self.netem.is_empty())?;
        needs("aggregators", self.aggregators.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Topology {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_largest_aggregator_is_the_usable_one() {
        assert_eq!(read("slaves = 3").usable(), [0, 1, 2]);
        assert_eq!(read("slaves = 4\naggregators = [1, 3]").usable(), [1, 2, 3]);
    }

    #[test]
    fn the_second_host_may_have_other_links() {
        let rates = |text: &str| read(text).link_rates_of(Place::B).iter().map(|rate| rate.0).collect::<Vec<_>>();
        assert_eq!(rates("slaves = 2\nrate = '1mbit'"), [1_000_000; 2]);
        assert_eq!(rates("slaves = 1\nrate = '3mbit'\nreceiver-slaves = 3\nreceiver-rate = '1mbit'"), [1_000_000; 3]);
        assert_eq!(read("slaves = 1\nreceiver-slaves = 3").slaves_of(Place::A), 1);
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        assert!(read("slaves = 0").check().is_err());
        assert!(read("slaves = 4\nrates = ['1gbit']").check().is_err());
        assert!(read("slaves = 4\naggregators = [1, 2]").check().is_err());
        assert!(read("mode = 'balance-xor'").check_stand_in().unwrap_err().to_string().contains("`mode`"));
        assert!(read("slaves = 4").check_stand_in().is_ok());
        assert!(toml::from_str::<Topology>("slavs = 4").is_err());
    }
}
