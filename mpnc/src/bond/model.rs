//! A bond and its slaves as the kernel keeps them. Must not know where the facts were read.

use mpnc_ebpf::hash::Policy;

use super::quota::by_speed;

/// Bonding mode, by the kernel's numbers (`BOND_MODE_*`, `include/uapi/linux/if_bonding.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// balance-rr: packet by packet.
    RoundRobin = 0,
    /// active-backup: one slave at a time.
    ActiveBackup = 1,
    /// balance-xor: the transmit hash over all usable slaves.
    Xor = 2,
    /// broadcast: every frame on every slave.
    Broadcast = 3,
    /// 802.3ad (LACP): the transmit hash over the active aggregator.
    Ieee8023ad = 4,
    /// balance-tlb: by load, or by the hash where `tlb_dynamic_lb` is 0.
    Tlb = 5,
    /// balance-alb: as balance-tlb, and receive balancing by ARP.
    Alb = 6,
}

impl Mode {
    /// All modes, by number.
    pub const ALL: [Self; 7] =
        [Self::RoundRobin, Self::ActiveBackup, Self::Xor, Self::Broadcast, Self::Ieee8023ad, Self::Tlb, Self::Alb];

    /// From the kernel's number.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// The name that sysfs prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "balance-rr",
            Self::ActiveBackup => "active-backup",
            Self::Xor => "balance-xor",
            Self::Broadcast => "broadcast",
            Self::Ieee8023ad => "802.3ad",
            Self::Tlb => "balance-tlb",
            Self::Alb => "balance-alb",
        }
    }
}

/// Policies by number, with the names that sysfs prints.
const POLICY_NAMES: [(Policy, &str); 6] = [
    (Policy::Layer2, "layer2"),
    (Policy::Layer34, "layer3+4"),
    (Policy::Layer23, "layer2+3"),
    (Policy::Encap23, "encap2+3"),
    (Policy::Encap34, "encap3+4"),
    (Policy::VlanSrcmac, "vlan+srcmac"),
];

/// The name that sysfs prints for a policy.
pub fn policy_name(policy: Policy) -> &'static str {
    POLICY_NAMES.iter().find(|(p, _)| *p == policy).map_or("unknown", |(_, name)| name)
}

/// The policy that a person named, as sysfs spells it.
pub fn policy_named(name: &str) -> Option<Policy> {
    POLICY_NAMES.iter().find(|(_, n)| *n == name).map(|(p, _)| *p)
}

/// Names of all policies, for messages and `--help`.
pub fn policy_names() -> impl Iterator<Item = &'static str> {
    POLICY_NAMES.iter().map(|(_, name)| *name)
}

/// Whether bonding lets a slave transmit (`bonding_slave/state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlaveState {
    /// May transmit.
    Active,
    /// Kept in reserve, or in an aggregator that is not the active one.
    Backup,
}

impl SlaveState {
    /// The word that sysfs prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Backup => "backup",
        }
    }
}

/// Link state as bonding's monitor sees it (`BOND_LINK_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mii {
    /// Up: the only state in which a slave transmits.
    Up,
    /// Failing, within its downdelay.
    GoingDown,
    /// Down.
    Down,
    /// Returning, within its updelay.
    GoingBack,
}

impl Mii {
    /// The words that sysfs prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::GoingDown => "going down",
            Self::Down => "down",
            Self::GoingBack => "going back",
        }
    }
}

/// Bits of an LACP port state (IEEE 802.1AX, `Actor_State`; `LACP_STATE_*`, `include/net/bond_3ad.h`).
const SYNCHRONIZATION: u8 = 0x08;
const COLLECTING: u8 = 0x10;
/// Of this side: it has heard no partner, or none lately.
const DEFAULTED: u8 = 0x40;
const EXPIRED: u8 = 0x80;

/// One slave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slave {
    /// Device name.
    pub name: String,
    /// Interface index; 0 where unknown.
    pub ifindex: u32,
    /// Whether bonding lets it transmit.
    pub state: SlaveState,
    /// Link state.
    pub mii: Mii,
    /// Whether the device has carrier; `None` where unknown.
    pub carrier: Option<bool>,
    /// Its aggregator's id (802.3ad).
    pub aggregator: Option<u16>,
    /// LACP port states, of this side and as heard from the partner (IEEE 802.1AX, the bits of `Actor_State`); `None`
    /// where unknown.
    pub lacp: Option<(u8, u8)>,
    /// Mbit/s; `None` for virtual devices and links that are down.
    pub speed: Option<u32>,
}

/// One bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bond {
    /// Device name.
    pub name: String,
    /// Interface index; 0 where unknown.
    pub ifindex: u32,
    /// Mode.
    pub mode: Mode,
    /// Transmit hash policy. The kernel reports one in every mode, used or not. `None`: one that is not known here, or
    /// cannot be read.
    pub policy: Option<Policy>,
    /// `tlb_dynamic_lb`: balance-tlb and -alb place flows by load, not by the hash.
    pub dynamic_lb: bool,
    /// The active aggregator's id (802.3ad).
    pub aggregator: Option<u16>,
    /// Slaves, in enslave order where `ordered`.
    pub slaves: Vec<Slave>,
    /// Whether `slaves` has the kernel's order. Netlink does not tell it; sysfs and proc do.
    pub ordered: bool,
}

impl Bond {
    /// The name that sysfs prints for its policy, or that it has none that is known here.
    pub fn policy_name(&self) -> &'static str {
        self.policy.map_or("unknown", policy_name)
    }

    /// The slaves that the hash chooses among, by index.
    ///
    /// `bond_update_slave_arr` (`drivers/net/bonding/bond_main.c`): in enslave order, those that can transmit
    /// (`bond_slave_can_tx`) and belong to the active aggregator.
    pub fn usable(&self) -> Vec<&Slave> {
        self.slaves.iter().filter(|s| self.can_tx(s)).collect()
    }

    fn can_tx(&self, slave: &Slave) -> bool {
        slave.state == SlaveState::Active && self.may_serve(slave)
    }

    /// Whether the slave's link is up and, with 802.3ad, in the active aggregator.
    fn may_serve(&self, slave: &Slave) -> bool {
        let aggregated = self.mode != Mode::Ieee8023ad
            || self.aggregator.is_none()
            || slave.aggregator.is_none()
            || slave.aggregator == self.aggregator;
        slave.mii == Mii::Up && slave.carrier != Some(false) && aggregated
    }

    /// Slaves that LACP is about to take into use, or out of it: read again.
    ///
    /// Bonding uses a port of the active aggregator when its partner is in synchronisation, and as long as it is
    /// (`ad_mux_machine`, `drivers/net/bonding/bond_3ad.c`, 6.12). How many ports the aggregator counts says nothing of
    /// that: those in reserve are among them (`__agg_active_ports`).
    pub fn moving(&self) -> Vec<&Slave> {
        self.lacp_slaves(|actor, partner| (partner & SYNCHRONIZATION != 0) != (actor & COLLECTING != 0))
    }

    /// Slaves that the switch keeps in reserve: ready here, while their partner withholds synchronisation. That may
    /// last for ever (hot standby, a switch's limit of links in a group).
    pub fn reserve(&self) -> Vec<&Slave> {
        self.lacp_slaves(|actor, partner| {
            let ready = actor & (SYNCHRONIZATION | DEFAULTED | EXPIRED) == SYNCHRONIZATION;
            ready && actor & COLLECTING == 0 && partner & SYNCHRONIZATION == 0
        })
    }

    /// Those of the active aggregator whose port states (this side's, the partner's) are such.
    fn lacp_slaves(&self, are: impl Fn(u8, u8) -> bool) -> Vec<&Slave> {
        let is = |slave: &&Slave| {
            self.mode == Mode::Ieee8023ad
                && self.may_serve(slave)
                && slave.lacp.is_some_and(|(actor, partner)| are(actor, partner))
        };
        self.slaves.iter().filter(is).collect()
    }

    /// What the usable slaves carry together, Mbit/s; `None` where the speed of any is unknown.
    pub fn mbit(&self) -> Option<u64> {
        self.usable().iter().map(|slave| slave.speed.map(u64::from)).sum()
    }

    /// Streams that it takes to fill them, where ports choose.
    pub fn streams(&self) -> u16 {
        by_speed(&self.weights())
    }

    /// Relative capacity of the usable slaves, by index: their speeds, or all alike where any is unknown.
    pub fn weights(&self) -> Vec<u32> {
        let usable = self.usable();
        let speeds: Option<Vec<u32>> = usable.iter().map(|s| s.speed.filter(|mbit| *mbit > 0)).collect();
        speeds.unwrap_or_else(|| vec![1; usable.len()])
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn slave(name: &str) -> Slave {
        Slave {
            name: name.into(),
            ifindex: 0,
            state: SlaveState::Active,
            mii: Mii::Up,
            carrier: Some(true),
            aggregator: Some(1),
            lacp: Some((0x3f, 0x3f)),
            speed: Some(1000),
        }
    }

    pub(crate) fn bond(slaves: Vec<Slave>) -> Bond {
        Bond {
            name: "bond0".into(),
            ifindex: 9,
            mode: Mode::Ieee8023ad,
            policy: Some(Policy::Layer34),
            dynamic_lb: true,
            aggregator: Some(1),
            slaves,
            ordered: true,
        }
    }

    fn names(bond: &Bond) -> Vec<&str> {
        bond.usable().iter().map(|s| s.name.as_str()).collect()
    }

    #[test]
    fn usable_keeps_order_and_leaves_out_what_cannot_transmit() {
        let mut b = bond(["d3", "d2", "d1", "d0", "d4", "d5"].map(slave).to_vec());
        b.slaves[1].mii = Mii::GoingBack;
        b.slaves[2].state = SlaveState::Backup;
        b.slaves[3].aggregator = Some(2);
        b.slaves[4].carrier = Some(false);
        assert_eq!(names(&b), ["d3", "d5"]);
        b.mode = Mode::Xor;
        assert_eq!(names(&b), ["d3", "d0", "d5"]);
    }

    #[test]
    fn lacp_moves_while_a_port_and_its_partner_disagree_and_rests_with_ports_in_reserve() {
        let with = |actor, partner| {
            let mut b = bond(["e0", "e1"].map(slave).to_vec());
            (b.slaves[1].state, b.slaves[1].lacp) = (SlaveState::Backup, Some((actor, partner)));
            b
        };
        let seen = |b: &Bond| (b.moving().len(), b.reserve().len());
        assert_eq!(seen(&bond(["e0", "e1"].map(slave).to_vec())), (0, 0));
        assert_eq!(seen(&with(0x0f, 0x3f)), (1, 0), "the partner is ready, and waits for this side");
        assert_eq!(seen(&with(0x3f, 0x07)), (1, 0), "the partner has withdrawn, and this side is about to follow");
        assert_eq!(seen(&with(0x0f, 0x07)), (0, 1), "hot standby");
        assert_eq!(seen(&with(0xcf, 0x01)), (0, 0), "no partner at all");
        let mut down = with(0x0f, 0x3f);
        down.slaves[1].carrier = Some(false);
        assert_eq!(seen(&down), (0, 0));
        assert_eq!(seen(&Bond { mode: Mode::Xor, ..with(0x0f, 0x3f) }), (0, 0));
    }

    #[test]
    fn weights_are_speeds_or_all_alike() {
        let mut b = bond(["a", "b"].map(slave).to_vec());
        b.slaves[1].speed = Some(10_000);
        assert_eq!(b.weights(), [1000, 10_000]);
        b.slaves[0].speed = None;
        assert_eq!(b.weights(), [1, 1]);
    }

    #[test]
    fn names_and_numbers_go_both_ways() {
        for (n, mode) in Mode::ALL.into_iter().enumerate() {
            assert_eq!(Mode::from_number(u8::try_from(n).unwrap()), Some(mode));
        }
        assert_eq!(Mode::from_number(7), None);
        for name in policy_names() {
            assert_eq!(policy_named(name).map(policy_name), Some(name));
        }
        assert_eq!(policy_named("layer4"), None);
    }
}
