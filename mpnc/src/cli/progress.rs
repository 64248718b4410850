//! Progress in words and as bars. Looks at snapshots only; `watch` brings them.

use super::terminal;
use super::units::show_bytes;
use crate::stats::{Bottleneck, Half, Rate, Snapshot, Stream, receiving, sending};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Lines for slaves at most: the rest would push the total off a small screen.
const SLAVE_LINES: usize = 16;

/// The pace of both directions.
#[derive(Default)]
pub(super) struct Pace {
    sent: Rate,
    received: Rate,
}

impl Pace {
    pub(super) fn update(&mut self, now: &Snapshot) {
        for (rate, flow) in [(&mut self.sent, &now.sent), (&mut self.received, &now.received)] {
            if let Some(flow) = flow {
                rate.update(now.at, flow.delivered);
            }
        }
    }
}

/// Tells what limits one direction.
type Limit = fn(&Snapshot) -> Option<Bottleneck>;

/// What there is to be seen at a moment.
pub(super) struct View<'a> {
    pub(super) now: &'a Snapshot,
    /// A little earlier, to see what limits now.
    pub(super) before: Option<&'a Snapshot>,
    /// Bytes to be sent in all, where that is known beforehand.
    pub(super) total: Option<u64>,
    pub(super) pace: &'a Pace,
}

impl View<'_> {
    /// One line that says it all.
    pub(super) fn line(&self) -> String {
        let seconds = self.now.at.as_secs_f64();
        let both = self.now.sent.is_some() && self.now.received.is_some();
        let part = self.before.map_or_else(|| self.now.clone(), |before| self.now.since(before));
        let mut parts = Vec::new();
        for (flow, rate, verb, limit) in self.flows() {
            let verb = if both { format!("{verb} ") } else { String::new() };
            parts.push(format!("{verb}{} in {seconds:.1} s", self.amount(flow)));
            parts.push(self.speed(flow, rate));
            parts.extend(limit(&part).map(|limit| limit.to_string()));
        }
        parts.join(", ")
    }

    fn flows(&self) -> impl Iterator<Item = (&Half, &Rate, &'static str, Limit)> {
        let sent = self.now.sent.as_ref().map(|flow| (flow, &self.pace.sent, "sent", sending as Limit));
        let received =
            self.now.received.as_ref().map(|flow| (flow, &self.pace.received, "received", receiving as Limit));
        sent.into_iter().chain(received)
    }

    /// Where the data of this side ends: known beforehand, or by now.
    fn end_of(&self, flow: &Half) -> Option<u64> {
        let alone = self.now.received.is_none() || self.now.sent.is_none();
        flow.total.or_else(|| self.total.filter(|total| alone && *total >= flow.delivered))
    }

    fn amount(&self, flow: &Half) -> String {
        let done = show_bytes(flow.delivered);
        match self.end_of(flow).filter(|total| *total > 0) {
            Some(total) => {
                let percent = u128::from(flow.delivered) * 100 / u128::from(total);
                format!("{done} of {} ({percent} %)", show_bytes(total))
            }
            None => done,
        }
    }

    fn speed(&self, flow: &Half, rate: &Rate) -> String {
        if self.now.flushing {
            return "flushing".to_owned();
        }
        let speed = per_second(rate.get());
        let left = self.end_of(flow).map(|total| total - flow.delivered).filter(|left| *left > 0);
        match left.and_then(|left| remaining(left, rate.get())) {
            Some(time) => format!("{speed}, ETA {}", show_time(time)),
            None => speed,
        }
    }
}

/// `12.3 MB/s`.
pub(super) fn per_second(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^64"
    )]
    let rate = rate as u64;
    format!("{}/s", show_bytes(rate))
}

/// How long `left` bytes will take; `None` if nothing moves.
fn remaining(left: u64, rate: f64) -> Option<Duration> {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = left as f64 / rate;
    Duration::try_from_secs_f64(seconds).ok().filter(|_| rate >= 1.0)
}

/// A duration in its two largest units: `1m 32s`.
fn show_time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

// --- bars ------------------------------------------------------------------------------------------------------------

/// The bars of one session, gone when dropped.
pub(super) struct Bars {
    total: ProgressBar,
    /// With -v, one line a slave: its name, its line, its pace.
    slaves: Option<Vec<(String, ProgressBar, Rate)>>,
}

impl Bars {
    pub(super) fn new(slaves: bool) -> Self {
        terminal::enter();
        Self { total: terminal::add(line_bar(), None), slaves: slaves.then(Vec::new) }
    }

    pub(super) fn draw(&mut self, view: &View<'_>) {
        let total = self.total.clone();
        terminal::draw(&total, || self.update(view));
    }

    fn update(&mut self, view: &View<'_>) {
        self.draw_slaves(view.now);
        let known = view.flows().map(|(flow, rate, ..)| (flow, rate, view.end_of(flow)));
        match known.collect::<Vec<_>>().as_slice() {
            [(flow, rate, Some(total))] => {
                if self.total.length().is_none() {
                    self.total.set_style(style("{prefix} [{wide_bar:.cyan/blue}] {msg}").progress_chars("=> "));
                }
                self.total.set_length(*total);
                self.total.set_prefix(format!("{} of {}", show_bytes(flow.delivered), show_bytes(*total)));
                self.total.set_message(view.speed(flow, rate));
                self.total.set_position(flow.delivered);
            }
            _ => self.total.set_message(view.line()),
        }
    }

    fn draw_slaves(&mut self, now: &Snapshot) {
        let Some(lines) = &mut self.slaves else { return };
        let carried: u64 = now.streams.iter().map(|stream| stream.sent + stream.received).sum();
        for (name, bytes) in by_slave(&now.streams) {
            let found = lines.iter().position(|(known, ..)| *known == name);
            let at = match found {
                Some(at) => at,
                None if lines.len() < SLAVE_LINES => {
                    let last = lines.last().map_or(&self.total, |(_, bar, _)| bar);
                    let bar = terminal::add(line_bar(), Some(last));
                    lines.push((name, bar, Rate::default()));
                    lines.len() - 1
                }
                None => continue,
            };
            let (name, bar, rate) = &mut lines[at];
            let speed = per_second(rate.update(now.at, bytes));
            bar.set_message(format!("  {name:<16} {speed:>11} {:>5.1} %", percent(bytes, carried)));
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let lines = self.slaves.iter().flatten().map(|(_, bar, _)| bar);
        terminal::leave(|| lines.chain([&self.total]).for_each(terminal::remove));
    }
}

/// A line of text that is cut at the edge of the screen.
fn line_bar() -> ProgressBar {
    ProgressBar::no_length().with_style(style("{wide_msg}"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Bytes by slave: by its name where this side planned it, by its place where this side sees it, else by stream.
fn by_slave(streams: &[Stream]) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    for stream in streams {
        let seen = stream.seen_here.and_then(|seen| seen.slave);
        let name = match (&stream.slave, seen) {
            (Some(name), _) => name.clone(),
            (None, Some(slave)) => format!("slave {slave}"),
            (None, None) => format!("stream {}", stream.id),
        };
        let bytes = stream.sent + stream.received;
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += bytes,
            None => all.push((name, bytes)),
        }
    }
    all
}

fn percent(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part * 100.0 / whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Account, Hold};

    fn flow(delivered: u64, total: Option<u64>, at: Duration) -> Half {
        let mut account = Account::default();
        account.enter(Hold::Output, None, Duration::ZERO);
        Half { taken: delivered, delivered, total, spent: account.spent(at) }
    }

    fn line(now: &Snapshot, total: Option<u64>) -> String {
        let mut pace = Pace::default();
        pace.update(now);
        View { now, before: None, total, pace: &pace }.line()
    }

    #[test]
    fn a_line_says_how_much_how_fast_how_long_and_why() {
        let at = Duration::from_secs(10);
        let mut now = Snapshot { at, sent: Some(flow(1_000_000_000, None, at)), ..Snapshot::default() };
        assert_eq!(line(&now, None), "1.00 GB in 10.0 s, 100 MB/s, limited by the output");
        assert_eq!(
            line(&now, Some(10_200_000_000)),
            "1.00 GB of 10.2 GB (9 %) in 10.0 s, 100 MB/s, ETA 1m 32s, limited by the output"
        );
        now.flushing = true;
        assert_eq!(
            line(&now, Some(1_000_000_000)),
            "1.00 GB of 1.00 GB (100 %) in 10.0 s, flushing, limited by the output"
        );
    }

    #[test]
    fn both_directions_are_told_apart() {
        let at = Duration::from_secs(2);
        let (sent, received) = (Some(flow(2_000_000, None, at)), Some(flow(0, None, at)));
        let now = Snapshot { at, sent, received, ..Snapshot::default() };
        assert_eq!(
            line(&now, Some(5)),
            "sent 2.00 MB in 2.0 s, 1.00 MB/s, limited by the output, received 0 B in 2.0 s, 0 B/s, limited by the \
             output"
        );
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (92, "1m 32s"), (7260, "2h 01m"), (90_000, "1d 01h")] {
            assert_eq!(show_time(Duration::from_secs(seconds)), text);
        }
        assert_eq!(remaining(10, 0.0), None);
    }

    #[test]
    fn streams_of_one_slave_are_one_line() {
        let stream =
            |id, slave: Option<&str>, sent| Stream { id, slave: slave.map(str::to_owned), sent, ..Stream::default() };
        let streams = [stream(0, Some("eth0"), 5), stream(1, None, 7), stream(2, Some("eth0"), 6)];
        assert_eq!(by_slave(&streams), [("eth0".to_owned(), 11), ("stream 1".to_owned(), 7)]);
    }
}
