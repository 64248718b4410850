//! What one host knows of itself, on the way to the other. Plain values that travel as JSON; must not know what they
//! mean.

use crate::bond::Note;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// See the module documentation. `None` stands for: could not be read here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The kernel, as `uname -r` prints it.
    pub kernel: String,
    /// The address that it sends from.
    pub address: IpAddr,
    /// From the route's device down to the bond, or to the last device that can be seen.
    pub way: Vec<Device>,
    /// Bonds at its end.
    pub bonds: Vec<BondState>,
    /// What bounds the window of a TCP connection.
    pub windows: Windows,
    /// Connections that conntrack holds, and how many it can hold.
    pub conntrack: Option<(u64, u64)>,
    /// What is known of the bond, the devices above it and the route, with remedies.
    pub notes: Vec<Note>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Bytes of an IP packet.
    pub mtu: Option<u32>,
    /// Mbit/s.
    pub speed: Option<u32>,
}

/// A bond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondState {
    /// Its name.
    pub name: String,
    /// As sysfs prints it.
    pub mode: String,
    /// As sysfs prints it.
    pub policy: String,
    /// In the kernel's order.
    pub slaves: Vec<Slave>,
}

/// A slave of a bond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slave {
    /// Name, MTU, speed.
    pub device: Device,
    /// Whether the bond sends over it.
    pub usable: bool,
    /// Whether its link is up.
    pub up: bool,
    /// `full` or `half`.
    pub duplex: Option<String>,
    /// LACP port states, of this side and as heard from the switch (IEEE 802.1AX, the bits of Actor_State).
    pub lacp: Option<(u8, u8)>,
    /// What it has counted.
    pub counters: Counters,
}

/// Counters of a device since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets both ways.
    pub packets: u64,
    /// Errors both ways (CRC errors among them).
    pub errors: u64,
    /// How often its link went up or down.
    pub carrier_changes: u64,
}

/// What bounds the window of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// The last value of `net.ipv4.tcp_rmem`, bytes.
    pub rmem: Option<u64>,
    /// The last value of `net.ipv4.tcp_wmem`, bytes.
    pub wmem: Option<u64>,
    /// `net.ipv4.tcp_window_scaling`.
    pub scaling: Option<bool>,
}

/// What a host saw of the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The shortest round trip, microseconds.
    pub rtt_us: Option<u64>,
    /// Streams on which enough arrived to count.
    pub streams: u32,
}

impl Facts {
    /// Slaves of all bonds.
    pub(super) fn slaves(&self) -> impl Iterator<Item = &Slave> {
        self.bonds.iter().flat_map(|bond| &bond.slaves)
    }

    /// What a stream can count on: the speed of a slave, or of the last device, Mbit/s. The fastest, where they differ.
    pub(super) fn speed(&self) -> Option<u32> {
        let slaves = self.slaves().filter(|slave| slave.usable).map(|slave| &slave.device);
        slaves.chain(self.way.last().filter(|_| self.bonds.is_empty())).filter_map(|device| device.speed).max()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn slave(name: &str) -> Slave {
        Slave {
            device: Device { name: name.into(), mtu: Some(1500), speed: Some(10_000) },
            usable: true,
            up: true,
            duplex: Some("full".into()),
            lacp: Some((0x3f, 0x3f)),
            counters: Counters { packets: 1_000_000, ..Counters::default() },
        }
    }

    /// A host with which all is well: a bond of four slaves, 802.3ad, layer3+4.
    pub(in crate::doctor) fn sound() -> Facts {
        Facts {
            kernel: "6.1.0".into(),
            address: "10.0.0.1".parse().unwrap(),
            way: vec![Device { name: "bond0".into(), mtu: Some(1500), speed: Some(40_000) }],
            bonds: vec![BondState {
                name: "bond0".into(),
                mode: "802.3ad".into(),
                policy: "layer3+4".into(),
                slaves: ["e0", "e1", "e2", "e3"].map(slave).to_vec(),
            }],
            windows: Windows { rmem: Some(6 << 20), wmem: Some(4 << 20), scaling: Some(true) },
            conntrack: Some((100, 65536)),
            notes: Vec::new(),
        }
    }

    /// The same host after so many bytes have arrived on each slave.
    pub(in crate::doctor) fn after(arrived: [u64; 4]) -> Facts {
        let mut facts = sound();
        for (slave, bytes) in facts.bonds[0].slaves.iter_mut().zip(arrived) {
            slave.counters.rx_bytes += bytes;
        }
        facts
    }

    #[test]
    fn the_form_on_the_wire_goes_both_ways() {
        let text = serde_json::to_string(&sound()).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), sound());
    }

    #[test]
    fn a_stream_counts_on_a_slave_not_on_the_bond() {
        assert_eq!(sound().speed(), Some(10_000));
        assert_eq!(Facts { bonds: Vec::new(), ..sound() }.speed(), Some(40_000));
    }
}
