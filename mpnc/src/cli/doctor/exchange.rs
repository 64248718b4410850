//! The talk of two doctors at the ends of a session's pipe: a line of JSON each, and filler that shows where streams
//! arrive.
//!
//! A thread of its own holds the other ends of the session's pipe, as a command of `--exec` would. If the session
//! fails, they close.

use crate::discover::{PathView, Tree, vitals};
use crate::doctor::{Facts, Host, Trial};
use crate::engine::{Hub, OnSession, OpenedEnds};
use crate::wire::printable;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that follow the findings: enough to fill the send buffers of all streams and a good deal more.
const FILLER: u64 = 8 << 20;
/// Longest findings that are read from the other side, bytes.
const LONGEST: u64 = 256 << 10;
/// Most entries of any list in them.
const MOST: usize = 256;
/// A stream counts if so many bytes arrived on it.
const COUNTS: u64 = 64 << 10;
/// How long to wait for the last stream, before the filler goes out over those that are up.
const GATHER: Duration = Duration::from_secs(2);

/// What an exchange has brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The other host, if it told of itself to the end.
    pub(super) peer: Option<Host>,
    /// This host, where it was examined within the exchange (the listener's).
    pub(super) own: Option<Host>,
    /// What was seen of the streams.
    pub(super) probe: Trial,
}

/// An exchange under way.
pub(super) struct Exchange(JoinHandle<Heard>);

/// The thread's ends of the pipe, and where it will hear of the session.
struct FarEnds {
    hubs: Receiver<Arc<Hub>>,
    input: PipeReader,
    output: PipeWriter,
}

impl Exchange {
    /// The connector's part: to speak first, when `streams` are up.
    pub(super) fn ask(own: Host, streams: usize) -> io::Result<(Self, OpenedEnds, OnSession)> {
        let (ends, pipe, hubs) = ends()?;
        let exchange = Self::start(move || {
            let Ok(hub) = ends.hubs.recv() else { return Heard::default() };
            gather(&hub, streams);
            // If it cannot be written the session has failed, and nothing will be heard either.
            let _ = speak(&own, ends.output);
            let peer = listen(ends.input);
            Heard { peer, own: None, probe: probe(&hub) }
        })?;
        let on_session: OnSession = Arc::new(move |hub, _| drop(hubs.send(Arc::clone(hub))));
        Ok((exchange, pipe, on_session))
    }

    /// The listener's part: to hear all, and then to say what came of it. `before` are its facts on the way back by
    /// `view`.
    pub(super) fn answer(view: PathView, before: Facts) -> io::Result<(Self, OpenedEnds, Sender<Arc<Hub>>)> {
        let (ends, pipe, hubs) = ends()?;
        let exchange = Self::start(move || {
            let Ok(hub) = ends.hubs.recv() else { return Heard::default() };
            let peer = listen(ends.input);
            let probe = probe(&hub);
            let own = Host::examined(&before, &vitals(&view, &Tree::default()), &probe);
            let _ = speak(&own, ends.output);
            Heard { peer, own: Some(own), probe }
        })?;
        Ok((exchange, pipe, hubs))
    }

    fn start(talk: impl FnOnce() -> Heard + Send + 'static) -> io::Result<Self> {
        thread::Builder::new().name("doctor".into()).spawn(talk).map(Self)
    }

    /// Waits for its end; the session must be over.
    pub(super) fn finish(self) -> Heard {
        self.0.join().unwrap_or_default()
    }
}

fn ends() -> io::Result<(FarEnds, OpenedEnds, Sender<Arc<Hub>>)> {
    let (input, to_us) = io::pipe()?;
    let (from_us, output) = io::pipe()?;
    let (sender, hubs) = mpsc::channel();
    Ok((FarEnds { hubs, input, output }, OpenedEnds::of_pipes(from_us, to_us, "the probe"), sender))
}

fn gather(hub: &Hub, streams: usize) {
    let deadline = Instant::now() + GATHER;
    let up = || hub.snapshot().streams.iter().filter(|stream| stream.up).count();
    while up() < streams && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

fn speak(host: &Host, mut output: impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut output, host)?;
    output.write_all(b"\n")?;
    io::copy(&mut io::repeat(0).take(FILLER), &mut output).map(drop)
}

/// The other host's findings; reads all that comes after them too. `None` if they are not whole, or in no form that is
/// known here.
fn listen(input: impl Read) -> Option<Host> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    let read = input.by_ref().take(LONGEST).read_until(b'\n', &mut line);
    let rest = io::copy(&mut input, &mut io::sink());
    let whole = read.is_ok() && rest.is_ok_and(|bytes| bytes >= FILLER);
    let host = serde_json::from_slice(&line).map(fit_to_print).and_then(serde_json::from_value);
    if let Err(error) = &host {
        log::info!("what the other side says of itself cannot be read: {error}");
    }
    host.ok().filter(|_| whole)
}

/// What the other side says of itself reaches a terminal: each text is one line, and short.
fn fit_to_print(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(text.as_bytes())),
        Value::Array(list) => list.into_iter().take(MOST).map(fit_to_print).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, fit_to_print(value))).collect(),
        plain => plain,
    }
}

fn probe(hub: &Hub) -> Trial {
    let streams = hub.snapshot().streams;
    let rtt = streams.iter().filter_map(|stream| stream.tcp).map(|tcp| tcp.min_rtt).filter(|rtt| !rtt.is_zero()).min();
    let carried = streams.iter().filter(|stream| stream.received >= COUNTS).count();
    Trial {
        rtt_us: rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
        streams: u32::try_from(carried).unwrap_or(u32::MAX),
    }
}
