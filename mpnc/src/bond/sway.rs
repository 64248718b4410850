//! What source ports decide under a mode, a policy and the devices above the bond.
//!
//! From reading `drivers/net/bonding/bond_main.c` (3.10 to 7.2) and watching kernels 5.10 to 7.2. Must not know how
//! facts were found, nor what is said about them.

use super::model::{Bond, Mode};
use mpnc_ebpf::hash::Policy;

/// What lies between the route's device and the bond, as far as the hash is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacking {
    /// Nothing, or devices that leave the packet's headers for the bond to see: one VLAN, bridge, macvlan, ipvlan, vrf.
    Plain,
    /// VLAN on VLAN: the inner tag hides the IP header.
    DoubleVlan,
    /// A tunnel in UDP whose outer source port follows the connection (vxlan, geneve).
    UdpTunnel,
    /// A tunnel without ports of its own, in the clear (gre, ipip, sit).
    PlainTunnel,
    /// One encrypted or user-space flow for everything (wireguard, ipsec, tun).
    OneFlow,
}

/// What the source port of a connection decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sway {
    /// Its slave, by the layer3+4 hash.
    Exact,
    /// Nothing that can be computed: each connection draws a slave at random, or by a rule that is not known here.
    Drawn,
    /// A bucket that the driver places by load.
    Loaded,
    /// Nothing: every packet goes to the next slave.
    PerPacket,
    /// Nothing: every frame goes to every slave.
    Everywhere,
    /// Nothing: all streams share one slave.
    Nothing,
}

impl Sway {
    /// Under a bond's settings and what lies above it.
    pub fn of(bond: &Bond, stacking: Stacking) -> Self {
        match bond.policy {
            Some(policy) => Self::of_settings(bond.mode, policy, bond.dynamic_lb, stacking),
            None => match Self::of_settings(bond.mode, Policy::Layer34, bond.dynamic_lb, stacking) {
                // A policy that nobody here knows may go by anything: what it does is to be seen.
                Self::Exact => Self::Drawn,
                regardless => regardless,
            },
        }
    }

    /// The same, where no more than its settings is known of a bond.
    pub fn of_settings(mode: Mode, policy: Policy, dynamic_lb: bool, stacking: Stacking) -> Self {
        match mode {
            Mode::RoundRobin => Self::PerPacket,
            Mode::ActiveBackup => Self::Nothing,
            Mode::Broadcast => Self::Everywhere,
            Mode::Tlb if dynamic_lb => Self::Loaded,
            // Buckets by the destination address.
            Mode::Alb if dynamic_lb => Self::Nothing,
            Mode::Xor | Mode::Ieee8023ad | Mode::Tlb | Mode::Alb => Self::of_policy(policy, stacking),
        }
    }

    fn of_policy(policy: Policy, stacking: Stacking) -> Self {
        match (policy, stacking) {
            (Policy::Layer34, Stacking::Plain) => Self::Exact,
            (_, Stacking::OneFlow) => Self::Nothing,
            // The socket's own hash, drawn at connect, travels with the packet through clear tunnels as well; UDP
            // tunnels put it into their source port.
            (Policy::Encap34, _) | (Policy::Layer34, Stacking::UdpTunnel) => Self::Drawn,
            _ => Self::Nothing,
        }
    }

    /// How many streams serve a bond of `usable` slaves where nobody says: one each where ports choose, several where
    /// chance or load does, one where more would only cost.
    pub fn streams(self, usable: usize) -> u16 {
        let usable = u16::try_from(usable).unwrap_or(u16::MAX).max(1);
        match self {
            Self::Exact | Self::PerPacket => usable,
            Self::Drawn | Self::Loaded => usable.saturating_mul(4).min(super::pool::LANES),
            Self::Everywhere | Self::Nothing => 1,
        }
    }
}
