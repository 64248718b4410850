//! The checks of one host: bond, LACP, slaves, MTU, windows, conntrack, arrivals.

use super::{BondState, Check, Facts, Slave, Trial, switch};
use crate::bond::{Mode, Note};

/// A stream's window is measured against at least this round trip: under load no network is quicker. Microseconds.
const LEAST_RTT: u64 = 200;
/// More errors than one in so many packets, since boot, is no accident.
const ERRORS: u64 = 100_000;
/// Conntrack as full as this (per cent) will soon drop what is new.
const FULL: u64 = 90;

/// Examines a host by what it knew before and after a probe (the same facts twice where there was none).
pub fn examine(before: &Facts, after: &Facts, probe: &Trial) -> Vec<Check> {
    let mut checks = vec![bond(after)];
    checks.extend(lacp(after));
    checks.extend(slaves(before, after));
    checks.push(mtu(after));
    checks.push(windows(after, probe));
    checks.extend(conntrack(after));
    checks.extend(switch::checks(before, after, probe));
    checks
}

/// What [`crate::bond::policy`] and discovery have to say.
fn bond(facts: &Facts) -> Check {
    let seen: Vec<String> = facts.bonds.iter().map(describe).collect();
    let seen = if seen.is_empty() { "no bond on the way".to_owned() } else { seen.join("; ") };
    Check::new("bond", seen, facts.notes.clone())
}

fn describe(bond: &BondState) -> String {
    let usable = bond.slaves.iter().filter(|slave| slave.usable).count();
    format!(
        "{}: mode {}, policy {}, {usable} of {} slaves usable",
        bond.name,
        bond.mode,
        bond.policy,
        bond.slaves.len()
    )
}

// --- LACP ------------------------------------------------------------------------------------------------------------

/// Synchronisation, collecting, distributing: all three are needed to carry data.
const CARRIES: u8 = 0x38;
/// No partner has been heard: its values are defaults.
const DEFAULTED: u8 = 0x40;
/// The partner has fallen silent.
const EXPIRED: u8 = 0x80;

fn lacp(facts: &Facts) -> Option<Check> {
    let bonds: Vec<&BondState> = facts.bonds.iter().filter(|bond| bond.mode == Mode::Ieee8023ad.name()).collect();
    let slaves: Vec<&Slave> = bonds.iter().flat_map(|bond| &bond.slaves).collect();
    let known = slaves.iter().filter(|slave| slave.lacp.is_some()).count();
    let notes = slaves.into_iter().filter(|slave| slave.up).filter_map(lacp_note).collect();
    (known > 0).then(|| Check::new("lacp", format!("{known} slaves and their partners agree to carry data"), notes))
}

/// What is amiss between a slave whose link is up and the switch's port.
fn lacp_note(slave: &Slave) -> Option<Note> {
    let (actor, partner) = slave.lacp?;
    let name = &slave.device.name;
    let (what, remedy) = if actor & (DEFAULTED | EXPIRED) != 0 {
        ("no LACP partner answers", "on the switch: put its port into the LACP group (active or passive)")
    } else if partner & CARRIES != CARRIES {
        (
            "the switch does not let it carry data",
            "on the switch: its port must be in the same LACP group as the others', and the group not be limited to \
             fewer links (max-bundle)",
        )
    } else if actor & CARRIES != CARRIES {
        ("LACP keeps it out", "give it the speed and duplex of the other slaves, and its port their LACP group")
    } else {
        return None;
    };
    Some(Note::in_the_way(format!("{name}: {what} (port state here {actor:#04x}, there {partner:#04x})"), remedy))
}

// --- slaves ----------------------------------------------------------------------------------------------------------

fn slaves(before: &Facts, after: &Facts) -> Option<Check> {
    let pairs: Vec<(&Slave, &Slave)> = before.slaves().zip(after.slaves()).collect();
    if pairs.is_empty() {
        return None;
    }
    let notes = pairs.iter().flat_map(|(before, after)| slave_notes(before, after)).collect();
    let speeds: Vec<String> =
        pairs.iter().map(|(_, slave)| format!("{} {}", slave.device.name, speed(slave))).collect();
    Some(Check::new("slaves", format!("{}; no errors to speak of", speeds.join(", ")), notes))
}

fn speed(slave: &Slave) -> String {
    slave.device.speed.map_or_else(|| "of unknown speed".to_owned(), |mbit| format!("{mbit} Mbit/s"))
}

fn slave_notes(before: &Slave, after: &Slave) -> Vec<Note> {
    let (name, then, now) = (&after.device.name, before.counters, after.counters);
    let mut notes = Vec::new();
    if after.duplex.as_deref() == Some("half") {
        notes.push(Note::in_the_way(
            format!("{name} runs half duplex"),
            format!("switch autonegotiation on at both ends of its cable (ethtool -s {name} autoneg on)"),
        ));
    }
    let new = now.errors.saturating_sub(then.errors);
    if new > 0 || now.errors > now.packets / ERRORS {
        notes.push(Note::in_the_way(
            format!("{name}: {} errors in {} packets, {new} of them during the probe", now.errors, now.packets),
            format!("change its cable or transceiver; ethtool -S {name} tells the kind of error"),
        ));
    }
    if now.carrier_changes != then.carrier_changes {
        notes.push(Note::in_the_way(
            format!("{name}: its link went down or up during the probe"),
            "check its cable, its transceiver and the switch's log",
        ));
    }
    notes
}

// --- the rest --------------------------------------------------------------------------------------------------------

/// Whether the devices of this host agree. What is on top must fit what is beneath, and slaves must be alike.
fn mtu(facts: &Facts) -> Check {
    let mut notes = Vec::new();
    for pair in facts.way.windows(2) {
        if let [(upper, Some(above)), (lower, Some(below))] =
            [(&pair[0].name, pair[0].mtu), (&pair[1].name, pair[1].mtu)]
            && above > below
        {
            notes.push(Note::in_the_way(
                format!("{upper} has MTU {above}, but {lower} beneath it {below}: full packets are lost"),
                format!("as root: ip link set {upper} mtu {below} (or raise {lower})"),
            ));
        }
    }
    for bond in &facts.bonds {
        let Some(due) = facts.way.iter().find(|device| device.name == bond.name).and_then(|device| device.mtu) else {
            continue;
        };
        let odd = bond.slaves.iter().map(|slave| &slave.device).filter_map(|device| Some((device, device.mtu?)));
        notes.extend(odd.filter(|(_, mtu)| *mtu != due).map(|(device, mtu)| {
            Note::in_the_way(
                format!("{} has MTU {due}, its slave {} {mtu}", bond.name, device.name),
                format!("as root: ip link set {} mtu {due}", bond.name),
            )
        }));
    }
    let top = facts.way.first().and_then(|device| Some(format!("{} has MTU {}", device.name, device.mtu?)));
    Check::new("mtu", top.unwrap_or_else(|| "cannot be read".to_owned()), notes)
}

fn windows(facts: &Facts, probe: &Trial) -> Check {
    let windows = facts.windows;
    let mut notes = Vec::new();
    if windows.scaling == Some(false) {
        notes.push(Note::in_the_way(
            "TCP window scaling is off: no stream has more than 64 KiB under way",
            "as root: sysctl -w net.ipv4.tcp_window_scaling=1",
        ));
    }
    let rtt = probe.rtt_us.unwrap_or(0).max(LEAST_RTT);
    let speed = facts.speed();
    // Mbit/s by microseconds is bits.
    let needed = speed.map(|mbit| u64::from(mbit) * rtt / 8);
    let short = |have: Option<u64>| Some((have?, needed?)).filter(|(have, needed)| have < needed);
    // Half of the receive buffer is kept for the overhead of packets (tcp_adv_win_scale 1).
    if let Some((window, needed)) = short(windows.rmem.map(|bytes| bytes / 2)) {
        notes.push(capped("tcp_rmem", "receives", window, needed, rtt, (windows.rmem, 2 * needed)));
    }
    if let Some((window, needed)) = short(windows.wmem) {
        notes.push(capped("tcp_wmem", "sends", window, needed, rtt, (windows.wmem, needed)));
    }
    let seen = match speed {
        Some(mbit) => format!("large enough for {mbit} Mbit/s a stream at a round trip of {}", millis(rtt)),
        None => "no speed is known to measure them by".to_owned(),
    };
    Check::new("windows", seen, notes)
}

/// `value`: what the setting is, and what it should be.
fn capped(sysctl: &str, verb: &str, window: u64, needed: u64, rtt: u64, value: (Option<u64>, u64)) -> Note {
    let mbit = window * 8 / rtt;
    Note::in_the_way(
        format!(
            "net.ipv4.{sysctl} ends at {}: a stream {verb} {mbit} Mbit/s at most at a round trip of {}; a \
             slave needs a window of {needed} bytes",
            value.0.unwrap_or(0),
            millis(rtt)
        ),
        format!("as root: sysctl -w net.ipv4.{sysctl}='4096 131072 {}'", value.1.max(6 << 20)),
    )
}

#[expect(clippy::cast_precision_loss, reason = "a digit after the point is shown")]
fn millis(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

fn conntrack(facts: &Facts) -> Option<Check> {
    let (count, max) = facts.conntrack.filter(|(_, max)| *max > 0)?;
    let full = count * 100 >= max * FULL;
    let seen = format!("conntrack holds {count} of {max} connections");
    let note = full.then(|| {
        Note::in_the_way(
            format!("{seen}: new streams will be dropped"),
            format!("as root: sysctl -w net.netfilter.nf_conntrack_max={}", max * 2),
        )
    });
    Some(Check::new("conntrack", seen, note.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{after, sound};
    use super::super::{Device, Windows};
    use super::*;

    const PROBE: Trial = Trial { rtt_us: Some(150), streams: 16 };

    fn said(facts: &Facts) -> Vec<String> {
        let checks = examine(facts, facts, &PROBE);
        checks.iter().flat_map(|check| &check.notes).map(ToString::to_string).collect()
    }

    #[track_caller]
    fn says(facts: &Facts, parts: &[&str]) {
        let said = said(facts);
        assert_eq!(said.len(), 1, "{said:?}");
        for part in parts {
            assert!(said[0].contains(part), "no {part:?} in {said:?}");
        }
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = sound();
        change(&mut facts);
        facts
    }

    #[test]
    fn of_a_healthy_host_nothing_is_said_but_all_was_looked_at() {
        let even = after([2 << 20; 4]);
        let checks = examine(&sound(), &even, &PROBE);
        assert!(checks.iter().all(|check| check.notes.is_empty()), "{checks:?}");
        let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["bond", "lacp", "slaves", "mtu", "windows", "conntrack", "arrivals"]);
    }

    #[test]
    fn a_host_without_a_bond_whose_files_are_hidden_is_no_finding() {
        let mut facts = Facts { bonds: Vec::new(), conntrack: None, windows: Windows::default(), ..sound() };
        facts.way[0] = Device { name: "eth0".into(), mtu: None, speed: None };
        assert_eq!(said(&facts), [""; 0]);
    }

    #[test]
    fn what_the_bond_is_about_is_passed_on() {
        let note = Note::in_the_way("bond0 is in mode active-backup", "another mode");
        says(&with(|facts| facts.notes.push(note)), &["active-backup; another mode"]);
    }

    #[test]
    fn a_switch_port_outside_the_lacp_group_is_named() {
        let state = |lacp| with(|facts| facts.bonds[0].slaves[2].lacp = Some(lacp));
        says(&state((0x45, 0x01)), &["e2: no LACP partner answers", "on the switch"]);
        says(&state((0x3f, 0x07)), &["e2: the switch does not let it carry data"]);
        says(&state((0x07, 0x3f)), &["e2: LACP keeps it out"]);
        // A link that is down has no partner either; that it is down is said already.
        let down =
            with(|facts| (facts.bonds[0].slaves[2].lacp, facts.bonds[0].slaves[2].up) = (Some((0x45, 1)), false));
        assert_eq!(said(&down), [""; 0]);
    }

    #[test]
    fn bad_links_are_named() {
        says(&with(|facts| facts.bonds[0].slaves[1].duplex = Some("half".into())), &["e1 runs half duplex", "ethtool"]);
        says(
            &with(|facts| facts.bonds[0].slaves[1].counters.errors = 500),
            &["e1: 500 errors in 1000000 packets", "cable"],
        );
        assert_eq!(said(&with(|facts| facts.bonds[0].slaves[1].counters.errors = 3)), [""; 0]);
        let checks = examine(&sound(), &with(|facts| facts.bonds[0].slaves[1].counters.carrier_changes = 1), &PROBE);
        assert!(checks[2].notes[0].what.contains("went down or up during the probe"));
        let checks = examine(&sound(), &with(|facts| facts.bonds[0].slaves[1].counters.errors = 1), &PROBE);
        assert!(checks[2].notes[0].what.contains("1 of them during the probe"));
    }

    #[test]
    fn devices_that_do_not_fit_on_each_other_are_named() {
        let vlan = Device { name: "bond0.100".into(), mtu: Some(9000), speed: None };
        says(
            &with(|facts| facts.way.insert(0, vlan)),
            &["bond0.100 has MTU 9000, but bond0 beneath it 1500", "mtu 1500"],
        );
        says(&with(|facts| facts.bonds[0].slaves[3].device.mtu = Some(1400)), &["its slave e3 1400", "mtu 1500"]);
    }

    #[test]
    fn settings_that_cap_the_window_are_named_with_a_sufficient_value() {
        says(&with(|facts| facts.windows.scaling = Some(false)), &["64 KiB", "tcp_window_scaling=1"]);
        says(
            &with(|facts| facts.windows.rmem = Some(32768)),
            &["tcp_rmem ends at 32768", "655 Mbit/s", "131072 6291456'"],
        );
        says(&with(|facts| facts.windows.wmem = Some(65536)), &["tcp_wmem ends at 65536", "sends"]);
        // 10 Gbit/s over 40 ms: 50 MB.
        let far = Trial { rtt_us: Some(40_000), streams: 16 };
        let checks = examine(&sound(), &sound(), &far);
        let windows = checks.iter().find(|check| check.name == "windows").unwrap();
        assert!(windows.notes[0].remedy.contains("100000000"), "{windows:?}");
        assert_eq!(windows.notes.len(), 2);
    }

    #[test]
    fn a_full_conntrack_is_named() {
        says(&with(|facts| facts.conntrack = Some((60_000, 65_536))), &["60000 of 65536", "nf_conntrack_max=131072"]);
    }
}
