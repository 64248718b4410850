//! The last line: what was moved, how fast, over which slaves, and that it was confirmed.

use super::job::Moves;
use super::observed::Observed;
use super::prepare;
use super::units::show_bytes;
use crate::engine::{Digest, Guard, Report};
use crate::place::Placer;
use crate::stats::{self, Bottleneck, receiving, sending};
use crate::steer::{Active, Steering, queues};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A listener's event loops and what picks among them.
pub(super) struct Group {
    pub(super) workers: usize,
    pub(super) active: Active,
    pub(super) guard: Guard,
}

impl Group {
    /// What may have changed since the last session: who listens here too, and which receive queues there are.
    pub(super) fn look(&self) {
        self.guard.look();
        self.serve_queues();
    }

    /// Gives the receive queues of this host's bonds to the workers, where the program can go by them.
    pub(super) fn serve_queues(&self) {
        let workers = u32::try_from(self.workers).unwrap_or(u32::MAX);
        if self.workers == 1 || self.active.steering() != Steering::Ebpf {
            return;
        }
        let bonds = prepare::receive_queues();
        let queues = queues::workers(&bonds, workers);
        if !queues.is_empty() {
            log::info!("steering by the receive queues of {} slaves", bonds.iter().flatten().count());
        }
        if let Err(error) = self.active.serve(&queues) {
            log::info!("{error}; streams go to the worker of their lane");
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.workers == 1 { "" } else { "s" };
        write!(f, "{} worker{s}, steered by {}", self.workers, self.active.steering())
    }
}

/// What a summary is told of beside the report.
pub(super) struct Subject {
    /// This side's part.
    pub(super) moves: Moves,
    /// Which of its ends are files that have a name.
    pub(super) named: Moves,
    pub(super) observed: Arc<Observed>,
    /// The program on the bond, where there is one.
    pub(super) placer: Option<Arc<Placer>>,
    /// Its event loops.
    pub(super) workers: usize,
    /// What picks among them, of a listener.
    pub(super) group: Option<Arc<Group>>,
}

/// The machine form. `version` counts up when a field changes its meaning; new fields may come at any time.
#[derive(Debug, Serialize)]
struct Summary {
    version: u32,
    /// "sender", "receiver", or "both".
    role: &'static str,
    peer: String,
    /// Bytes delivered, in all directions.
    bytes: u64,
    /// Of these, sent by this side, and written by the other.
    sent: u64,
    /// Of these, received and written by this side.
    received: u64,
    seconds: f64,
    bytes_per_second: f64,
    /// Bytes sent more than once.
    resent: u64,
    /// Always true: an unconfirmed transfer is an error and has no summary.
    confirmed: bool,
    /// What limited it, as in the lines of --stats.
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_by: Option<&'static str>,
    /// Its name, if a slave did.
    #[serde(skip_serializing_if = "Option::is_none")]
    limiting_slave: Option<String>,
    /// Event loops of this side.
    workers: usize,
    /// What picks the one of a new stream, on a listener: "ebpf", "cbpf" or "kernel".
    #[serde(skip_serializing_if = "Option::is_none")]
    steering: Option<String>,
    /// Streams that the program has given to each, since the listener began, where it can count.
    #[serde(skip_serializing_if = "Option::is_none")]
    steered: Option<Vec<u64>>,
    /// Of these, those that went by the receive queue of their slave, where the program knows those.
    #[serde(skip_serializing_if = "Option::is_none")]
    steered_by_queue: Option<Vec<u64>>,
    streams: Vec<StreamSummary>,
}

#[derive(Debug, Serialize)]
struct StreamSummary {
    stream: u32,
    /// The connector's port, as this side sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    /// Name of the slave planned for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    slave: Option<String>,
    /// Name of this side's slave that the observer saw carry most of what this side sends (or receives, if it only
    /// receives), and the bytes of frames there.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_slave: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_bytes: Option<u64>,
    /// Name of the slave that the bond's hash led its last frame to, worked out by the program on the bond.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_slave: Option<String>,
    /// Frames that the program has seen; of these, those that the hash led to the slave planned for the stream, if it
    /// was planned for one; and those that it sent there against the hash (--place).
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_frames: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_agreed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash_placed: Option<u64>,
    /// The slave on which it arrives at the receiver (of what this side sends, if it sends), by its place in the
    /// receiver's bond.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrives_on: Option<u16>,
    /// Usable slaves of the receiver's bond.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_slaves: Option<u16>,
    /// Its name, where this side is that receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_slave: Option<String>,
    /// How the receiver knows: "queue", "observer", "counters" (worked out), "other".
    #[serde(skip_serializing_if = "Option::is_none")]
    arrival_known_by: Option<&'static str>,
    /// Number of the event loop that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<usize>,
    /// Payload bytes carried, repeats included.
    bytes: u64,
}

fn gather(report: &Report, subject: &Subject) -> Summary {
    let seconds = report.elapsed.as_secs_f64();
    let progress = &report.progress;
    let bytes = progress.sent + progress.received;
    let role = match subject.moves {
        Moves { sends: true, receives: true } => "both",
        Moves { sends: true, .. } => "sender",
        Moves { .. } => "receiver",
    };
    let truth = subject.observed.read(report.peer.ip());
    let group = subject.group.as_ref();
    let counts = group.and_then(|group| group.active.counts().ok().flatten());
    let streams = report.snapshot.streams.iter().map(|stream| {
        let seen = if subject.moves.sends { stream.seen_by_peer } else { stream.seen_here };
        let seen = seen.filter(|seen| seen.slave.is_some());
        let name = |seen: stats::Seen| subject.observed.name(seen.ifindex).map(str::to_owned);
        let truth = stream.source_port.and_then(|port| truth.get(&port));
        let hash = subject.placer.as_ref().zip(stream.source_port);
        let hash = hash.and_then(|(placer, port)| placer.followed(port, report.peer.ip()));
        StreamSummary {
            stream: stream.id,
            source_port: stream.source_port,
            slave: stream.slave.clone(),
            observed_slave: truth.map(|seen| seen.slave.clone()),
            observed_bytes: truth.map(|seen| seen.bytes),
            hash_frames: hash.as_ref().map(|hash| hash.agreement.frames),
            hash_agreed: hash.as_ref().filter(|hash| hash.planned).map(|hash| hash.agreement.agreed),
            hash_placed: hash.as_ref().map(|hash| hash.agreement.placed),
            hash_slave: hash.and_then(|hash| hash.would),
            arrives_on: seen.and_then(|seen| seen.slave),
            arrival_slaves: seen.map(|seen| seen.slaves),
            arrival_slave: seen.filter(|_| !subject.moves.sends).and_then(name),
            arrival_known_by: seen.map(|seen| seen.by.word()),
            worker: stream.worker,
            bytes: stream.sent + stream.received,
        }
    });
    let limit = limits(report).into_iter().next();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than three digits")]
    let rate = bytes as f64 / seconds.max(1e-9);
    Summary {
        version: 1,
        role,
        peer: report.peer.to_string(),
        bytes,
        sent: progress.sent,
        received: progress.received,
        seconds,
        bytes_per_second: rate,
        resent: progress.resent,
        confirmed: true,
        limited_by: limit.as_ref().map(Bottleneck::word),
        limiting_slave: match limit {
            Some(Bottleneck::Slave(name)) => Some(name),
            _ => None,
        },
        workers: subject.workers,
        steering: group.map(|group| group.active.steering().to_string()),
        steered: counts.as_ref().map(|counts| counts.all.clone()),
        steered_by_queue: counts.map(|counts| counts.by_queue).filter(|counts| counts.iter().any(|count| *count > 0)),
        streams: streams.collect(),
    }
}

/// What was in the way: of the direction that moved more, first.
fn limits(report: &Report) -> Vec<Bottleneck> {
    let (sent, received) = (sending(&report.snapshot), receiving(&report.snapshot));
    let more_received = report.progress.received > report.progress.sent;
    let (first, second) = if more_received { (received, sent) } else { (sent, received) };
    first.into_iter().chain(second).collect()
}

/// The digests in the form of b3sum(1), each under the name that it can be checked by; `files` says which of the ends
/// have one.
pub(super) fn digests(report: &Report, files: Moves) -> Vec<String> {
    let line = |digest: &Digest| {
        let named = if digest.sent { files.sends } else { files.receives };
        b3sum_line(&digest.hex, if named { &digest.name } else { "-" })
    };
    report.digests.iter().map(line).collect()
}

/// A name with a backslash or a line break is written with both escaped, and a backslash before the line says so.
fn b3sum_line(hex: &str, name: &str) -> String {
    if name.contains(['\\', '\n', '\r']) {
        let escaped = name.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
        return format!("\\{hex}  {escaped}");
    }
    format!("{hex}  {name}")
}

/// One line of JSON.
pub(super) fn json(report: &Report, subject: &Subject) -> String {
    serde_json::to_string(&gather(report, subject)).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// One line for each stream: both its ends, as far as they are known, and what it carried.
pub(super) fn streams(report: &Report, subject: &Subject) -> Vec<String> {
    let summary = gather(report, subject);
    let each = summary.streams.iter().map(|stream| {
        let from = stream.source_port.map_or_else(String::new, |port| format!(" from port {port}"));
        let leaves = match (&stream.slave, &stream.observed_slave) {
            (Some(planned), Some(seen)) if planned != seen => format!(", planned for {planned}, seen on {seen}"),
            (_, Some(seen)) => format!(", seen on {seen}"),
            (Some(planned), None) => format!(", planned for {planned}"),
            (None, None) => String::new(),
        };
        let hash = agreement(stream);
        let arrives = match (stream.arrives_on, stream.arrival_slaves) {
            (Some(slave), Some(of)) => {
                let name = stream.arrival_slave.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
                let means = stream.arrival_known_by.unwrap_or_default();
                format!(", arrives on slave {slave} of {of}{name}, known by {means}")
            }
            _ => String::new(),
        };
        format!("stream {}{from}{leaves}{hash}{arrives}: {}", stream.stream, show_bytes(stream.bytes))
    });
    each.collect()
}

/// What the program on the bond says of a stream, against its plan.
fn agreement(stream: &StreamSummary) -> String {
    let counts = (stream.hash_frames, stream.hash_agreed, stream.hash_placed);
    let (Some(frames), Some(agreed), Some(placed)) = counts else { return String::new() };
    let leads =
        stream.hash_slave.as_ref().map_or_else(String::new, |slave| format!("; the bond's hash leads to {slave}"));
    match (placed, agreed) {
        (1.., _) => format!(", placed ({placed} of {frames} frames{leads})"),
        (0, _) if stream.slave.is_none() => leads.replacen("; ", ", ", 1),
        (0, _) if agreed == frames => format!(", the bond's hash agrees ({frames} frames)"),
        (0, _) => format!(", the bond's hash agrees for {agreed} of {frames} frames only{leads}"),
    }
}

/// One line for people.
pub(super) fn text(report: &Report, subject: &Subject) -> String {
    let summary = gather(report, subject);
    let amount = |verb: &str, bytes: u64| format!("{verb} {} ({bytes} bytes)", show_bytes(bytes));
    let (what, end) = match subject.moves {
        Moves { sends: true, receives: true } => (
            format!("{}, {}", amount("sent", summary.sent), amount("received", summary.received)),
            "all written and confirmed on both sides",
        ),
        Moves { sends: true, .. } => (amount("sent", summary.sent), "delivery confirmed"),
        Moves { .. } => (amount("received", summary.received), "all written and confirmed"),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^64"
    )]
    let rate = show_bytes(summary.bytes_per_second as u64);
    let limit = limits(report).first().map_or_else(String::new, |limit| format!("; {limit}"));
    format!("mpnc: {what} in {:.2} s, {rate}/s, over {}; {end}{limit}", summary.seconds, shares(&summary))
}

/// Most streams whose shares are listed one by one: they fit a line.
const LISTED: usize = 8;

/// "4 streams on 4 slaves (eth0 25.1 %, ...)", or the share of each stream where no slave is known.
fn shares(summary: &Summary) -> String {
    let carried: u64 = summary.streams.iter().map(|stream| stream.bytes).sum();
    #[expect(clippy::cast_precision_loss, reason = "a share is shown with one decimal")]
    let share = |bytes: u64| if carried == 0 { 0.0 } else { bytes as f64 * 100.0 / carried as f64 };
    let count = summary.streams.len();
    let streams = if count == 1 { "1 stream".to_owned() } else { format!("{count} streams") };
    let mut by_slave: BTreeMap<&str, u64> = BTreeMap::new();
    for stream in &summary.streams {
        let slave = [&stream.observed_slave, &stream.slave, &stream.arrival_slave].into_iter().flatten().next();
        *by_slave.entry(slave.map_or("unknown", String::as_str)).or_default() += stream.bytes;
    }
    if by_slave.keys().any(|name| *name != "unknown") {
        let each: Vec<String> = by_slave.iter().map(|(name, bytes)| format!("{name} {:.1} %", share(*bytes))).collect();
        let known = by_slave.keys().filter(|name| **name != "unknown").count();
        let slaves = if known == 1 { "1 slave".to_owned() } else { format!("{known} slaves") };
        return format!("{streams} on {slaves} ({})", each.join(", "));
    }
    if count < 2 {
        return streams;
    }
    let mut shares: Vec<f64> = summary.streams.iter().map(|stream| share(stream.bytes)).collect();
    if count > LISTED {
        shares.sort_by(f64::total_cmp);
        return format!("{streams} ({:.1} % to {:.1} % each)", shares[0], shares[count - 1]);
    }
    let each: Vec<String> = shares.iter().map(|share| format!("{share:.1} %")).collect();
    format!("{streams} ({})", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_lines_are_those_of_b3sum() {
        assert_eq!(b3sum_line("ab", "-"), "ab  -");
        assert_eq!(b3sum_line("ab", "a b"), "ab  a b");
        assert_eq!(b3sum_line("ab", "a\\b\nc"), "\\ab  a\\\\b\\nc");
    }
}
