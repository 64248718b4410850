//! The path from fixture trees (what sysfs and proc print for real bonds), and once from a real namespace.

#[path = "../../../tests/common/needs.rs"]
mod needs;
#[path = "../../../tests/common/skip.rs"]
mod skip;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};

use super::explore::leg;
use super::links::Links;
use super::netlink::NextHop;
use super::*;
use crate::bond::{Mode, Outlook, Severity, Stacking};

/// A `/sys` and `/proc` in a temporary directory.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { dir: tempfile::tempdir().unwrap() };
        fixture.write("proc/sys/kernel/osrelease", "6.1.0-26-amd64");
        fixture
    }

    fn tree(&self) -> Tree {
        Tree::at(self.dir.path())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn device(&self, name: &str, index: u32, devtype: &str) {
        self.write(&format!("sys/class/net/{name}/ifindex"), &index.to_string());
        self.write(&format!("sys/class/net/{name}/iflink"), &index.to_string());
        self.write(&format!("sys/class/net/{name}/carrier"), "1");
        if !devtype.is_empty() {
            self.write(&format!("sys/class/net/{name}/uevent"), &format!("DEVTYPE={devtype}"));
        }
    }

    fn on(&self, upper: &str, lower: &str) {
        let at = self.dir.path().join(format!("sys/class/net/{upper}/lower_{lower}"));
        symlink(Path::new("..").join(lower), at).unwrap();
    }

    fn member(&self, name: &str, master: &str) {
        let at = self.dir.path().join(format!("sys/class/net/{name}/master"));
        symlink(Path::new("..").join(master), at).unwrap();
    }

    /// bond0 (index 9) with these slaves in this order, all up at 1 Gbit/s.
    fn bond(&self, mode: &str, policy: &str, slaves: &[&str]) {
        self.device("bond0", 9, "bond");
        for (attribute, value) in [
            ("mode", mode),
            ("xmit_hash_policy", policy),
            ("ad_aggregator", "1"),
            ("tlb_dynamic_lb", "1"),
            ("slaves", &slaves.join(" ")),
        ] {
            self.write(&format!("sys/class/net/bond0/bonding/{attribute}"), value);
        }
        for (index, name) in (10..).zip(slaves) {
            self.device(name, index, "");
            self.member(name, "bond0");
            self.on("bond0", name);
            self.write(&format!("sys/class/net/{name}/speed"), "1000");
            for (attribute, value) in [("state", "active"), ("mii_status", "up"), ("ad_aggregator_id", "1")] {
                self.write(&format!("sys/class/net/{name}/bonding_slave/{attribute}"), value);
            }
        }
    }

    fn leg(&self, device: u32) -> Leg {
        let hop = NextHop { device, gateway: None, weight: 1 };
        leg(&self.tree(), &Links::from_tree(&self.tree()), &hop, |_, _| None)
    }

    fn view(&self, legs: Vec<Leg>, overrides: Overrides) -> PathView {
        let request = Request { destination: "10.1.2.77:5001".parse().unwrap(), source: None, ports: None, overrides };
        let ways = Ways { legs, are_drawn: false };
        view(&request, &self.tree(), "10.1.2.3".parse().unwrap(), ways, |port| Some(if port % 3 == 0 { 9 } else { 5 }))
    }

    fn plain_view(&self, device: u32) -> PathView {
        self.view(vec![self.leg(device)], Overrides::default())
    }
}

fn class_names(view: &PathView) -> Vec<&str> {
    view.classes.iter().map(|c| c.name.as_str()).collect()
}

fn said(view: &PathView) -> String {
    view.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_bond_is_read_with_its_slaves_in_enslave_order() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["d3", "d2", "d1"]);
    let view = f.plain_view(9);
    assert_eq!(class_names(&view), ["d3", "d2", "d1"]);
    assert_eq!((view.streams, said(&view).as_str()), (3, ""));
    assert_eq!(view.watched(), [9, 10, 11, 12]);
    // Seen on a 6.12 kernel: port 30004 leads to index 0 of 3.
    let planner = view.planner(f.tree().port_pool(), 1);
    assert_eq!(planner.slave_of(30004).map(|s| view.class_name(s)), Some("d3".to_owned()));
}

#[test]
fn slaves_that_are_down_or_elsewhere_aggregated_do_not_count() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1", "e2", "e3"]);
    f.write("sys/class/net/e1/bonding_slave/mii_status", "down");
    f.write("sys/class/net/e1/bonding_slave/state", "backup");
    f.write("sys/class/net/e2/bonding_slave/ad_aggregator_id", "2");
    let view = f.plain_view(9);
    assert_eq!(class_names(&view), ["e0", "e3"]);
    assert!(said(&view).contains("2 of 4 slaves cannot carry data (e1, e2)"), "{}", said(&view));
}

#[test]
fn a_port_that_the_switch_keeps_in_reserve_is_no_change_of_lacp() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1", "e2"]);
    let state = |slave: &str, actor: &str, partner: &str| {
        f.write(&format!("sys/class/net/{slave}/bonding_slave/ad_actor_oper_port_state"), actor);
        f.write(&format!("sys/class/net/{slave}/bonding_slave/ad_partner_oper_port_state"), partner);
    };
    for slave in ["e0", "e1"] {
        state(slave, "63", "63");
    }
    f.write("sys/class/net/e2/bonding_slave/state", "backup");
    state("e2", "15", "7");
    let view = f.plain_view(9);
    assert_eq!(class_names(&view), ["e0", "e1"]);
    assert!(said(&view).contains("keeps 1 of 3 slaves in reserve (e2)"), "{}", said(&view));
    assert!(!said(&view).contains("LACP is changing"), "{}", said(&view));
    state("e2", "15", "63");
    assert!(said(&f.plain_view(9)).contains("LACP is changing (e2)"), "{}", said(&f.plain_view(9)));
}

#[test]
fn a_policy_of_a_later_kernel_is_measured_and_not_taken_for_another() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer5+6 9", &["e0", "e1"]);
    let view = f.plain_view(9);
    assert!(matches!(view.outlook, Outlook::Unknown));
    assert_eq!((view.legs[0].bond.as_ref().unwrap().policy, view.streams), (None, 8));
    assert!(said(&view).contains("xmit_hash_policy that is not known here"), "{}", said(&view));
}

#[test]
fn vlan_macvlan_and_bridge_lead_to_the_bond() {
    let f = Fixture::new();
    f.bond("balance-xor 2", "layer3+4 1", &["e0", "e1"]);
    f.device("bond0.100", 20, "vlan");
    f.on("bond0.100", "bond0");
    f.device("mv0", 21, "macvlan");
    f.on("mv0", "bond0.100");
    f.device("br0", 22, "bridge");
    f.device("tap0", 23, "");
    f.member("tap0", "br0");
    f.member("mv0", "br0");
    for (device, names) in [
        (20, vec!["bond0.100", "bond0"]),
        (21, vec!["mv0", "bond0.100", "bond0"]),
        (22, vec!["br0", "mv0", "bond0.100", "bond0"]),
    ] {
        let leg = f.leg(device);
        assert_eq!(leg.layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), names);
        assert_eq!((leg.end, leg.stacking), (End::Bond, Stacking::Plain));
        assert_eq!(leg.bond.unwrap().mode, Mode::Xor);
    }
}

#[test]
fn a_bridges_port_is_taken_from_where_the_next_hop_was_seen() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    f.device("br0", 22, "bridge");
    f.member("bond0", "br0");
    f.device("eth9", 23, "");
    f.member("eth9", "br0");
    let links = Links::from_tree(&f.tree());
    let to = |port| walk::walk(&links, 22, &mut |bridge, _| (bridge == 22).then_some(port)).end;
    assert_eq!((to(9), to(23)), (End::Bond, End::NoBond));
    f.device("bond1", 24, "bond");
    f.member("bond1", "br0");
    assert_eq!(f.leg(22).end, End::Unclear);
}

#[test]
fn a_bridge_is_asked_for_the_vlan_that_frames_come_in() {
    let vlan = |index, name: &str, id, lower| {
        let mut message = told(index, name, 1, InfoKind::Vlan, 0);
        message.attributes.push(LinkAttribute::Link(lower));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)]))]));
        message
    };
    let bridge = |attributes| {
        let mut message = told(3, "br0", 1, InfoKind::Bridge, 0);
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Data(InfoData::Bridge(attributes))]));
        message
    };
    let asked = |device| {
        let links = Links::from_netlink(&[vlan(4, "br0.100", 100, 3), vlan(5, "q", 7, 4), bridge(vec![])]);
        let mut asked = Vec::new();
        walk::walk(&links, device, &mut |bridge, tag| {
            asked.push((bridge, tag));
            None
        });
        asked
    };
    assert_eq!([asked(3), asked(4), asked(5)], [[(3, None)], [(3, Some(100))], [(3, Some(100))]]);
    let untagged = |attributes| Links::from_netlink(&[bridge(attributes)]).get(3).unwrap().untagged;
    let (on, default) = (InfoBridge::VlanFiltering(true), InfoBridge::VlanDefaultPvid(1));
    assert_eq!(untagged(vec![default.clone(), on.clone()]), Some(1));
    assert_eq!(untagged(vec![default, InfoBridge::VlanFiltering(false)]), None);
    assert_eq!(untagged(vec![on]), Some(0));
}

#[test]
fn vlan_on_vlan_and_tunnels_hide_the_ports() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    f.device("bond0.100", 20, "vlan");
    f.on("bond0.100", "bond0");
    f.device("q1", 21, "vlan");
    f.on("q1", "bond0.100");
    f.device("wg0", 22, "wireguard");
    f.device("vx0", 23, "vxlan");
    f.on("vx0", "bond0");
    let view = f.plain_view(21);
    assert!(matches!(view.outlook, Outlook::Unknown));
    assert!(said(&view).contains("VLAN on VLAN above bond0"));
    assert_eq!(f.leg(22).end, End::Tunnel);
    assert_eq!((f.leg(23).end, f.leg(23).stacking), (End::Bond, Stacking::UdpTunnel));
}

#[test]
fn a_guests_card_may_have_a_bond_beneath_it() {
    let f = Fixture::new();
    f.device("ens3", 5, "");
    assert_eq!((f.leg(5).end, f.plain_view(5).streams), (End::NoBond, 1));
    let device = f.dir.path().join("sys/class/net/ens3/device");
    fs::create_dir_all(&device).unwrap();
    symlink("../../../../bus/virtio/drivers/virtio_net", device.join("driver")).unwrap();
    f.device("br0", 6, "bridge");
    f.member("ens3", "br0");
    for route in [5, 6] {
        let view = f.plain_view(route);
        assert_eq!((view.legs[0].end, view.streams), (End::Guest, 4));
        assert!(said(&view).contains("ens3 is a virtual network card"), "{}", said(&view));
        assert!(said(&view).contains("--slaves N --policy layer3+4"), "{}", said(&view));
        assert!(view.notes.iter().all(|note| note.severity == Severity::Info), "a guest is no finding");
    }
}

/// bond0 towards an IPv6 address, when it takes so many bytes of TCP at once.
fn towards_v6(f: &Fixture, gso_max: u32) -> PathView {
    let request = Request::to("[fd00::77]:5001".parse().unwrap());
    let ways = Ways { legs: vec![Leg { gso_max: Some(gso_max), ..f.leg(9) }], are_drawn: false };
    view(&request, &f.tree(), "fd00::3".parse().unwrap(), ways, |_| None)
}

#[test]
fn packets_too_big_for_their_ports_to_be_found_are_named_with_the_command_that_mends_them() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    let said_of = |gso_max| said(&towards_v6(&f, gso_max));
    assert!(said_of(185_000).contains("bond0 takes 185000 bytes of TCP at once"), "{}", said_of(185_000));
    assert!(said_of(185_000).contains("ip link set dev bond0 gso_max_size 65536"), "{}", said_of(185_000));
    assert_eq!(said_of(65_536), "");
    let v4 = f.view(vec![Leg { gso_max: Some(185_000), ..f.leg(9) }], Overrides::default());
    assert_eq!(said(&v4), "");
    f.write("proc/sys/kernel/osrelease", "7.2.13");
    assert_eq!(said_of(185_000), "");
    let mut message = told(9, "bond0", 1, InfoKind::Bond, 0);
    message.attributes.push(LinkAttribute::GsoMaxSize(185_000));
    assert_eq!(Links::from_netlink(&[message]).get(9).unwrap().gso_max, Some(185_000));
}

#[test]
fn next_hops_that_are_drawn_are_measured_as_slaves_are() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    f.device("eth5", 5, "");
    let request = Request::to("[fd00::77]:5001".parse().unwrap());
    let ways = Ways { legs: vec![f.leg(9), f.leg(5)], are_drawn: true };
    let view = view(&request, &f.tree(), "fd00::3".parse().unwrap(), ways, |_| None);
    assert!(matches!(view.outlook, Outlook::Unknown));
    let names: Vec<&str> = view.slaves().iter().map(|slave| slave.name.as_str()).collect();
    assert_eq!((names, view.streams), (vec!["e0", "e1", "eth5"], 12));
    assert!(said(&view).contains("sysctl -w net.ipv6.fib_multipath_hash_policy=1"), "{}", said(&view));
}

#[test]
fn packets_with_room_kept_in_them_are_a_sign_of_ipsec() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    let note = |mtu| judge::wrapped(&f.leg(9), "10.1.2.77".parse().unwrap(), 1500, mtu).map(|note| note.to_string());
    assert_eq!(note(1500), None);
    let said = note(1438).unwrap();
    assert!(said.contains("1438 bytes where bond0 takes 1500") && said.contains("ip xfrm policy"), "{said}");
    f.write("sys/class/net/bond0/bonding/xmit_hash_policy", "layer2 0");
    assert_eq!(note(1438), None, "ports play no part anyway");
}

#[test]
fn a_device_whose_other_side_is_out_of_sight_says_how_to_state_the_bond() {
    let f = Fixture::new();
    f.device("mv0", 21, "macvlan");
    f.write("sys/class/net/mv0/iflink", "4");
    let view = f.plain_view(21);
    assert_eq!(view.legs[0].end, End::Elsewhere);
    assert!(said(&view).contains("--slaves N --policy layer3+4"), "{}", said(&view));
    assert_eq!(view.streams, 4);
}

#[test]
fn proc_alone_gives_the_order_and_nothing_gives_numbers_only() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["b", "a"]);
    let bonding = f.dir.path().join("sys/class/net/bond0/bonding");
    fs::remove_file(bonding.join("slaves")).unwrap();
    let view = f.plain_view(9);
    assert_eq!(class_names(&view), ["slave 0 of bond0", "slave 1 of bond0"]);
    assert!(said(&view).contains("order of its slaves is unknown"));
    f.write(
        "proc/net/bonding/bond0",
        "Bonding Mode: IEEE 802.3ad Dynamic link aggregation\nSlave Interface: a\nMII Status: up\nSlave Interface: b",
    );
    assert_eq!(class_names(&f.plain_view(9)), ["a", "b"]);
    fs::remove_dir_all(bonding).unwrap();
    assert_eq!(f.plain_view(9).legs[0].bond.as_ref().unwrap().mode, Mode::Ieee8023ad);
}

/// A device as netlink tells it.
fn told(index: u32, name: &str, address: u8, kind: InfoKind, master: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, address]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        LinkAttribute::Controller(master),
    ];
    message
}

#[test]
fn a_bond_of_the_same_name_number_and_slaves_in_sysfs_of_another_namespace_is_not_believed() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    for (device, address) in [("bond0", 1), ("e0", 1), ("e1", 2)] {
        f.write(&format!("sys/class/net/{device}/address"), &format!("02:00:00:00:00:0{address}"));
    }
    let with = |address: u8, slaves: [&str; 2]| {
        let mut messages = vec![told(9, "bond0", address, InfoKind::Bond, 0)];
        messages.extend((10..).zip(slaves).map(|(index, slave)| told(index, slave, address, InfoKind::Veth, 9)));
        let hop = NextHop { device: 9, gateway: None, weight: 1 };
        leg(&f.tree(), &Links::from_netlink(&messages), &hop, |_, _| None).bond
    };
    let names = |bond: &crate::bond::Bond| bond.slaves.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert!(with(1, ["e0", "e1"]).is_some_and(|bond| bond.ordered), "its own sysfs is");
    assert_eq!(with(3, ["e0", "e1"]), None, "another hardware address: not even the mode is known");
    f.write("proc/net/bonding/bond0", "Bonding Mode: load balancing (xor)\nSlave Interface: i1\nSlave Interface: i0");
    let own = with(3, ["i0", "i1"]).unwrap();
    assert_eq!((own.mode, names(&own)), (Mode::Xor, vec!["i1".to_owned(), "i0".to_owned()]));
    // Alike in all but its slaves.
    fs::remove_file(f.dir.path().join("proc/net/bonding/bond0")).unwrap();
    let own = with(1, ["i0", "i1"]).unwrap();
    assert_eq!((own.ordered, names(&own)), (false, vec!["i0".to_owned(), "i1".to_owned()]));
}

#[test]
fn names_that_are_no_text_are_found_in_every_source() {
    use std::os::unix::ffi::OsStrExt as _;
    let f = Fixture::new();
    let net = f.dir.path().join("sys/class/net");
    let page = f.dir.path().join("proc/net/bonding");
    for directory in [&net, &page] {
        fs::create_dir_all(directory).unwrap();
    }
    let name = std::ffi::OsStr::from_bytes(b"b\xff");
    fs::create_dir_all(net.join(name)).unwrap();
    fs::write(net.join(name).join("ifindex"), "9\n").unwrap();
    fs::write(net.join(name).join("uevent"), "DEVTYPE=bond\n").unwrap();
    fs::write(page.join(name), b"Bonding Mode: load balancing (xor)\nSlave Interface: e\xfe\nSlave Interface: e0\n")
        .unwrap();
    let bond = f.leg(9).bond.unwrap();
    assert_eq!(
        (bond.name.as_str(), bond.slaves[0].name.as_str(), bond.slaves[1].name.as_str()),
        ("b\\xff", "e\\xfe", "e0")
    );
}

#[test]
fn overrides_take_the_place_of_what_is_seen() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer2 0", &["e0", "e1"]);
    let with = |overrides| f.view(vec![f.leg(9)], overrides);
    assert!(said(&with(Overrides::default())).contains("xmit_hash_policy layer2: source ports cannot spread"));
    let policy = Some(Policy::Layer34);
    let view = with(Overrides { policy, ..Overrides::default() });
    assert_eq!(class_names(&view), ["e0", "e1"]);
    let view = with(Overrides { slaves: Some(4), policy, ..Overrides::default() });
    assert_eq!((view.streams, class_names(&view).len()), (4, 4));
    assert!(said(&view).contains("--slaves 4, but bond0 has 2 usable slaves"));
    let view = with(Overrides { slaves: Some(3), policy: Some(Policy::Layer23), ..Overrides::default() });
    assert_eq!(view.notes.last().map(|n| n.severity), Some(Severity::InTheWay));
    let view = with(Overrides { no_bond: true, ..Overrides::default() });
    assert_eq!((view.streams, view.outlook.weights().len()), (1, 0));
}

#[test]
fn where_streams_are_placed_every_slave_is_planned_for() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer2 0", &["e0", "e1"]);
    let with = |place| f.view(vec![f.leg(9)], Overrides { place, ..Overrides::default() });
    let (plain, placed) = (with(false), with(true));
    assert!(!plain.placed && plain.streams == 1 && placed.placed);
    assert_eq!((placed.streams, class_names(&placed)), (2, vec!["e0", "e1"]));
    assert!(placed.by_address.is_none() && !said(&placed).contains("cannot spread"));
    f.write("sys/class/net/bond0/bonding/mode", "active-backup 1");
    assert!(!with(true).placed, "one that must not be");
}

#[test]
fn a_fast_slave_gets_more_streams() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    for (speed, streams) in [("10000", 2), ("25000", 2), ("40000", 4), ("100000", 8), ("-1", 2)] {
        f.write("sys/class/net/e0/speed", speed);
        f.write("sys/class/net/e1/speed", speed);
        let view = f.plain_view(9);
        assert_eq!(view.streams, streams, "{speed}");
        let plan = view.planner(f.tree().port_pool(), 3).plan(streams, &[]).unwrap();
        let on_first = plan.iter().filter(|one| one.slave == Some(0)).count();
        assert_eq!(on_first, plan.len() / 2);
    }
}

#[test]
fn placing_is_offered_where_it_helps_and_the_kernel_can() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer2 0", &["e0", "e1"]);
    let offered = |release: &str| {
        f.write("proc/sys/kernel/osrelease", release);
        said(&f.view(vec![f.leg(9)], Overrides::default()))
    };
    let offer = "used; --place, with CAP_BPF and CAP_NET_ADMIN, uses all 2 links for this transfer and configures \
                 nothing (queueing and captures on bond0 do not see it); for good: as root: ip link set";
    assert!(offered("6.12.9").contains(offer), "{}", offered("6.12.9"));
    assert!(!offered("6.1.0-50-amd64").contains("--place"));
    f.write("sys/class/net/bond0/bonding/xmit_hash_policy", "layer3+4 1");
    assert!(!offered("6.12.9").contains("--place"));
}

#[test]
fn a_multipath_route_is_planned_over_next_hops_and_slaves_together() {
    let f = Fixture::new();
    f.bond("802.3ad 4", "layer3+4 1", &["e0", "e1"]);
    f.device("eth5", 5, "");
    f.write("sys/class/net/eth5/speed", "1000");
    let view = f.view(vec![f.leg(9), f.leg(5)], Overrides::default());
    assert_eq!(class_names(&view), ["e0", "e1", "eth5"]);
    let plan = view.planner(f.tree().port_pool(), 3).plan(6, &[]).unwrap();
    for (class, device) in [(0, 9), (1, 9), (2, 5)] {
        let ports: Vec<u16> = plan.iter().filter(|p| p.slave == Some(class)).filter_map(|p| p.port).collect();
        assert_eq!(ports.len(), 2);
        assert!(ports.iter().all(|p| (p % 3 == 0) == (device == 9)));
    }
    assert!(said(&view).contains("chooses among bond0, eth5 by the ports"));
}

#[test]
fn loopback_on_this_host_is_found_without_privilege() {
    let request = Request {
        destination: "[::ffff:127.0.0.1]:31337".parse().unwrap(),
        source: None,
        ports: None,
        overrides: Overrides::default(),
    };
    let view = discover(&request, &Tree::default()).unwrap();
    assert_eq!(view.legs[0].end, End::Loopback);
    assert_eq!(view.source, "127.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(view.streams, 1);
    let e = discover(&Request { source: Some("::1".parse().unwrap()), ..request.clone() }, &Tree::default());
    assert!(e.unwrap_err().to_string().contains("one is an IPv4 address, the other IPv6"));
    let e = discover(&Request { source: Some("198.51.100.7".parse().unwrap()), ..request }, &Tree::default());
    assert!(e.unwrap_err().to_string().starts_with("no route to 127.0.0.1 from 198.51.100.7: "));
}

/// Set in the copy of this test binary that runs inside the namespace.
const INSIDE: &str = "MPNC_TEST_INSIDE_NAMESPACE";

/// Devices and routes of the namespace, of kinds that small kernels have too: plain cards (ifb), a macvlan, a bridge, a
/// container's veth, and a multipath route.
const SETUP: &str = "
set -e
mount -t sysfs sysfs /sys
# Or addresses would come and settle at any time, and each is told.
for which in all default; do echo 1 > /proc/sys/net/ipv6/conf/$which/disable_ipv6 || true; done
echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy
ip link set lo up
for n in 0 1 2; do ip link add e$n type ifb; ip link set e$n up; done
ip address add 10.77.0.1/24 dev e0
ip address add 10.77.1.1/24 dev e1
ip link add link e0 name mv0 type macvlan
ip link set mv0 up
ip address add 10.77.3.1/24 dev mv0
ip link add br0 type bridge
ip link set br0 up
ip address add 10.77.4.1/24 dev br0
ip link add v2 type veth peer name v3
ip link set v2 up
ip link set v2 master br0
ip link add v0 type veth peer name v1
ip link set v0 up
ip link set v1 up
ip address add 10.77.5.1/24 dev v0
ip address add 10.79.0.1/32 dev lo
ip route add 10.78.0.0/16 src 10.79.0.1 nexthop via 10.77.0.2 dev e0 nexthop via 10.77.1.2 dev e1
exec \"$TEST_BINARY\" --exact discover::tests::a_real_namespace_is_walked_and_watched --include-ignored --nocapture
";

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_real_namespace_is_walked_and_watched() {
    if std::env::var_os(INSIDE).is_some() {
        return inside_the_namespace();
    }
    let output = std::process::Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", SETUP])
        .env(INSIDE, "1")
        .env("TEST_BINARY", std::env::current_exe().unwrap())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => return needs::missing(&format!("cannot run unshare (util-linux): {e}")),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("unshare failed") || stderr.contains("ip: not found") {
        return needs::missing(&format!("needs root and iproute2: {}", stderr.trim()));
    }
    assert!(output.status.success(), "{stderr}");
}

fn inside_the_namespace() {
    let find = |to: &str| {
        let destination = SocketAddr::new(to.parse().unwrap(), 31337);
        discover(&Request::to(destination), &Tree::default()).unwrap()
    };
    let names = |view: &PathView| {
        view.legs.iter().flat_map(|leg| leg.layers.iter().map(|l| l.name.clone())).collect::<Vec<_>>()
    };
    for (to, source, layers, end) in [
        ("10.77.0.9", "10.77.0.1", vec!["e0"], End::NoBond),
        ("10.77.3.9", "10.77.3.1", vec!["mv0", "e0"], End::NoBond),
        ("10.77.4.9", "10.77.4.1", vec!["br0", "v2"], End::Elsewhere),
        ("10.77.5.9", "10.77.5.1", vec!["v0"], End::Elsewhere),
    ] {
        let view = find(to);
        assert_eq!((names(&view), view.legs[0].end), (layers.into_iter().map(String::from).collect(), end), "{to}");
        assert_eq!(view.source, source.parse::<IpAddr>().unwrap());
    }
    multipath(&find("10.78.0.1"));
    watching();
    fs::write("/proc/sys/net/ipv4/fib_multipath_hash_policy", "0").unwrap();
    let view = find("10.78.0.1");
    assert!(said(&view).contains("fib_multipath_hash_policy 0 sends all streams over one"), "{}", said(&view));
}

fn multipath(view: &PathView) {
    assert_eq!(view.classes.len(), 2, "{view:?}");
    let plan = view.planner(Tree::default().port_pool(), 11).plan(8, &[]).unwrap();
    for class in 0..2u16 {
        assert_eq!(plan.iter().filter(|p| p.slave == Some(class)).count(), 4);
    }
    // What the kernel says about each port once more, by another way.
    for p in &plan {
        let told = std::process::Command::new("ip")
            .args(["route", "get", "10.78.0.1", "from", &view.source.to_string(), "ipproto", "tcp", "dport", "31337"])
            .args(["sport", &p.port.unwrap().to_string()])
            .output()
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.contains(&format!("dev {} ", view.class_name(p.slave.unwrap()))), "{told} {p:?}");
    }
}

fn watching() {
    let index = |name: &str| -> u32 { Tree::default().attribute(name, "ifindex").unwrap().trim().parse().unwrap() };
    let mut watch = LinkWatch::new().unwrap();
    let ip = |args: &[&str]| {
        assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
    };
    assert!(!watch.drain(&[index("e0")]).unwrap());
    ip(&["link", "set", "e1", "down"]);
    assert!(!watch.drain(&[index("e0")]).unwrap());
    ip(&["link", "set", "e0", "down"]);
    assert!(watch.drain(&[index("e0")]).unwrap());
    ip(&["link", "set", "v2", "down"]);
    assert!(watch.drain(&[index("br0")]).unwrap(), "a member of a watched device");
    ip(&["link", "set", "e0", "up"]);
    ip(&["link", "set", "e1", "up"]);
    ip(&[
        "route",
        "replace",
        "10.78.0.0/16",
        "src",
        "10.79.0.1",
        "nexthop",
        "via",
        "10.77.0.2",
        "dev",
        "e0",
        "nexthop",
        "via",
        "10.77.1.2",
        "dev",
        "e1",
    ]);
}
