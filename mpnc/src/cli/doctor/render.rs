//! A diagnosis as text: a line for each check, the remedy of a finding on a line of its own.

use crate::bond::{Note, Severity};
use crate::doctor::{Check, Diagnosis, Host};
use std::fmt::Write as _;

/// Widths of the first two columns.
const MARK: usize = 11;
const NAME: usize = 10;

/// The diagnosis for people.
pub(super) fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    host(&mut out, "this host", &diagnosis.here);
    if let Some(there) = &diagnosis.there {
        host(&mut out, "the other host", there);
    }
    let _ = writeln!(out, "between the two");
    checks(&mut out, &diagnosis.between);
    let verdict = match diagnosis.findings {
        0 if diagnosis.there.is_some() => "nothing is in the way of full speed".to_owned(),
        0 => "nothing that can be seen from this host is in the way of full speed".to_owned(),
        1 => "1 finding: see the line with ->".to_owned(),
        n => format!("{n} findings: see the lines with ->"),
    };
    let _ = writeln!(out, "{verdict}");
    out
}

fn host(out: &mut String, who: &str, host: &Host) {
    let _ = writeln!(out, "{who} ({}, Linux {})", host.facts.address, host.facts.kernel);
    checks(out, &host.checks);
}

fn checks(out: &mut String, checks: &[Check]) {
    for check in checks {
        if check.notes.is_empty() {
            line(out, "ok", &check.name, &check.seen);
        }
        check.notes.iter().for_each(|note| remark(out, &check.name, note));
    }
}

fn remark(out: &mut String, name: &str, note: &Note) {
    let mark = match note.severity {
        Severity::Info => "note",
        Severity::Uncertain => "uncertain",
        Severity::InTheWay => "in the way",
    };
    line(out, mark, name, &note.what);
    if !note.remedy.is_empty() {
        line(out, "", "", &format!("-> {}", note.remedy));
    }
}

fn line(out: &mut String, mark: &str, name: &str, text: &str) {
    let _ = writeln!(out, "  {mark:MARK$} {name:NAME$} {text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Facts, Windows};

    fn examined(checks: Vec<Check>) -> Host {
        let facts = Facts {
            kernel: "6.1.0".into(),
            address: "10.0.0.1".parse().unwrap(),
            way: Vec::new(),
            bonds: Vec::new(),
            windows: Windows::default(),
            conntrack: None,
            notes: Vec::new(),
        };
        Host { version: 1, facts, checks }
    }

    #[test]
    fn each_check_has_a_line_and_each_finding_its_remedy() {
        let fine = Check { name: "mtu".into(), seen: "eth0 has MTU 1500".into(), notes: Vec::new() };
        let bad = Check {
            name: "lacp".into(),
            seen: String::new(),
            notes: vec![Note::in_the_way("e2: silent", "plug it in")],
        };
        let there = Check { name: "bond".into(), seen: "bond0".into(), notes: Vec::new() };
        let peer = "10.0.0.2:31337".parse().unwrap();
        let diagnosis = Diagnosis::new(peer, examined(vec![fine, bad]), Some(examined(vec![there])), Vec::new());
        assert_eq!(
            text(&diagnosis),
            "this host (10.0.0.1, Linux 6.1.0)\n  \
             ok          mtu        eth0 has MTU 1500\n  \
             in the way  lacp       e2: silent\n                         \
             -> plug it in\n\
             the other host (10.0.0.1, Linux 6.1.0)\n  \
             ok          bond       bond0\n\
             between the two\n\
             1 finding: see the line with ->\n"
        );
    }
}
