//! Snapshots of the plan's text and JSON.

use super::*;
use crate::bond::{Hashing, KernelHash, Mii, Mode, Policy, SlaveState};
use crate::discover::{Class, Kind, Layer};
use crate::engine::Tuning;

fn slave(name: &str, ifindex: u32) -> Slave {
    Slave {
        name: name.into(),
        ifindex,
        state: SlaveState::Active,
        mii: Mii::Up,
        carrier: Some(true),
        aggregator: Some(1),
        lacp: None,
        speed: Some(10_000),
    }
}

const SOCKETS: Tuning = Tuning { unsent: 256 << 10, pace: Some(2_500_000) };

fn layer(name: &str, ifindex: u32, kind: Kind) -> Layer {
    Layer { name: name.into(), ifindex, kind }
}

/// A VLAN on a bond of three slaves, the middle one down.
fn view() -> PathView {
    let mut slaves = vec![slave("eth2", 4), slave("eth1", 3), slave("eth0", 2)];
    slaves[1] = Slave { state: SlaveState::Backup, mii: Mii::Down, speed: None, ..slaves[1].clone() };
    let bond = Bond {
        name: "bond0".into(),
        ifindex: 5,
        mode: Mode::Ieee8023ad,
        policy: Some(Policy::Layer34),
        dynamic_lb: true,
        aggregator: Some(1),
        slaves,
        ordered: true,
    };
    let notes = crate::bond::policy::notes(&bond, Stacking::Plain);
    let class = |name: &str, ifindex| Class { name: name.into(), ifindex, speed: Some(10_000) };
    PathView {
        destination: "10.1.2.77:5001".parse().unwrap(),
        source: "10.1.2.3".parse().unwrap(),
        kernel: "6.1.0-26-amd64".into(),
        legs: vec![Leg {
            gateway: Some("10.1.2.1".parse().unwrap()),
            layers: vec![layer("bond0.100", 6, Kind::Vlan), layer("bond0", 5, Kind::Bond)],
            stacking: Stacking::Plain,
            end: End::Bond,
            bond: Some(bond),
            slaves: vec![class("eth2", 4), class("eth0", 2)],
            speed: Some(20_000),
            mtu: Some(1500),
            gso_max: Some(65_536),
        }],
        drawn: Vec::new(),
        outlook: Outlook::Hashed(Hashing::alike(2, KernelHash::of_release("6.1.0"))),
        classes: vec![class("eth2", 4), class("eth0", 2)],
        streams: 2,
        by_address: None,
        placed: false,
        notes,
    }
}

fn planned(lane: u16, port: u16, slave: u16) -> Planned {
    Planned { lane, port: Some(port), slave: Some(slave) }
}

#[test]
fn text_of_a_bond() {
    insta::assert_snapshot!(render_text(&view(), &[planned(0, 20480, 1), planned(1, 20483, 0)], SOCKETS, 2), @r#"
to          10.1.2.77 port 5001, from 10.1.2.3
way         bond0.100 (vlan) > bond0 (bond), router 10.1.2.1
bond        bond0: mode 802.3ad, policy layer3+4, 2 of 3 slaves usable, kernel 6.1.0-26-amd64
            index  slave  state   link  speed
            0      eth2   active  up    10 Gbit/s
            -      eth1   backup  down  unknown
            1      eth0   active  up    10 Gbit/s
streams     2 (1 on eth2, 1 on eth0)
            stream  source port  slave
            0       20480        eth0
            1       20483        eth2
sockets     at most 262 kB unsent in each (TCP_NOTSENT_LOWAT), paced at 2.50 MB/s (SO_MAX_PACING_RATE)
workers     2
in the way  bond0: 1 of 3 slaves cannot carry data (eth1)
            -> check their cables and the switch's LACP group; planned without them
"#);
}

#[test]
fn text_without_a_bond() {
    let mut view = view();
    view.legs[0] = Leg {
        gateway: None,
        layers: vec![layer("eth0", 2, Kind::Plain)],
        end: End::NoBond,
        bond: None,
        slaves: Vec::new(),
        ..view.legs[0].clone()
    };
    view.outlook = Outlook::Unknown;
    view.classes.clear();
    view.notes = vec![Note::info("no bond on the way: eth0 carries all streams")];
    let kernels = Planned { lane: 0, port: None, slave: None };
    insta::assert_snapshot!(render_text(&view, &[kernels], SOCKETS, 2), @r#"
to          10.1.2.77 port 5001, from 10.1.2.3
way         eth0 (device)
streams     1 (slaves not predicted)
            stream  source port          slave
            0       the kernel's choice  unknown
sockets     at most 262 kB unsent in each (TCP_NOTSENT_LOWAT), paced at 2.50 MB/s (SO_MAX_PACING_RATE)
workers     2
note        no bond on the way: eth0 carries all streams
"#);
}

#[test]
fn json_of_a_bond() {
    insta::assert_snapshot!(render_json(&view(), &[planned(0, 20480, 1), planned(33, 20483, 0)], SOCKETS, 2), @r#"
{
  "version": 1,
  "destination": {
    "address": "10.1.2.77",
    "port": 5001
  },
  "source": "10.1.2.3",
  "kernel": "6.1.0-26-amd64",
  "outlook": "hashed",
  "legs": [
    {
      "gateway": "10.1.2.1",
      "devices": [
        {
          "name": "bond0.100",
          "ifindex": 6,
          "kind": "vlan"
        },
        {
          "name": "bond0",
          "ifindex": 5,
          "kind": "bond"
        }
      ],
      "stacking": "plain",
      "end": "bond",
      "bond": {
        "name": "bond0",
        "mode": "802.3ad",
        "policy": "layer3+4",
        "aggregator": 1,
        "usable": 2,
        "slaves": [
          {
            "name": "eth2",
            "ifindex": 4,
            "index": 0,
            "state": "active",
            "link": "up",
            "aggregator": 1,
            "speed_mbit": 10000
          },
          {
            "name": "eth1",
            "ifindex": 3,
            "index": null,
            "state": "backup",
            "link": "down",
            "aggregator": 1,
            "speed_mbit": null
          },
          {
            "name": "eth0",
            "ifindex": 2,
            "index": 1,
            "state": "active",
            "link": "up",
            "aggregator": 1,
            "speed_mbit": 10000
          }
        ]
      }
    }
  ],
  "streams": [
    {
      "index": 0,
      "lane": 0,
      "source_port": 20480,
      "slave_index": 1,
      "slave": "eth0"
    },
    {
      "index": 33,
      "lane": 1,
      "source_port": 20483,
      "slave_index": 0,
      "slave": "eth2"
    }
  ],
  "sockets": {
    "unsent": 262144,
    "pace": 2500000
  },
  "workers": 2,
  "notes": [
    {
      "severity": "in-the-way",
      "what": "bond0: 1 of 3 slaves cannot carry data (eth1)",
      "remedy": "check their cables and the switch's LACP group; planned without them"
    }
  ]
}
"#);
}
