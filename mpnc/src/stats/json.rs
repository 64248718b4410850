//! The lines of `--stats`: one JSON object a second, and one at the end of the session.
//!
//! `mpnc/stats.schema.json` describes them for machines. [`VERSION`] counts up when a field changes its meaning or goes
//! away; new fields may come at any time. Counters run from the start of the session; rates and limits are those since
//! the line before (in the line at the end, of the whole session). Rates are in bytes a second.

use super::{Bottleneck, Half, Seen, Snapshot, Stream, average, receiving, sending};
use serde::Serialize;
use std::time::Duration;

/// Version of the lines' schema.
pub const VERSION: u32 = 1;

/// Which session a line is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Counts up from 1 in the life of the process.
    pub session: u64,
    /// Address of the other side.
    pub peer: &'a str,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    version: u32,
    session: u64,
    peer: &'a str,
    /// Since the session began.
    seconds: f64,
    /// Whether this is the session's last line.
    end: bool,
    flushing: bool,
    sent: Option<FlowLine>,
    received: Option<FlowLine>,
    resent_bytes: u64,
    /// Share of its time for which the busiest event loop was awake.
    busiest_loop: f64,
    streams: Vec<StreamLine<'a>>,
}

#[derive(Debug, Serialize)]
struct FlowLine {
    /// Written by the receiving side.
    bytes: u64,
    /// Read from the input here, or received without a gap.
    taken_bytes: u64,
    total_bytes: Option<u64>,
    rate: f64,
    limited_by: Option<&'static str>,
    /// Name of the slave, if one limits.
    limiting_slave: Option<String>,
}

#[derive(Debug, Serialize)]
struct StreamLine<'a> {
    stream: u32,
    up: bool,
    source_port: Option<u16>,
    /// Name of the planned slave.
    predicted: Option<&'a str>,
    observed_here: Option<SeenLine>,
    observed_by_peer: Option<SeenLine>,
    sent_bytes: u64,
    received_bytes: u64,
    rate: f64,
    rtt_ms: Option<f64>,
    /// Segments, since the stream began.
    retransmits: Option<u32>,
    tcp_delivery_rate: Option<u64>,
    limited_by: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct SeenLine {
    ifindex: u32,
    slave: Option<u16>,
    slaves: u16,
    /// How that end knows: queue, observer, counters, other.
    by: &'static str,
}

impl From<Seen> for SeenLine {
    fn from(seen: Seen) -> Self {
        Self { ifindex: seen.ifindex, slave: seen.slave, slaves: seen.slaves, by: seen.by.word() }
    }
}

/// A line, without a line break. `before` is what the line before was made of; without one, rates are those of the
/// whole session.
#[must_use]
pub fn line(about: About<'_>, now: &Snapshot, before: Option<&Snapshot>, end: bool) -> String {
    let part = before.map_or_else(|| now.clone(), |before| now.since(before));
    let (out, back) = (sending(&part), receiving(&part));
    let flow = |flow: &Option<Half>, delta: &Option<Half>, limit: &Option<Bottleneck>| {
        let (flow, delta) = (flow.as_ref()?, delta.as_ref()?);
        Some(FlowLine {
            bytes: flow.delivered,
            taken_bytes: flow.taken,
            total_bytes: flow.total,
            rate: average(delta.delivered, part.at),
            limited_by: limit.as_ref().map(Bottleneck::word),
            limiting_slave: match limit {
                Some(Bottleneck::Slave(name)) => Some(name.clone()),
                _ => None,
            },
        })
    };
    let line = Line {
        version: VERSION,
        session: about.session,
        peer: about.peer,
        seconds: now.at.as_secs_f64(),
        end,
        flushing: now.flushing,
        sent: flow(&now.sent, &part.sent, &out),
        received: flow(&now.received, &part.received, &back),
        resent_bytes: now.resent,
        busiest_loop: part.busiest_loop(),
        streams: now
            .streams
            .iter()
            .zip(&part.streams)
            .map(|(stream, delta)| stream_line(stream, delta, part.at, out.as_ref().or(back.as_ref())))
            .collect(),
    };
    serde_json::to_string(&line).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn stream_line<'a>(stream: &'a Stream, delta: &Stream, span: Duration, limit: Option<&Bottleneck>) -> StreamLine<'a> {
    StreamLine {
        stream: stream.id,
        up: stream.up,
        source_port: stream.source_port,
        predicted: stream.slave.as_deref(),
        observed_here: stream.seen_here.map(SeenLine::from),
        observed_by_peer: stream.seen_by_peer.map(SeenLine::from),
        sent_bytes: stream.sent,
        received_bytes: stream.received,
        rate: average(delta.sent + delta.received, span),
        rtt_ms: stream.tcp.map(|tcp| tcp.rtt.as_secs_f64() * 1e3),
        retransmits: stream.tcp.map(|tcp| tcp.retransmits),
        tcp_delivery_rate: stream.tcp.map(|tcp| tcp.delivery_rate),
        limited_by: limit.filter(|_| stream.up).map(|limit| stream_limit(limit).word()),
    }
}

/// What limits the transfer limits each stream; only links, slow or not, are the stream's own.
fn stream_limit(limit: &Bottleneck) -> &Bottleneck {
    match limit {
        Bottleneck::Slave(_) | Bottleneck::Links => &Bottleneck::Link,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Account, Hold, Tcp};
    use super::*;

    fn seen(at: Duration, bytes: u64) -> Snapshot {
        let mut account = Account::default();
        account.enter(Hold::Links, None, Duration::ZERO);
        let tcp = Tcp { rtt: Duration::from_micros(1500), busy: at, ..Tcp::default() };
        let stream = Stream { source_port: Some(10_007), up: true, sent: bytes, tcp: Some(tcp), ..Stream::default() };
        Snapshot {
            at,
            sent: Some(Half { taken: bytes, delivered: bytes, total: None, spent: account.spent(at) }),
            streams: vec![stream],
            ..Snapshot::default()
        }
    }

    #[test]
    fn rates_are_those_since_the_line_before() {
        let (before, now) = (seen(Duration::from_secs(1), 100), seen(Duration::from_secs(3), 700));
        let about = About { session: 1, peer: "192.0.2.1:31337" };
        let value: serde_json::Value = serde_json::from_str(&line(about, &now, Some(&before), false)).unwrap();
        assert_eq!(value["sent"]["bytes"], 700);
        assert_eq!(value["sent"]["rate"], 300.0);
        assert_eq!(value["sent"]["limited_by"], "link");
        assert_eq!(value["streams"][0]["rate"], 300.0);
        assert_eq!(value["streams"][0]["rtt_ms"], 1.5);
        assert_eq!(value["received"], serde_json::Value::Null);
    }
}
