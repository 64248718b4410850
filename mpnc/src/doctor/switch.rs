//! Whether the other end of the links (the switch) spreads what it sends here: by what each slave received of a probe
//! of many streams.
//!
//! Streams are hashed to slaves as by lot, so a slave may stay idle by chance; it is told only where chance is out of
//! the question.

use super::{BondState, Check, Facts, Trial};
use crate::bond::{Mode, Note};

/// A slave that gets less than this part of an equal share is idle: acknowledgements and other traffic are no spread.
const IDLE: f64 = 0.05;
/// Too little arrived to judge by: bytes over all slaves.
const ENOUGH: u64 = 1 << 20;
/// What passes for impossible.
const BY_CHANCE: f64 = 1e-3;

/// The check of each bond whose slaves all receive.
pub(super) fn checks(before: &Facts, after: &Facts, probe: &Trial) -> Vec<Check> {
    let pairs = before.bonds.iter().zip(&after.bonds);
    pairs.filter_map(|(before, after)| check(before, after, probe.streams)).collect()
}

fn check(before: &BondState, after: &BondState, streams: u32) -> Option<Check> {
    let receives = [Mode::Ieee8023ad, Mode::Xor, Mode::RoundRobin].iter().any(|mode| mode.name() == after.mode);
    let got: Vec<(&str, u64)> = (before.slaves.iter().zip(&after.slaves))
        .filter(|(before, after)| before.usable && after.usable)
        .map(|(before, after)| {
            let bytes = after.counters.rx_bytes.saturating_sub(before.counters.rx_bytes);
            (after.device.name.as_str(), bytes)
        })
        .collect();
    let total: u64 = got.iter().map(|(_, bytes)| bytes).sum();
    if !receives || got.len() < 2 || total < ENOUGH {
        return None;
    }
    let percent = |bytes: u64| 100.0 * float(bytes) / float(total);
    let shares: Vec<String> = got.iter().map(|(name, bytes)| format!("{name} {:.0} %", percent(*bytes))).collect();
    let idle = got.iter().filter(|(_, bytes)| float(*bytes) * float(got.len() as u64) < IDLE * float(total)).count();
    let seen = format!("{streams} streams arrive on {}", shares.join(", "));
    let told = idle > 0 && chance(got.len(), idle, streams) < BY_CHANCE;
    let note = told.then(|| {
        Note::in_the_way(
            format!(
                "{seen}: what sends to {} (the switch) uses {} of {} links, whatever the ports",
                after.name,
                got.len() - idle,
                got.len()
            ),
            "on the switch: balance its port group towards this host by layer 3 and 4 (src-dst-port, \"layer3+4\", \
             \"enhanced\")",
        )
    });
    Some(Check::new("arrivals", seen, note.into_iter().collect()))
}

/// How probable it is at most that some `idle` of `slaves` get none of `streams`, each of which draws its slave by lot.
fn chance(slaves: usize, idle: usize, streams: u32) -> f64 {
    let (slaves, idle) = (slaves as u64, idle as u64);
    let choices: f64 = (0..idle).map(|i| float(slaves - i) / float(i + 1)).product();
    choices * (float(slaves - idle) / float(slaves)).powf(f64::from(streams))
}

#[expect(clippy::cast_precision_loss, reason = "shares need no more than a few digits")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{after, sound};
    use super::*;

    fn notes(arrived: [u64; 4], streams: u32) -> Vec<Note> {
        let probe = Trial { streams, ..Trial::default() };
        checks(&sound(), &after(arrived), &probe).into_iter().flat_map(|check| check.notes).collect()
    }

    #[test]
    fn a_switch_that_uses_one_link_is_named() {
        let notes = notes([9 << 20, 1000, 2000, 1000], 16);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].what.contains("uses 1 of 4 links"), "{}", notes[0]);
        assert!(notes[0].remedy.contains("on the switch"), "{}", notes[0]);
    }

    #[test]
    fn a_spread_uneven_by_chance_is_no_finding() {
        assert_eq!(notes([3 << 20, 1 << 20, 2 << 20, 3 << 20], 16), []);
        // One of four gets nothing once in 25 times.
        assert_eq!(notes([3 << 20, 0, 2 << 20, 3 << 20], 16), []);
        // Two streams on one of four: once in four times.
        assert_eq!(notes([8 << 20, 0, 0, 0], 2), []);
    }

    #[test]
    fn too_little_to_judge_by_is_no_check() {
        assert_eq!(checks(&sound(), &after([1000, 0, 0, 0]), &Trial { streams: 16, rtt_us: None }), []);
    }

    #[test]
    fn chance_is_that_of_drawing_lots() {
        assert!((chance(2, 1, 2) - 0.5).abs() < 1e-9);
        assert!((chance(4, 3, 2) - 0.25).abs() < 1e-9);
    }
}
