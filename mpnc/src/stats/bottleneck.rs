//! What is in the way, from the counters alone.

use super::snapshot::share;
use super::{Hold, Snapshot, Spent, average};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Less than this is too short to say anything.
const LEAST: Duration = Duration::from_millis(100);
/// An event loop that is awake for this share of its time is out of processor.
const LOOP_FULL: f64 = 0.9;
/// TCP that waits for a buffer for this share of its time is limited by it.
const TCP_HELD: f64 = 0.5;
/// A slave that carries less than this share of what the median of the others does is slow.
const SLOW: f64 = 0.6;
/// A slave must have had something to send for this share of the time, or its low rate says nothing of it.
const IN_USE: f64 = 0.5;
/// A slave that carried the oldest block for this share of the time in which the window was full has filled it.
const GATING: f64 = 0.6;

/// What limits a direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bottleneck {
    /// The input gives no more.
    Input,
    /// The output takes no more.
    Output,
    /// The window is too small for what is under way.
    Window,
    /// The stated rate.
    Rate,
    /// This slave is slower than the others.
    Slave(String),
    /// The only link carries what it can.
    Link,
    /// Every link carries what it can.
    Links,
    /// This side's event loop has no time left.
    Processor,
    /// The receiver's TCP window: its processor, or the limit of its buffers (net.ipv4.tcp_rmem).
    ReceiveBuffer,
    /// This side's TCP send buffer (net.ipv4.tcp_wmem).
    SendBuffer,
    /// Seen from the receiving side: the sender or the links.
    Arrival,
}

impl Bottleneck {
    /// One word for machines.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Window => "window",
            Self::Rate => "rate",
            Self::Slave(_) => "slave",
            Self::Link => "link",
            Self::Links => "links",
            Self::Processor => "processor",
            Self::ReceiveBuffer => "receive-buffer",
            Self::SendBuffer => "send-buffer",
            Self::Arrival => "arrival",
        }
    }
}

/// As it follows "a transfer of 10 GB, ...".
impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("limited by the input"),
            Self::Output => f.write_str("limited by the output"),
            Self::Window => f.write_str("limited by the window (--window)"),
            Self::Rate => f.write_str("limited by --rate"),
            // One that is out of sight has a number for a name.
            Self::Slave(name) if name.starts_with("slave ") => write!(f, "limited by {name}"),
            Self::Slave(name) => write!(f, "limited by slave {name}"),
            Self::Link => f.write_str("limited by the link"),
            Self::Links => f.write_str("all links full"),
            Self::Processor => f.write_str("limited by this side's processor"),
            Self::ReceiveBuffer => f.write_str("limited by the receiver's processor or net.ipv4.tcp_rmem"),
            Self::SendBuffer => f.write_str("limited by net.ipv4.tcp_wmem"),
            Self::Arrival => f.write_str("limited by the sender or the links"),
        }
    }
}

/// What limits the direction that this side sends; `None` if there is none, or it was too short to say.
#[must_use]
pub fn sending(seen: &Snapshot) -> Option<Bottleneck> {
    let spent = long_enough(&seen.sent.as_ref()?.spent)?;
    match spent.dominant()? {
        Hold::Input => Some(Bottleneck::Input),
        Hold::Output => Some(Bottleneck::Output),
        Hold::Rate => Some(Bottleneck::Rate),
        Hold::Window => Some(gating_slave(seen, spent).map_or(Bottleneck::Window, Bottleneck::Slave)),
        Hold::Links => Some(links(seen)),
        Hold::Nothing | Hold::Arrival => None,
    }
}

/// What limits the direction that this side receives, as far as it can tell: only the sender knows of its input and its
/// links.
#[must_use]
pub fn receiving(seen: &Snapshot) -> Option<Bottleneck> {
    let spent = long_enough(&seen.received.as_ref()?.spent)?;
    match spent.dominant()? {
        Hold::Output => Some(Bottleneck::Output),
        Hold::Arrival if seen.busiest_loop() >= LOOP_FULL => Some(Bottleneck::Processor),
        Hold::Arrival => Some(Bottleneck::Arrival),
        _ => None,
    }
}

fn long_enough(spent: &Spent) -> Option<&Spent> {
    Some(spent).filter(|spent| spent.known() >= LEAST)
}

/// The sockets are full: of what?
fn links(seen: &Snapshot) -> Bottleneck {
    if seen.busiest_loop() >= LOOP_FULL {
        return Bottleneck::Processor;
    }
    let tcp = || seen.streams.iter().filter_map(|stream| stream.tcp);
    let busy: Duration = tcp().map(|tcp| tcp.busy).sum();
    if share(tcp().map(|tcp| tcp.window_limited).sum(), busy) >= TCP_HELD {
        return Bottleneck::ReceiveBuffer;
    }
    if share(tcp().map(|tcp| tcp.buffer_limited).sum(), busy) >= TCP_HELD {
        return Bottleneck::SendBuffer;
    }
    match slow_slave(seen) {
        Some(name) => Bottleneck::Slave(name),
        None if seen.streams.iter().filter(|stream| stream.up || stream.sent > 0).count() > 1 => Bottleneck::Links,
        None => Bottleneck::Link,
    }
}

/// The slave that carries much less than the others although it always has something to carry.
fn slow_slave(seen: &Snapshot) -> Option<String> {
    let mut by_slave: BTreeMap<&str, f64> = BTreeMap::new();
    for stream in &seen.streams {
        let Some((name, tcp)) = stream.slave.as_deref().zip(stream.tcp) else { continue };
        if share(tcp.busy, seen.at) >= IN_USE {
            *by_slave.entry(name).or_default() += average(stream.sent, tcp.busy);
        }
    }
    let slowest = by_slave.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(name, rate)| (*name, *rate))?;
    let mut others: Vec<f64> = by_slave.iter().filter(|(name, _)| **name != slowest.0).map(|(_, rate)| *rate).collect();
    others.sort_by(f64::total_cmp);
    let median = others.get(others.len() / 2)?;
    (slowest.1 < median * SLOW).then(|| slowest.0.to_owned())
}

/// The slave whose late blocks kept the window full.
fn gating_slave(seen: &Snapshot, spent: &Spent) -> Option<String> {
    let mut by_slave: BTreeMap<&str, Duration> = BTreeMap::new();
    for stream in &seen.streams {
        if let Some(name) = stream.slave.as_deref() {
            let gated = spent.gated().filter(|(id, _)| *id == stream.id).map(|(_, span)| span).sum::<Duration>();
            *by_slave.entry(name).or_default() += gated;
        }
    }
    let (name, most) = by_slave.iter().max_by_key(|(_, span)| **span)?;
    let gating = by_slave.len() > 1 && share(*most, spent.on(Hold::Window)) >= GATING;
    gating.then(|| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Account, Half, LoopTime, Stream, Tcp};
    use super::*;

    const SPAN: Duration = Duration::from_secs(10);

    /// Ten seconds of waiting for one thing, over four slaves of 100 MB/s each.
    fn seen(hold: Hold, gate: Option<u32>) -> Snapshot {
        let mut account = Account::default();
        account.enter(hold, gate, Duration::ZERO);
        let stream = |id: u32| Stream {
            id,
            slave: Some(format!("eth{id}")),
            up: true,
            sent: 1_000_000_000,
            tcp: Some(Tcp { busy: SPAN, ..Tcp::default() }),
            ..Stream::default()
        };
        Snapshot {
            at: SPAN,
            sent: Some(Half { spent: account.spent(SPAN), ..Half::default() }),
            streams: (0..4).map(stream).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_plain_cases_are_named() {
        for (hold, text) in [
            (Hold::Input, "limited by the input"),
            (Hold::Output, "limited by the output"),
            (Hold::Rate, "limited by --rate"),
            (Hold::Window, "limited by the window (--window)"),
            (Hold::Links, "all links full"),
        ] {
            assert_eq!(sending(&seen(hold, None)).unwrap().to_string(), text);
        }
        assert_eq!(sending(&seen(Hold::Nothing, None)), None);
        assert_eq!(receiving(&seen(Hold::Links, None)), None);
    }

    #[test]
    fn one_slow_slave_is_named() {
        let mut slow = seen(Hold::Links, None);
        slow.streams[2].sent /= 10;
        assert_eq!(sending(&slow), Some(Bottleneck::Slave("eth2".into())));
        assert_eq!(sending(&slow).unwrap().to_string(), "limited by slave eth2");
        assert_eq!(Bottleneck::Slave("slave 2".into()).to_string(), "limited by slave 2");
        // One that was hardly used is not slow.
        slow.streams[2].tcp = Some(Tcp { busy: SPAN / 10, ..Tcp::default() });
        assert_eq!(sending(&slow), Some(Bottleneck::Links));
    }

    #[test]
    fn two_streams_of_a_slave_count_together() {
        let mut shared = seen(Hold::Links, None);
        for stream in &mut shared.streams[2..] {
            stream.slave = Some("eth2".into());
            stream.sent /= 2;
        }
        assert_eq!(sending(&shared), Some(Bottleneck::Links));
    }

    #[test]
    fn a_slave_that_fills_the_window_is_named() {
        assert_eq!(sending(&seen(Hold::Window, Some(1))), Some(Bottleneck::Slave("eth1".into())));
    }

    #[test]
    fn a_single_link_is_no_plural() {
        let mut one = seen(Hold::Links, None);
        one.streams.truncate(1);
        assert_eq!(sending(&one), Some(Bottleneck::Link));
    }

    #[test]
    fn full_sockets_may_have_other_reasons_than_links() {
        let mut seen = seen(Hold::Links, None);
        for stream in &mut seen.streams {
            stream.tcp = Some(Tcp { busy: SPAN, buffer_limited: SPAN, ..Tcp::default() });
        }
        assert_eq!(sending(&seen), Some(Bottleneck::SendBuffer));
        for stream in &mut seen.streams {
            stream.tcp = Some(Tcp { busy: SPAN, window_limited: SPAN, ..Tcp::default() });
        }
        assert_eq!(sending(&seen), Some(Bottleneck::ReceiveBuffer));
        seen.loops = vec![LoopTime { awake: SPAN, all: SPAN }];
        assert_eq!(sending(&seen), Some(Bottleneck::Processor));
    }

    #[test]
    fn the_receiver_knows_its_output_only() {
        let mut seen = seen(Hold::Nothing, None);
        for (hold, expected) in [(Hold::Output, Bottleneck::Output), (Hold::Arrival, Bottleneck::Arrival)] {
            let mut account = Account::default();
            account.enter(hold, None, Duration::ZERO);
            seen.received = Some(Half { spent: account.spent(SPAN), ..Half::default() });
            assert_eq!(receiving(&seen), Some(expected));
        }
    }

    #[test]
    fn a_moment_says_nothing() {
        let mut short = seen(Hold::Input, None);
        let whole = short.clone();
        short.at = Duration::ZERO;
        assert_eq!(sending(&whole.since(&whole)), None);
        assert!(sending(&short).is_some());
    }
}
