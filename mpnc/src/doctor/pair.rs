//! The checks of two hosts together: the port, what is between them, whether they fit each other.

use super::{Check, Facts};
use crate::bond::Note;
use std::net::SocketAddr;

/// How the attempt to meet the other side went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// It is a doctor too, and the probe went through.
    Doctor,
    /// It is an mpnc that refused to be examined, in its words.
    Plain(String),
    /// It was not reached: what was tried and why it failed, and the remedy.
    Nobody(String, String),
    /// It took the connection and is no mpnc, in the words of the one who found out.
    Stranger(String),
    /// The session began and did not get to its end: why.
    Broken(String),
}

/// What became of the source address and ports on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// An address and port that arrived as another: as sent, as seen.
    pub example: Option<(SocketAddr, SocketAddr)>,
    /// Whether any port was changed.
    pub ports: bool,
}

impl Translation {
    /// From pairs of what was sent and what was seen.
    pub fn of(pairs: &[(SocketAddr, SocketAddr)]) -> Self {
        let ports = pairs.iter().find(|(sent, seen)| sent.port() != seen.port());
        let example = ports.or_else(|| pairs.iter().find(|(sent, seen)| sent.ip() != seen.ip()));
        Self { example: example.copied(), ports: ports.is_some() }
    }
}

/// All that is known of the pair.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    /// The listener's address and port.
    pub listener: SocketAddr,
    /// How they met.
    pub met: &'a Met,
    /// `None` where nothing was told of it.
    pub translation: Option<Translation>,
    /// Source ports that got no answer where others did: those, and the others.
    pub filtered: Option<(String, String)>,
    /// This host.
    pub here: &'a Facts,
    /// The other host, if it told.
    pub there: Option<&'a Facts>,
}

/// Compares the two.
pub fn compare(pair: &Pair<'_>) -> Vec<Check> {
    let mut checks = vec![port(pair)];
    checks.extend(pair.filtered.as_ref().map(|(shut, open)| sources(shut, open)));
    checks.extend(pair.translation.as_ref().map(nat));
    checks.extend(pair.there.and_then(|there| mtu(pair.here, there)));
    checks
}

fn port(pair: &Pair<'_>) -> Check {
    let (host, number) = (pair.listener.ip(), pair.listener.port());
    let there = format!("start `mpnc --doctor -l {number}` on the other host");
    let note = match pair.met {
        Met::Doctor => None,
        Met::Plain(words) => Some(Note {
            remedy: format!("for the checks of that side, and of the way: {there}"),
            ..Note::info(format!("port {number} of {host} is open and an mpnc listens ({words})"))
        }),
        Met::Nobody(what, remedy) => {
            let remedy = if remedy.is_empty() { there } else { format!("{remedy} (TCP port {number} of {host})") };
            Some(Note::in_the_way(what.clone(), remedy))
        }
        Met::Stranger(what) => Some(Note::in_the_way(
            format!("port {number} of {host} is open, but what answers is no mpnc: {what}"),
            format!("take another port, or end what has it (`ss -ltnp` there names it); then {there}"),
        )),
        Met::Broken(what) => Some(Note::in_the_way(
            format!("port {number} of {host} is open, but the probe did not get through: {what}"),
            black_hole(pair),
        )),
    };
    Check::new(
        "port",
        format!("port {number} of {host} is open, and an mpnc --doctor answers"),
        note.into_iter().collect(),
    )
}

fn sources(shut: &str, open: &str) -> Check {
    let note = Note::in_the_way(
        format!(
            "a filter on the way drops answers to source ports {shut}, and lets in those to the kernel's own \
             range, {open}"
        ),
        format!(
            "let them in to all unprivileged ports, or give -p {open}, or each transfer begins with waiting in vain"
        ),
    );
    Check::new("sources", String::new(), vec![note])
}

/// What to try where small packets get through and a probe does not.
fn black_hole(pair: &Pair<'_>) -> String {
    let mtu = pair.here.way.first().and_then(|device| device.mtu).unwrap_or(1500);
    // IP and ICMP headers: 28 bytes, with IPv6 48.
    let payload = mtu.saturating_sub(if pair.listener.is_ipv4() { 28 } else { 48 });
    format!(
        "if the other side was not ended: do full packets get through? ping -M do -s {payload} {}",
        pair.listener.ip()
    )
}

fn nat(translation: &Translation) -> Check {
    let note = translation.example.map(|(sent, seen)| {
        let (what, remedy) = if translation.ports {
            (
                format!("a NAT rewrites source ports ({sent} arrives as {seen}): beyond it the streams fall by chance"),
                "let this traffic pass without NAT, or have the NAT keep ports (nft: masquerade without `random`)",
            )
        } else {
            (
                format!("a NAT rewrites the address ({} arrives as {}); ports are kept", sent.ip(), seen.ip()),
                "let this traffic pass without NAT: a bond beyond it is even only if 2, 4, 8 ... slaves are in use \
                 there",
            )
        };
        Note::uncertain(what, remedy)
    });
    Check::new("nat", "addresses and ports arrive as they were sent", note.into_iter().collect())
}

fn mtu(here: &Facts, there: &Facts) -> Option<Check> {
    let (own, other) = (here.way.first()?, there.way.first()?);
    let (mtu, theirs) = (own.mtu?, other.mtu?);
    let note = (mtu != theirs).then(|| {
        let (small, device) = if mtu < theirs { ("here", own) } else { ("there", other) };
        Note::uncertain(
            format!(
                "MTU {mtu} here ({}), {theirs} there ({}): packets no larger than the smaller, or lost",
                own.name, other.name
            ),
            format!(
                "as root, {small}: ip link set {} mtu {} (the switch must take it too)",
                device.name,
                mtu.max(theirs)
            ),
        )
    });
    Some(Check::new("mtu", format!("{mtu} on both hosts"), note.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::sound;
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn said(met: &Met, sent: &str, seen: &str, there: &Facts) -> Vec<String> {
        let translation = Some(Translation::of(&[(addr(sent), addr(seen))]));
        let here = sound();
        let listener = addr("10.0.0.2:31337");
        let pair = Pair { listener, met, translation, filtered: None, here: &here, there: Some(there) };
        compare(&pair).iter().flat_map(|check| &check.notes).map(ToString::to_string).collect()
    }

    const SENT: &str = "10.0.0.1:20000";

    #[test]
    fn of_a_healthy_pair_nothing_is_said() {
        assert_eq!(said(&Met::Doctor, SENT, SENT, &sound()), [""; 0]);
    }

    #[test]
    fn translation_is_named_by_what_it_changes() {
        let ports = said(&Met::Doctor, SENT, "10.9.9.9:40001", &sound());
        assert!(ports[0].contains("rewrites source ports (10.0.0.1:20000 arrives as 10.9.9.9:40001)"), "{ports:?}");
        let address = said(&Met::Doctor, SENT, "10.9.9.9:20000", &sound());
        assert!(address[0].contains("10.0.0.1 arrives as 10.9.9.9") && address[0].contains("ports are kept"));
    }

    #[test]
    fn unlike_mtus_are_named_with_the_command_for_the_smaller() {
        let mut there = sound();
        there.way[0].mtu = Some(9000);
        let said = said(&Met::Doctor, SENT, SENT, &there);
        assert!(said[0].contains("MTU 1500 here") && said[0].contains("here: ip link set bond0 mtu 9000"), "{said:?}");
    }

    #[test]
    fn source_ports_that_get_no_answer_are_named_with_those_that_do() {
        let here = sound();
        let (met, filtered) = (Met::Doctor, Some(("1024-32767".into(), "32768-60999".into())));
        let pair =
            Pair { listener: addr("10.0.0.2:1"), met: &met, translation: None, filtered, here: &here, there: None };
        let said = compare(&pair)[1].notes[0].to_string();
        assert!(said.contains("source ports 1024-32767") && said.contains("-p 32768-60999"), "{said}");
    }

    #[test]
    fn the_port_is_told_by_who_answers() {
        let by = |met| said(&met, SENT, SENT, &sound()).remove(0);
        let nobody = by(Met::Nobody("cannot connect: timed out".into(), "open the firewall".into()));
        assert!(nobody.contains("open the firewall (TCP port 31337 of 10.0.0.2)"), "{nobody}");
        let stranger = by(Met::Stranger("\"HTTP\"".into()));
        assert!(stranger.contains("no mpnc: \"HTTP\"") && stranger.contains("ss -ltnp"), "{stranger}");
        let broken = by(Met::Broken("no answer".into()));
        assert!(broken.contains("ping -M do -s 1472 10.0.0.2"), "{broken}");
        let plain = by(Met::Plain("refused".into()));
        assert!(plain.contains("an mpnc listens") && plain.contains("mpnc --doctor -l 31337"), "{plain}");
    }
}
