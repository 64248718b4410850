//! Holds what was seen against what the scenario expects, and says PASS or FAIL with the measured value for each.
//! Pure: starts nothing and reads no counters.

use std::time::Duration;

use super::flow::Arrival;
use super::record::{Counters, Record, unevenness};
use super::scenario::{Arrived, Direction, Exit, ExitKind, Measure, Scenario};
use super::topology::Place;
use super::units::{BitRate, float};

/// How one side ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// When, on the scenario's clock.
    pub at: Duration,
    /// By itself, not killed at the time limit.
    pub in_time: bool,
    /// All that it wrote to stderr.
    pub stderr: String,
    /// Peak resident memory, KiB.
    pub peak_rss_kib: u64,
}

/// All that was seen of a transfer.
#[derive(Debug)]
pub struct Seen {
    /// The side that connected.
    pub connector: Ended,
    /// The side that listened.
    pub listener: Ended,
    /// Bytes to be moved, for each direction that carries data.
    pub totals: Vec<u64>,
    /// What arrived, likewise.
    pub arrivals: Vec<Arrival>,
    /// The course of it.
    pub record: Record,
    /// The most connections at one time.
    pub streams: usize,
    /// What the sending host's slaves carried.
    pub sender: Counters,
    /// What the receiving host's slaves carried.
    pub receiver: Counters,
}

/// What all verdicts together say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Everything holds.
    Pass,
    /// Everything but rates and shares.
    Slow,
    /// Something that no busy machine excuses.
    Fail,
}

/// Tells each verdict, and what they come to. `efficiency` is what one stream of iperf3 got of a link's rate.
pub fn judge(scenario: &Scenario, seen: &Seen, efficiency: Option<f64>, tell: &mut dyn FnMut(&str)) -> Verdict {
    let mut bench = Bench { tell, verdict: Verdict::Pass };
    bench.ends(scenario, seen);
    bench.content(scenario, seen);
    bench.spread(scenario, seen);
    bench.rates(scenario, seen, efficiency);
    for measure in &scenario.measures {
        bench.measure(scenario, seen, measure, efficiency);
    }
    bench.limits(scenario, seen);
    bench.words(scenario, seen);
    if bench.verdict != Verdict::Pass {
        for (who, side) in [("connector", &seen.connector), ("listener", &seen.listener)] {
            let lines: Vec<&str> = side.stderr.lines().collect();
            lines
                .iter()
                .skip(lines.len().saturating_sub(60))
                .for_each(|line| (bench.tell)(&format!("  {who}: {line}")));
        }
    }
    bench.verdict
}

struct Bench<'a> {
    tell: &'a mut dyn FnMut(&str),
    verdict: Verdict,
}

impl Bench<'_> {
    fn hold(&mut self, holds: bool, text: &str) {
        self.weigh(holds, Verdict::Fail, text);
    }

    fn weigh(&mut self, holds: bool, otherwise: Verdict, text: &str) {
        self.verdict = self.verdict.max(if holds { Verdict::Pass } else { otherwise });
        (self.tell)(&format!("  {} {text}", if holds { "PASS" } else { "FAIL" }));
    }

    fn ends(&mut self, scenario: &Scenario, seen: &Seen) {
        let expect = &scenario.expect;
        let sides = [
            ("connector", &seen.connector, &expect.connector_exit),
            ("listener", &seen.listener, &expect.listener_exit),
        ];
        for (who, side, wanted) in sides {
            let as_wanted = match wanted {
                Exit::Code(code) => side.code == Some(*code),
                Exit::Kind(ExitKind::Failure) => side.code.is_some_and(|code| code != 0),
                Exit::Kind(ExitKind::Killed) => side.code.is_none(),
                Exit::Kind(ExitKind::Any) => true,
            };
            let code = side.code.map_or_else(|| "killed by a signal".to_owned(), |code| format!("exit code {code}"));
            let how = if side.in_time { code } else { "did not end within the limit".to_owned() };
            self.hold(side.in_time && as_wanted, &format!("{who}: {how} after {:.1} s", side.at.as_secs_f64()));
        }
    }

    fn content(&mut self, scenario: &Scenario, seen: &Seen) {
        for (arrival, total) in seen.arrivals.iter().zip(&seen.totals) {
            let complete = arrival.bytes == *total || scenario.expect.output == Arrived::Prefix;
            let same = match arrival.wrong_at {
                None => "equal to the input".to_owned(),
                Some(offset) => format!("WRONG from offset {offset} on"),
            };
            self.hold(
                complete && arrival.wrong_at.is_none(),
                &format!("output: {} of {total} bytes, {same}", arrival.bytes),
            );
        }
    }

    fn spread(&mut self, scenario: &Scenario, seen: &Seen) {
        let forward = scenario.transfer.direction != Direction::Reverse;
        let (sender, receiver) = if forward { (Place::A, Place::B) } else { (Place::B, Place::A) };
        let rates = [sender, receiver].map(|place| scenario.topology.link_rates_of(place));
        let all = |of: usize| (0..rates[of].len()).collect::<Vec<usize>>();
        let usable = if forward { scenario.topology.usable() } else { all(0) };
        if let Some(per_slave) = scenario.expect.streams_per_slave {
            let wanted = per_slave * usable.len();
            self.hold(seen.streams == wanted, &format!("streams: {} (wanted {wanted})", seen.streams));
        }
        if let Some(limit) = scenario.expect.share_within {
            let sent: Vec<u64> = seen.sender.iter().map(|(sent, _)| *sent).collect();
            self.share("sent by slave", &sent, &usable, &rates[0], limit);
        }
        if let Some(limit) = scenario.expect.rx_share_within {
            let received: Vec<u64> = seen.receiver.iter().map(|(_, received)| *received).collect();
            self.share("received by slave", &received, &all(1), &rates[1], limit);
        }
        if let Some(limit) = scenario.expect.back_share_within {
            let sent: Vec<u64> = seen.receiver.iter().map(|(sent, _)| *sent).collect();
            self.share("sent back by slave", &sent, &all(1), &rates[1], limit);
        }
    }

    fn share(&mut self, what: &str, carried: &[u64], slaves: &[usize], rates: &[BitRate], limit: f64) {
        if carried.is_empty() {
            return self.hold(false, &format!("{what}: nothing was counted"));
        }
        let (worst, shares) = unevenness(carried, slaves, rates);
        let shares = shares.iter().map(|share| format!("{share:.1}")).collect::<Vec<_>>().join(" / ");
        self.weigh(
            worst <= limit,
            Verdict::Slow,
            &format!("{what}: {shares} %; worst {worst:.1} % off its share (limit {limit} %)"),
        );
    }

    /// The whole transfer, from the connector's start to the receiving side's end.
    fn rates(&mut self, scenario: &Scenario, seen: &Seen, efficiency: Option<f64>) {
        let end = seen.connector.at.max(seen.listener.at).max(Duration::from_millis(1));
        let moved = seen.arrivals.iter().map(|arrival| arrival.bytes).min().unwrap_or(0);
        let goodput = float(moved) * 8.0 / end.as_secs_f64();
        let usable = scenario.topology.usable();
        match (scenario.expect.goodput, efficiency) {
            (Some(limit), Some(efficiency)) => {
                let ceiling = efficiency * seen.record.offered(&usable, Duration::ZERO, end);
                self.fraction("goodput", goodput, ceiling, limit);
            }
            _ => (self.tell)(&format!("       goodput: {:.1} Mbit/s", goodput / 1e6)),
        }
    }

    fn fraction(&mut self, what: &str, rate: f64, ceiling: f64, limit: f64) {
        let (found, text) = (rate / ceiling, format!("{:.1} of {:.1} Mbit/s", rate / 1e6, ceiling / 1e6));
        self.weigh(found >= limit, Verdict::Slow, &format!("{what}: {text} = {found:.3} (at least {limit})"));
    }

    fn measure(&mut self, scenario: &Scenario, seen: &Seen, measure: &Measure, efficiency: Option<f64>) {
        let (from, to) = (measure.from.0, measure.to.0);
        let slaves = measure
            .slaves
            .as_ref()
            .map_or_else(|| scenario.topology.usable(), |list| list.iter().map(|slave| slave - 1).collect());
        let what = format!("{} ({} to {})", measure.name, measure.from, measure.to);
        let last = seen.arrivals.iter().zip(&seen.totals).all(|(arrival, total)| arrival.bytes == *total);
        let end = seen.listener.at.min(seen.connector.at);
        if last && end < to {
            return self.hold(
                false,
                &format!("{what}: the transfer was over after {:.1} s: give it more bytes", end.as_secs_f64()),
            );
        }
        if let (Some(limit), Some(efficiency)) = (measure.goodput, efficiency) {
            let ceiling = efficiency * seen.record.offered(&slaves, from, to);
            self.fraction(&what, seen.record.goodput(from, to), ceiling, limit);
        }
        if let Some(limit) = measure.share_within {
            self.share(&what, &seen.record.sent(from, to), &slaves, &scenario.topology.link_rates(), limit);
        }
    }

    fn limits(&mut self, scenario: &Scenario, seen: &Seen) {
        for (who, side) in [("connector", &seen.connector), ("listener", &seen.listener)] {
            if let Some(limit) = scenario.expect.rss_mib {
                let peak = float(side.peak_rss_kib) / 1024.0;
                self.hold(
                    side.peak_rss_kib > 0 && peak <= float(limit),
                    &format!("{who}: peak memory {peak:.1} MiB (limit {limit})"),
                );
            }
            if let Some(limit) = scenario.expect.ends_by {
                let text = format!("{who}: over after {:.1} s (limit {limit})", side.at.as_secs_f64());
                self.weigh(side.in_time && side.at <= limit.0, Verdict::Slow, &text);
            }
        }
    }

    fn words(&mut self, scenario: &Scenario, seen: &Seen) {
        let expect = &scenario.expect;
        let sides = [
            ("connector", &seen.connector, &expect.connector_says),
            ("listener", &seen.listener, &expect.listener_says),
        ];
        for (who, side, wanted) in sides {
            for text in wanted {
                self.hold(side.stderr.contains(text), &format!("{who} says \"{text}\""));
            }
            for text in &expect.nobody_says {
                self.hold(!side.stderr.contains(text), &format!("{who} does not say \"{text}\""));
            }
        }
    }
}
