//! What is known of the path to a receiver: devices, bond, source address, outlook, and what a person should hear.
//!
//! Assembled from facts that [`super`] gathered; must not ask the kernel itself.

use std::net::{IpAddr, SocketAddr};

use super::walk::{End, Layer};
use crate::bond::{AddressHash, Bond, FlowBase, Note, Outlook, Planner, PortPool, Stacking, placing};

/// One way out: a next hop and the devices beneath it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The router; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// From the route's device down.
    pub layers: Vec<Layer>,
    /// What the devices above the bond do to its hash.
    pub stacking: Stacking,
    /// Where the way down ended.
    pub end: End,
    /// The bond at its end.
    pub bond: Option<Bond>,
    /// The devices that share what leaves, where they can be seen: a bond's usable slaves in the kernel's order, a
    /// team's ports.
    pub slaves: Vec<Class>,
    /// Speed of the last device, Mbit/s.
    pub speed: Option<u32>,
    /// MTU of the route's device: bytes of an IP packet.
    pub mtu: Option<u32>,
    /// What the route's device takes of TCP at once, over IPv6: bytes (`gso_max_size`).
    pub gso_max: Option<u32>,
}

impl Leg {
    /// The device that the route names.
    pub fn device(&self) -> Option<u32> {
        self.layers.first().map(|layer| layer.ifindex)
    }

    /// The last device's name.
    pub fn last_name(&self) -> &str {
        self.layers.last().map_or("an unknown device", |layer| layer.name.as_str())
    }
}

/// One class of the outlook: a slave, or a next hop without a bond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Device name; `slave 2` where only the number is known.
    pub name: String,
    /// Interface index; 0 where unknown.
    pub ifindex: u32,
    /// Mbit/s.
    pub speed: Option<u32>,
}

/// The path to a receiver, at one moment.
#[derive(Clone, Debug)]
pub struct PathView {
    /// The receiver.
    pub destination: SocketAddr,
    /// The address to bind to.
    pub source: IpAddr,
    /// This host's kernel, as `uname -r` prints it.
    pub kernel: String,
    /// Ways out: one, or several of a multipath route whose hash follows the ports.
    pub legs: Vec<Leg>,
    /// What connections are spread over where a multipath route draws a next hop for each: their slaves, or the devices
    /// themselves. Empty everywhere else.
    pub drawn: Vec<Class>,
    /// What the planner goes by.
    pub outlook: Outlook,
    /// What the outlook's classes are, by index.
    pub classes: Vec<Class>,
    /// How many streams to open where nobody says.
    pub streams: u16,
    /// The bond's hash, where it goes by addresses and not by ports.
    pub by_address: Option<AddressHash>,
    /// The plan is for streams that a program on the bond's egress places.
    pub placed: bool,
    /// What a person should hear.
    pub notes: Vec<Note>,
}

impl PathView {
    /// What is fixed of every stream's address.
    pub fn flow_base(&self) -> FlowBase {
        FlowBase::new(self.source, self.destination)
    }

    /// The slaves by which streams leave, if there is one way out, or all are drawn, and they can be seen.
    pub fn slaves(&self) -> &[Class] {
        match self.legs.as_slice() {
            [leg] => &leg.slaves,
            _ => &self.drawn,
        }
    }

    /// A planner for this path. `seed` should be random.
    pub fn planner(&self, pool: PortPool, seed: u64) -> Planner {
        let mut planner = Planner::new(self.flow_base(), self.outlook.clone(), pool, seed);
        if self.placed {
            // Until the receiver has told: as many slaves there as here.
            let slaves = u16::try_from(self.classes.len()).unwrap_or(u16::MAX);
            planner.set_second(Some(placing::arriving(slaves, self.flow_base())));
        }
        planner
    }

    /// Interface indexes to watch: a change of any of these may change the outlook.
    pub fn watched(&self) -> Vec<u32> {
        let layers = self.legs.iter().flat_map(|leg| leg.layers.iter().map(|l| l.ifindex));
        let bonds = self.legs.iter().filter_map(|leg| leg.bond.as_ref());
        let slaves = bonds.flat_map(|b| b.slaves.iter().map(|s| s.ifindex));
        let mut all: Vec<u32> = layers.chain(slaves).filter(|i| *i != 0).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The name of a class, for people.
    pub fn class_name(&self, class: u16) -> String {
        self.classes.get(usize::from(class)).map_or_else(|| format!("slave {class}"), |c| c.name.clone())
    }
}
