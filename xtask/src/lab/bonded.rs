//! Builds a topology out of real bonds, in namespaces of a kernel that has the bonding module (the virtual machine's).
//! Reads and changes nothing outside its namespaces.

use std::time::Duration;

use anyhow::{Context, Result};

use super::netns::Namespace;
use super::topology::{Family, Mode, Nat, Place, Stack, Topology};
use super::units::BitRate;

/// Aggregation, synchronisation, collecting, distributing: the bits of a LACP port state that carry data (IEEE
/// 802.3ad).
const LACP_WORKING: u32 = 0x3c;

/// Two hosts with bonds and the switch between them.
#[derive(Debug)]
pub struct Bonded {
    topology: Topology,
    a: Namespace,
    b: Namespace,
    sw: Namespace,
}

impl Bonded {
    /// Builds everything and waits until both bonds carry data.
    ///
    /// # Errors
    /// When a tool fails, or LACP does not settle in time.
    pub fn build(topology: &Topology) -> Result<Self> {
        topology.check()?;
        let lab = Self {
            topology: topology.clone(),
            a: Namespace::new("a")?,
            b: Namespace::new("b")?,
            sw: Namespace::new("sw")?,
        };
        for (side, host) in [("a", &lab.a), ("b", &lab.b)] {
            lab.links(side, host)?;
            match topology.multipath.filter(|_| side == "a") {
                Some(policy) => lab.multipath(policy)?,
                None => lab.host(side, host)?,
            }
        }
        lab.switch()?;
        lab.shape()?;
        lab.settle().with_context(|| format!("the bonds did not come to work together: {}", lab.lacp_state()))?;
        Ok(lab)
    }

    /// The namespace of a place.
    pub fn namespace(&self, place: Place) -> &Namespace {
        match place {
            Place::A => &self.a,
            Place::B => &self.b,
            Place::Sw => &self.sw,
        }
    }

    /// Bytes sent and received by each slave of a host since it was made, frame headers included.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn counters(&self, place: Place) -> Result<Vec<(u64, u64)>> {
        let table = self.namespace(place).proc_net("dev")?;
        let side = side(place);
        (1..=self.topology.slaves_of(place)).map(|i| device(&table, &format!("{side}{i}"))).collect()
    }

    /// Sets the rate of one link (counted from 0), in both directions.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn set_rate(&self, slave: usize, rate: BitRate) -> Result<()> {
        for side in ["a", "b"] {
            let (place, host) = if side == "a" { (Place::A, &self.a) } else { (Place::B, &self.b) };
            if slave >= self.topology.slaves_of(place) {
                continue;
            }
            host.tc(&format!("qdisc change dev {side}{} {}", slave + 1, bucket(rate)))?;
            self.sw.tc(&format!("qdisc change dev s{side}{} {}", slave + 1, bucket(rate)))?;
        }
        Ok(())
    }

    fn links(&self, side: &str, host: &Namespace) -> Result<()> {
        let (here, there, mtu) = (host.name(), self.sw.name(), self.topology.mtu);
        for i in 1..=self.topology.slaves_of(of_side(side)) {
            self.sw.ip(&format!(
                "link add s{side}{i} mtu {mtu} netns {there} type veth peer name {side}{i} mtu {mtu} netns {here}"
            ))?;
            if self.topology.gro {
                host.shell(&format!("ethtool -K {side}{i} gro on"))?;
                // What a veth's other end may send whole goes around the queue.
                self.sw.shell(&format!("ethtool -K s{side}{i} tso off"))?;
            }
        }
        Ok(())
    }

    /// The host's bond, what lies on it, and the address.
    fn host(&self, side: &str, host: &Namespace) -> Result<()> {
        let topology = &self.topology;
        let place = of_side(side);
        let slaves: Vec<String> = (1..=topology.slaves_of(place)).map(|i| format!("{side}{i}")).collect();
        // The kernel's default keeps the first aggregator that formed; here the larger one must win.
        let select = if topology.aggregators.is_empty() { "" } else { "ad_select count" };
        let options = format!("{} {select}", topology.bond_options);
        bond(host, "bond0", topology.mode, &topology.policy, &options, &slaves)?;
        let top = stack(host, topology.stack, topology.mtu)?;
        let address = topology.address(place);
        match topology.family {
            Family::Ipv4 => host.ip(&format!("address add {address}/16 dev {top}"))?,
            Family::Ipv6 => host.ip(&format!("address add {address}/64 dev {top} nodad"))?,
        };
        if topology.is_routed() {
            let network = if side == "a" { "10.77" } else { "10.78" };
            host.ip(&format!("route add default via {network}.255.254"))?;
        }
        Ok(())
    }

    /// The first host without a bond: an address of its own, and a route with every link as a next hop, in either
    /// direction.
    fn multipath(&self, policy: u32) -> Result<()> {
        let (host, here, there) = (&self.a, self.topology.address(Place::A), self.topology.address(Place::B));
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for i in 1..=self.topology.slaves_of(Place::A) {
            host.ip(&format!("address add 10.79.{i}.1/24 dev a{i}"))?;
            host.ip(&format!("link set a{i} up"))?;
            self.sw.ip(&format!("address add 10.79.{i}.254/24 dev sa{i}"))?;
            self.sw.ip(&format!("link set sa{i} up"))?;
            out.push(format!("nexthop via 10.79.{i}.254 dev a{i}"));
            back.push(format!("nexthop via 10.79.{i}.1 dev sa{i}"));
        }
        host.ip(&format!("address add {here}/32 dev lo"))?;
        host.ip(&format!("route add {there} src {here} {}", out.join(" ")))?;
        self.sw.ip(&format!("route add {here} {}", back.join(" ")))?;
        host.shell(&format!("echo {policy} > /proc/sys/net/ipv4/fib_multipath_hash_policy")).map(drop)
    }

    /// The switch's ends of the links: grouped as the hosts' mode wants it, all in one bridge, or routed where there is
    /// NAT.
    fn switch(&self) -> Result<()> {
        let topology = &self.topology;
        let sides: &[&str] = if topology.multipath.is_some() { &["b"] } else { &["a", "b"] };
        for &side in sides {
            let bridge = if topology.is_routed() { format!("br{side}") } else { "br0".to_owned() };
            if side == "a" || topology.is_routed() {
                self.sw.ip(&format!(
                    "link add {bridge} mtu {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                    topology.mtu
                ))?;
                self.sw.ip(&format!("link set {bridge} up"))?;
            }
            let cut = if side == "a" && !topology.aggregators.is_empty() {
                topology.aggregators.as_slice()
            } else {
                &[topology.slaves_of(of_side(side))]
            };
            let mut first = 1;
            for (group, size) in cut.iter().enumerate() {
                let ports: Vec<String> = (first..first + size).map(|i| format!("s{side}{i}")).collect();
                first += size;
                match topology.mode.switch_side() {
                    Some(mode) => {
                        let name = format!("sw{side}{group}");
                        bond(&self.sw, &name, mode, &topology.switch_policy, "", &ports)?;
                        self.sw.ip(&format!("link set {name} master {bridge}"))?;
                    }
                    None => ports.iter().try_for_each(|port| {
                        self.sw.ip(&format!("link set {port} master {bridge}"))?;
                        self.sw.ip(&format!("link set {port} up")).map(drop)
                    })?,
                }
            }
        }
        if topology.is_routed() { self.route() } else { Ok(()) }
    }

    fn route(&self) -> Result<()> {
        self.sw.ip("address add 10.78.255.254/16 dev brb")?;
        self.sw.shell("echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        if self.topology.nat == Nat::None {
            return Ok(());
        }
        self.sw.ip("address add 10.77.255.254/16 dev bra")?;
        let draw = if self.topology.nat == Nat::MasqueradeRandom { "fully-random" } else { "" };
        self.sw.shell(&format!(
            "nft 'table ip nat {{ chain out {{ type nat hook postrouting priority 100; oifname \"brb\" masquerade \
             {draw}; }}; }}'"
        ))?;
        Ok(())
    }

    /// The rate of every link, in both directions, and its netem settings below that.
    fn shape(&self) -> Result<()> {
        for (side, host) in [("a", &self.a), ("b", &self.b)] {
            for (i, rate) in (1..).zip(self.topology.link_rates_of(of_side(side))) {
                for (namespace, device) in [(host, format!("{side}{i}")), (&self.sw, format!("s{side}{i}"))] {
                    namespace.tc(&format!("qdisc add dev {device} {}", bucket(rate)))?;
                    if !self.topology.netem.is_empty() {
                        namespace.tc(&format!(
                            "qdisc add dev {device} parent 1:1 handle 10: netem {}",
                            self.topology.netem
                        ))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until the aggregators are formed and a packet gets through.
    fn settle(&self) -> Result<()> {
        if self.topology.mode == Mode::Lacp {
            let both = [(Place::A, self.topology.usable().len()), (Place::B, self.topology.slaves_of(Place::B))];
            let bonded = |(place, _): &(Place, usize)| *place == Place::B || self.topology.multipath.is_none();
            for (place, ports) in both.into_iter().filter(bonded) {
                super::wait_for("LACP", Duration::from_mins(1), || self.aggregated(place, ports))?;
            }
        }
        let ping = format!("ping -c 1 -W 1 {}", self.topology.address(Place::B));
        super::wait_for("an answer to ping", Duration::from_secs(30), || Ok(self.a.shell(&ping).is_ok()))
    }

    /// What each slave says of itself, for an error message.
    fn lacp_state(&self) -> String {
        let mut state = Vec::new();
        for place in [Place::A, Place::B] {
            for i in 1..=self.topology.slaves_of(place) {
                let name = format!("{}{i}", side(place));
                let files =
                    ["ad_aggregator_id", "mii_status", "ad_actor_oper_port_state", "ad_partner_oper_port_state"];
                let read = |file| self.namespace(place).sys_net(&format!("{name}/bonding_slave/{file}"));
                let values = files.map(|file| read(file).unwrap_or_else(|_| "?".to_owned()));
                state.push(format!("{name} {}", values.join(" ")));
            }
        }
        state.join("; ")
    }

    /// Whether the active aggregator has all of its ports, each of them and its partner in working state.
    fn aggregated(&self, place: Place, ports: usize) -> Result<bool> {
        let host = self.namespace(place);
        let active = host.sys_net("bond0/bonding/ad_aggregator")?;
        if host.sys_net("bond0/bonding/ad_num_ports")? != ports.to_string() {
            return Ok(false);
        }
        let mut working = 0;
        for i in 1..=self.topology.slaves_of(place) {
            let slave = |file: &str| host.sys_net(&format!("{}{i}/bonding_slave/{file}", side(place)));
            let state =
                |file: &str| Ok::<_, anyhow::Error>(slave(file)?.parse::<u32>()? & LACP_WORKING == LACP_WORKING);
            let whole = state("ad_actor_oper_port_state")? && state("ad_partner_oper_port_state")?;
            working += usize::from(slave("ad_aggregator_id")? == active && slave("mii_status")? == "up" && whole);
        }
        Ok(working == ports)
    }
}

fn of_side(side: &str) -> Place {
    if side == "a" { Place::A } else { Place::B }
}

fn side(place: Place) -> &'static str {
    match place {
        Place::A => "a",
        Place::B => "b",
        Place::Sw => "sw",
    }
}

fn bond(namespace: &Namespace, name: &str, mode: Mode, policy: &str, options: &str, slaves: &[String]) -> Result<()> {
    let lacp = if mode == Mode::Lacp { "lacp_rate fast" } else { "" };
    namespace.ip(&format!(
        "link add {name} type bond mode {} miimon 100 xmit_hash_policy {policy} {lacp} {options}",
        mode.name()
    ))?;
    for slave in slaves {
        namespace.ip(&format!("link set {slave} down"))?;
        namespace.ip(&format!("link set {slave} master {name}"))?;
    }
    slaves.iter().try_for_each(|slave| namespace.ip(&format!("link set {slave} up")).map(drop))?;
    namespace.ip(&format!("link set {name} up")).map(drop)
}

/// Puts the wanted devices onto the bond; returns the one for the address.
fn stack(host: &Namespace, stack: Stack, mtu: u32) -> Result<&'static str> {
    let vlan = |options: &str| {
        host.ip(&format!("link add link bond0 name bond0.100 type vlan id 100 {options}"))?;
        host.ip("link set bond0.100 up")
    };
    let bridge = |port: &str| {
        host.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        host.ip(&format!("link set {port} master br0"))?;
        host.ip("link set br0 up")
    };
    Ok(match stack {
        Stack::Plain => "bond0",
        Stack::Vlan => vlan("").map(|_| "bond0.100")?,
        Stack::VlanRaw => vlan("reorder_hdr off").map(|_| "bond0.100")?,
        Stack::Bridge => bridge("bond0").map(|_| "br0")?,
        Stack::VlanBridge => {
            vlan("")?;
            bridge("bond0.100").map(|_| "br0")?
        }
        Stack::Macvlan => {
            host.ip("link add link bond0 name mv0 type macvlan mode bridge")?;
            host.ip("link set mv0 up").map(|_| "mv0")?
        }
        Stack::Qinq => {
            vlan("")?;
            // Links take one tag beyond their MTU; the second needs room.
            let mtu = mtu - 4;
            host.ip(&format!("link add link bond0.100 name bond0.100.200 mtu {mtu} type vlan id 200"))?;
            host.ip("link set bond0.100.200 up").map(|_| "bond0.100.200")?
        }
    })
}

fn bucket(rate: BitRate) -> String {
    format!("root handle 1: tbf rate {rate} burst 32k latency 20ms")
}

/// Sent and received bytes of a device in the text of /proc/net/dev.
fn device(table: &str, name: &str) -> Result<(u64, u64)> {
    let row = table.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
    let fields: Vec<u64> = row.unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    match fields.as_slice() {
        [received, _, _, _, _, _, _, _, sent, ..] => Ok((*sent, *received)),
        _ => anyhow::bail!("no counters of {name} in /proc/net/dev"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_right_columns() {
        let table = "Inter-|   Receive\n face |bytes\n    a1: 100 1 0 0 0 0 0 0 900 9 0 0 0 0 0 0\n   a10: 5 1 0 0 0 0 \
         0 0 7 1 0 0 0 0 0 0\n";
        assert_eq!(device(table, "a1").unwrap(), (900, 100));
        assert_eq!(device(table, "a10").unwrap(), (7, 5));
        assert!(device(table, "a2").is_err());
    }
}
