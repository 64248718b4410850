//! The slaves as the planner sees them: a function from source port to class, and what each class can carry.
//!
//! Must not know how ports are picked (see [`super::ports`]) or how the facts were found.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mpnc_ebpf::flow::Flow;
use mpnc_ebpf::hash::{self, ByteOrder, Era};

use super::kernel::KernelHash;

/// Everything of a stream's address that is fixed before its source port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowBase {
    /// The address that the sender binds to.
    pub src: IpAddr,
    /// The receiver's address.
    pub dst: IpAddr,
    /// The receiver's port.
    pub dport: u16,
}

impl FlowBase {
    /// From this address to that receiver.
    pub fn new(src: IpAddr, to: SocketAddr) -> Self {
        Self { src, dst: to.ip(), dport: to.port() }
    }

    /// The flow from a source port; `None` when the addresses are of different families.
    pub fn flow(&self, sport: u16) -> Option<Flow> {
        Flow::new(self.src, self.dst, sport, self.dport)
    }
}

/// Which class (slave, next hop, peer's slave) a source port leads to; `None` where it cannot be said.
#[derive(Clone)]
pub struct PortClass {
    class_of: Arc<dyn Fn(u16) -> Option<u16> + Send + Sync>,
    asks: bool,
}

impl PortClass {
    /// From a function that computes, or looks up, and may be called for every port.
    pub fn new(class_of: impl Fn(u16) -> Option<u16> + Send + Sync + 'static) -> Self {
        Self { class_of: Arc::new(class_of), asks: false }
    }

    /// From a function that asks somebody (the kernel) each time: the planner keeps to a few thousand calls.
    pub fn asking(class_of: impl Fn(u16) -> Option<u16> + Send + Sync + 'static) -> Self {
        Self { class_of: Arc::new(class_of), asks: true }
    }

    /// The port's class.
    pub fn of(&self, port: u16) -> Option<u16> {
        (self.class_of)(port)
    }

    /// Whether an answer is dear.
    pub(super) fn asks(&self) -> bool {
        self.asks
    }
}

impl fmt::Debug for PortClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortClass").field("asks", &self.asks).finish_non_exhaustive()
    }
}

/// A second thing that ports should be even over: the peer's slaves on the way back, the receiver's slaves behind a
/// switch.
#[derive(Clone, Debug)]
pub struct Axis {
    /// How many classes there are.
    pub classes: u16,
    /// Which class a port is of.
    pub class_of: PortClass,
}

/// A bond with policy layer3+4: what its hash needs beside the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// The formula of the kernel that owns the bond.
    pub kernel: KernelHash,
    /// That host's byte order.
    pub order: ByteOrder,
    /// Relative capacity of each usable slave, by index. Its length is the hash's modulus.
    pub weights: Vec<u32>,
}

impl Hashing {
    /// `slaves` alike, on a kernel like `kernel`, in this host's byte order.
    pub fn alike(slaves: u16, kernel: KernelHash) -> Self {
        Self { kernel, order: ByteOrder::NATIVE, weights: vec![1; usize::from(slaves)] }
    }

    /// How many slaves the hash chooses among.
    pub fn slaves(&self) -> u16 {
        u16::try_from(self.weights.len()).unwrap_or(u16::MAX)
    }

    /// The index of the slave that carries a flow.
    pub fn slave(&self, flow: &Flow) -> Option<u16> {
        self.slave_in(self.kernel.era, flow)
    }

    fn slave_in(&self, era: Era, flow: &Flow) -> Option<u16> {
        let hash = hash::layer34(era, self.order, flow);
        hash::index(hash, u32::from(self.slaves())).and_then(|i| u16::try_from(i).ok())
    }

    /// The slaves as they would be if the other formula in doubt were the right one.
    pub(super) fn doubt(&self, base: FlowBase) -> Option<Axis> {
        let (era, hashing) = (self.kernel.or?, self.clone());
        let class_of = PortClass::new(move |port| hashing.slave_in(era, &base.flow(port)?));
        Some(Axis { classes: self.slaves(), class_of })
    }

    /// This bond as the **receiver's**: which of its slaves carries what it sends back on the stream from a source
    /// port.
    pub fn way_back(&self, base: FlowBase) -> Axis {
        self.way_back_by(move |_| Some(base))
    }

    /// The same, where the source port says the addresses too.
    pub fn way_back_by(&self, base: impl Fn(u16) -> Option<FlowBase> + Send + Sync + 'static) -> Axis {
        let hashing = self.clone();
        let class_of = PortClass::new(move |port| hashing.slave(&base(port)?.flow(port)?.reversed()));
        Axis { classes: self.slaves(), class_of }
    }

    /// Which slave would carry the streams if they came from another address.
    pub fn way_out(&self, base: FlowBase) -> Axis {
        self.way_out_by(move |_| Some(base))
    }

    /// The same, where the source port says the addresses too.
    pub fn way_out_by(&self, base: impl Fn(u16) -> Option<FlowBase> + Send + Sync + 'static) -> Axis {
        let hashing = self.clone();
        let class_of = PortClass::new(move |port| hashing.slave(&base(port)?.flow(port)?));
        Axis { classes: self.slaves(), class_of }
    }

    /// Whether ports of the era-proof form are even over the slaves: a power of two of equal ones, no more than the
    /// lanes.
    pub fn is_plain_power(&self) -> bool {
        let n = self.slaves();
        n.is_power_of_two() && n <= super::pool::LANES && self.weights.windows(2).all(|w| w[0] == w[1])
    }
}

/// What is known of the way out.
#[derive(Clone, Debug)]
pub enum Outlook {
    /// A bond whose hash takes the ports: read, or stated by a person.
    Hashed(Hashing),
    /// Something else that follows the ports and answers for each (next hops of a multipath route, measurements).
    Asked {
        /// Relative capacity of each class.
        weights: Vec<u32>,
        /// Which class a port leads to.
        class_of: PortClass,
    },
    /// No bond, none in sight, or one in which ports play no part.
    Unknown,
}

impl Outlook {
    /// Relative capacity of each class; empty when there is none to be even over.
    pub fn weights(&self) -> &[u32] {
        match self {
            Self::Hashed(hashing) => &hashing.weights,
            Self::Asked { weights, .. } => weights,
            Self::Unknown => &[],
        }
    }

    /// The class that a source port leads to.
    pub fn class_of(&self, base: &FlowBase, port: u16) -> Option<u16> {
        match self {
            Self::Hashed(hashing) => hashing.slave(&base.flow(port)?),
            Self::Asked { class_of, .. } => class_of.of(port),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: FlowBase = FlowBase {
        src: IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)),
        dst: IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 77)),
        dport: 5001,
    };

    fn three() -> Hashing {
        Hashing { kernel: KernelHash::certain(Era::V5_18), order: ByteOrder::Little, weights: vec![1; 3] }
    }

    #[test]
    fn both_directions_as_seen_on_a_6_12_kernel() {
        let outlook = Outlook::Hashed(three());
        assert_eq!([30001, 30003, 30004].map(|p| outlook.class_of(&BASE, p)), [Some(2), Some(1), Some(0)]);
        let back = three().way_back(BASE);
        assert_eq!([30001, 30003].map(|p| back.class_of.of(p)), [Some(2), Some(0)]);
    }

    #[test]
    fn nothing_to_say_across_families_or_without_slaves() {
        let mixed = FlowBase { src: "fd00::1".parse().unwrap(), ..BASE };
        assert_eq!(Outlook::Hashed(three()).class_of(&mixed, 30001), None);
        let none = Hashing { weights: vec![], ..three() };
        assert_eq!(Outlook::Hashed(none).class_of(&BASE, 30001), None);
    }
}
