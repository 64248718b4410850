//! The notes that tell a person what is amiss with a bond, and what can be done about it.
//!
//! Must not know how facts were found or how notes are printed.

use std::fmt;

use mpnc_ebpf::hash::Policy;
use serde::{Deserialize, Serialize};

use super::model::{Bond, Mode, Slave};
use super::sway::{Stacking, Sway};

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing, changes nothing.
    Info,
    /// The plan may not hold.
    Uncertain,
    /// Something keeps streams from using every slave.
    InTheWay,
}

/// Something that a person should know about the path, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// What to do, in one line; empty where nothing is called for.
    pub remedy: String,
}

impl Note {
    /// A note that calls for nothing.
    pub fn info(what: impl Into<String>) -> Self {
        Self { severity: Severity::Info, what: what.into(), remedy: String::new() }
    }

    /// The plan may not hold.
    pub fn uncertain(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Uncertain, what: what.into(), remedy: remedy.into() }
    }

    /// Slaves will stay idle.
    pub fn in_the_way(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::InTheWay, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

/// Everything about a bond and the devices above it that a person should hear.
pub fn notes(bond: &Bond, stacking: Stacking) -> Vec<Note> {
    let mut notes = Vec::new();
    notes.extend(sway_note(bond, stacking));
    notes.extend(state_notes(bond));
    notes
}

/// Why ports do not choose the slave, if they do not.
pub fn sway_note(bond: &Bond, stacking: Stacking) -> Option<Note> {
    let name = &bond.name;
    let slaves = bond.usable().len();
    let policy = bond.policy_name();
    let set_policy = format!("as root: ip link set {name} type bond xmit_hash_policy layer3+4");
    Some(match Sway::of(bond, stacking) {
        Sway::Exact => return None,
        // Of an active-backup bond only one slave is ever usable: the others are what it is about.
        _ if slaves <= 1 && (bond.mode != Mode::ActiveBackup || bond.slaves.len() <= 1) => return None,
        Sway::PerPacket => Note::info(format!(
            "{name} is in mode balance-rr: every packet takes the next slave, whatever the ports; TCP sees reordering"
        )),
        Sway::Everywhere => Note::info(format!(
            "{name} is in mode broadcast: every frame goes out on every slave; more streams only cost"
        )),
        Sway::Loaded => Note::uncertain(
            format!("{name} is in mode balance-tlb and places flows by load: their slaves cannot be predicted"),
            format!(
                "as root, while {name} is down: ip link set {name} type bond tlb_dynamic_lb 0 xmit_hash_policy layer3+4"
            ),
        ),
        Sway::Drawn if bond.policy.is_none() => Note::uncertain(
            format!("{name} has an xmit_hash_policy that is not known here: what it does to streams has to be seen"),
            set_policy,
        ),
        Sway::Drawn if bond.policy == Some(Policy::Encap34) => Note::uncertain(
            format!("{name} has xmit_hash_policy encap3+4: each connection draws one of {slaves} slaves at random"),
            set_policy,
        ),
        Sway::Drawn => Note::uncertain(
            format!("a tunnel above {name} gives each connection an outer port at random: slaves cannot be predicted"),
            "send to an address that is reached without the tunnel, or give more --streams",
        ),
        Sway::Nothing => return Some(nothing_note(bond, stacking, policy, &set_policy)),
    })
}

/// Why all streams share one slave.
fn nothing_note(bond: &Bond, stacking: Stacking, policy: &str, set_policy: &str) -> Note {
    let (name, slaves) = (&bond.name, bond.usable().len());
    match (bond.mode, stacking) {
        (Mode::ActiveBackup, _) => Note::in_the_way(
            format!("{name} is in mode active-backup: one slave carries everything, the others wait"),
            "only another mode (802.3ad, with the switch's ports in one LACP group) uses them all",
        ),
        (Mode::Alb, _) if bond.dynamic_lb => Note::in_the_way(
            format!("{name} is in mode balance-alb and picks by destination address: 1 of {slaves} slaves is used"),
            format!(
                "as root, while {name} is down: ip link set {name} type bond tlb_dynamic_lb 0 xmit_hash_policy layer3+4"
            ),
        ),
        (_, Stacking::DoubleVlan) => Note::in_the_way(
            format!("VLAN on VLAN above {name}: ports do not reach the bond's hash, 1 of {slaves} slaves is used"),
            "send to an address that is reached through at most one VLAN",
        ),
        (_, Stacking::PlainTunnel | Stacking::OneFlow | Stacking::UdpTunnel) => Note::in_the_way(
            format!("a tunnel above {name}: ports do not reach the bond's hash, 1 of {slaves} slaves is used"),
            "send to an address that is reached without the tunnel",
        ),
        _ => Note::in_the_way(
            format!(
                "{name} has xmit_hash_policy {policy}: source ports cannot spread this bond, 1 of {slaves} slaves is \
                 used"
            ),
            set_policy,
        ),
    }
}

fn names(slaves: &[&Slave]) -> String {
    slaves.iter().map(|slave| slave.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What is amiss with the bond's slaves.
pub fn state_notes(bond: &Bond) -> Vec<Note> {
    let (name, all, usable) = (&bond.name, bond.slaves.len(), bond.usable());
    let mut notes = Vec::new();
    let (moving, reserve) = (bond.moving(), bond.reserve());
    if !moving.is_empty() {
        notes.push(Note::uncertain(
            format!("{name}: LACP is changing ({}); {} usable slaves for now", names(&moving), usable.len()),
            "wait a few seconds and try again",
        ));
    }
    if !reserve.is_empty() {
        notes.push(Note::in_the_way(
            format!("{name}: the switch keeps {} of {all} slaves in reserve ({})", reserve.len(), names(&reserve)),
            "on the switch: let the LACP group use more links (max-bundle, maximum active links)",
        ));
    }
    let idle = |slave: &&Slave| ![&usable, &moving, &reserve].iter().any(|others| others.contains(slave));
    let idle: Vec<&Slave> = bond.slaves.iter().filter(idle).collect();
    if !idle.is_empty() && bond.mode != Mode::ActiveBackup {
        notes.push(Note::in_the_way(
            format!("{name}: {} of {all} slaves cannot carry data ({})", idle.len(), names(&idle)),
            "check their cables and the switch's LACP group; planned without them",
        ));
    }
    if !bond.ordered && usable.len() > 1 {
        notes.push(Note::uncertain(
            format!("{name}: the order of its slaves is unknown, so a stream's slave is known by number only"),
            "make /sys/class/net or /proc/net/bonding readable here",
        ));
    }
    let weights = bond.weights();
    if weights.windows(2).any(|w| w[0] != w[1]) {
        notes.push(Note::info(format!("{name}: slaves of unequal speed; faster ones get more of the streams")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{bond, slave};
    use super::super::model::{Mii, SlaveState};
    use super::*;

    fn four() -> Bond {
        bond(["e0", "e1", "e2", "e3"].map(slave).to_vec())
    }

    fn texts(bond: &Bond, stacking: Stacking) -> Vec<String> {
        notes(bond, stacking).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_choose_exactly_only_where_kernels_were_seen_to_obey() {
        for mode in Mode::ALL {
            for dynamic_lb in [false, true] {
                for n in 0..6 {
                    let policy = Policy::from_u32(n).unwrap();
                    let b = Bond { mode, policy: Some(policy), dynamic_lb, ..four() };
                    let hashed = matches!(mode, Mode::Xor | Mode::Ieee8023ad)
                        || (!dynamic_lb && matches!(mode, Mode::Tlb | Mode::Alb));
                    let exact = hashed && policy == Policy::Layer34;
                    assert_eq!(Sway::of(&b, Stacking::Plain) == Sway::Exact, exact, "{mode:?} {policy:?}");
                    assert_ne!(Sway::of(&b, Stacking::DoubleVlan), Sway::Exact);
                    assert_ne!(Sway::of(&b, Stacking::OneFlow), Sway::Exact);
                }
            }
        }
    }

    #[test]
    fn a_sound_bond_has_no_notes() {
        assert_eq!(notes(&four(), Stacking::Plain), []);
        assert_eq!(Sway::Exact.streams(4), 4);
    }

    #[test]
    fn policies_that_ignore_ports_are_named_with_the_command_that_mends_them() {
        let b = Bond { policy: Some(Policy::Layer23), ..four() };
        assert_eq!(
            texts(&b, Stacking::Plain),
            ["bond0 has xmit_hash_policy layer2+3: source ports cannot spread this bond, 1 of 4 slaves is used; \
              as root: ip link set bond0 type bond xmit_hash_policy layer3+4"]
        );
        assert_eq!(Sway::of(&b, Stacking::Plain).streams(4), 1);
        let b = Bond { policy: Some(Policy::Encap34), ..four() };
        assert!(texts(&b, Stacking::Plain)[0].contains("draws one of 4 slaves at random"));
        assert_eq!(Sway::of(&b, Stacking::Plain).streams(4), 16);
    }

    #[test]
    fn modes_and_stacks_that_defeat_ports_are_named() {
        let in_mode = |mode| texts(&Bond { mode, ..four() }, Stacking::Plain).join("\n");
        assert!(in_mode(Mode::ActiveBackup).contains("one slave carries everything"));
        assert!(in_mode(Mode::Broadcast).contains("more streams only cost"));
        assert!(in_mode(Mode::RoundRobin).contains("every packet takes the next slave"));
        assert!(in_mode(Mode::Tlb).contains("places flows by load"));
        assert!(in_mode(Mode::Alb).contains("picks by destination address"));
        for (stacking, says) in [
            (Stacking::DoubleVlan, "VLAN on VLAN above bond0: ports do not reach the bond's hash"),
            (Stacking::OneFlow, "a tunnel above bond0: ports do not reach the bond's hash"),
            (Stacking::PlainTunnel, "a tunnel above bond0: ports do not reach the bond's hash"),
            (Stacking::UdpTunnel, "outer port at random"),
        ] {
            assert!(texts(&four(), stacking)[0].contains(says), "{stacking:?}");
        }
    }

    #[test]
    fn slaves_that_are_out_are_named_and_unsettled_lacp_too() {
        let mut b = four();
        b.slaves[2].mii = Mii::Down;
        b.slaves[2].state = SlaveState::Backup;
        let said = texts(&b, Stacking::Plain);
        assert!(said[0].starts_with("bond0: 1 of 4 slaves cannot carry data (e2); check"), "{said:?}");
        (b.slaves[2].mii, b.slaves[2].lacp) = (Mii::Up, Some((0x0f, 0x3f)));
        let said = texts(&b, Stacking::Plain);
        assert!(said[0].starts_with("bond0: LACP is changing (e2); 3 usable slaves for now"), "{said:?}");
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn slaves_in_reserve_are_named_as_what_they_are() {
        let mut b = four();
        for slave in &mut b.slaves[2..] {
            (slave.state, slave.lacp) = (SlaveState::Backup, Some((0x0f, 0x07)));
        }
        let said = texts(&b, Stacking::Plain);
        assert!(said[0].starts_with("bond0: the switch keeps 2 of 4 slaves in reserve (e2, e3); on the switch"));
        assert_eq!(said.len(), 1, "{said:?}");
    }

    #[test]
    fn an_unknown_policy_is_doubt_and_not_a_guess() {
        let unknown = |mode, stacking| Sway::of(&Bond { mode, policy: None, ..four() }, stacking);
        assert_eq!(unknown(Mode::Ieee8023ad, Stacking::Plain), Sway::Drawn);
        assert_eq!(unknown(Mode::RoundRobin, Stacking::Plain), Sway::PerPacket);
        assert_eq!(unknown(Mode::Xor, Stacking::OneFlow), Sway::Nothing);
        let said = texts(&Bond { policy: None, ..four() }, Stacking::Plain);
        assert!(said[0].contains("not known here") && said[0].contains("xmit_hash_policy layer3+4"), "{said:?}");
    }

    #[test]
    fn one_usable_slave_needs_no_talk_of_hashes() {
        let b = Bond { policy: Some(Policy::Layer2), ..bond(vec![slave("e0")]) };
        assert_eq!(notes(&b, Stacking::Plain), []);
    }
}
