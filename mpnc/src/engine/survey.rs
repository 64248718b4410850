//! Measured spread: where the slave of a stream cannot be computed, or what was computed does not hold, each stream is seen on its slave
//! and an even set is kept.
//!
//! With the observer a stream shows by its own packets. Without privilege the slaves' transmit counters show it, while one stream at a
//! time carries a burst of the transfer's own data: nothing is sent for the sake of measuring. Which streams to look at, to open and to
//! keep is [`bond::survey`](crate::bond::survey)'s to decide.

use super::connect::{Connector, Lane};
use super::conns::Conns;
use super::hub::Hub;
use crate::bond::Outlook;
use crate::bond::survey::{self, Step};
use crate::error::{Error, words};
use crate::sys::txrehash;
use crate::transfer::StreamId;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a burst: one block of the usual size, so that a look costs as little as it can ...
pub(super) const BURST: u64 = 256 << 10;
/// ... and four times as many each time that it did not stand out from what else the slaves sent, up to this.
const LARGEST_BURST: u64 = 16 << 20;
/// The slave that sent this part of all that was sent during a burst carries the stream.
const DOMINANT: f64 = 0.7;
/// Counters that do not show a burst by then are read from the card now and then: too slow to tell one burst from the next.
const COUNTER_LAG: Duration = Duration::from_millis(300);
/// How long a stream may go without a packet of its own before it counts as unseen by the observer.
const UNSEEN: Duration = Duration::from_secs(2);
/// A burst that takes longer is held up somewhere: the stream counts as unseen.
const BURST_LIMIT: Duration = Duration::from_secs(5);
/// Candidates that take longer to come up are not waited for with the links idle.
const CANDIDATE_LIMIT: Duration = Duration::from_secs(1);
/// A receiver with a bond is given so long to tell where the streams arrive.
const ARRIVALS_LIMIT: Duration = Duration::from_secs(2);
/// A search that takes longer is given up: while it lasts the links are not filled.
const SEARCH_LIMIT: Duration = Duration::from_secs(20);
/// How soon to look again while a search is on.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Bytes that streams, by source port, have sent by each slave, by index.
pub type ByPort = BTreeMap<(u16, u16), u64>;

/// What shows by which slave a stream leaves.
#[derive(Clone)]
pub enum Leaving {
    /// The packets of each stream, counted by the kernel (the observer).
    Streams(Arc<dyn Fn() -> ByPort + Send + Sync>),
    /// Bytes sent by each slave so far, everybody's; `None` when that cannot be read.
    Slaves(Arc<dyn Fn() -> Option<Vec<u64>> + Send + Sync>),
}

/// The slaves of this host, and how to see what leaves by them.
#[derive(Clone)]
pub struct Gauge {
    /// Names, by index.
    pub slaves: Vec<String>,
    /// Relative capacities, by index.
    pub weights: Vec<u32>,
    /// Streams wanted in all.
    pub streams: u16,
    /// Whether the plan is no more than a guess, so that measuring comes first.
    pub doubted: bool,
    /// What shows where streams leave.
    pub leaving: Leaving,
}

impl Gauge {
    /// Whether it sees only what all streams together send, so that they must take turns.
    fn is_shared(&self) -> bool {
        matches!(self.leaving, Leaving::Slaves(_))
    }
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("slaves", &self.slaves).field("doubted", &self.doubted).finish_non_exhaustive()
    }
}

/// A stream alone on the links.
struct Burst {
    stream: StreamId,
    len: u64,
    since: Instant,
    /// The slaves' counters at its start; `None` while what others had under way is awaited.
    before: Option<Vec<u64>>,
    /// When all of it had been acknowledged.
    done: Option<Instant>,
}

/// What a burst has shown so far.
enum Shown {
    /// Nothing yet.
    Pending,
    /// Nothing, because the input has no more for now.
    Starved,
    /// The slave.
    Slave(u16),
    /// Too much else was sent meanwhile.
    Blurred,
    /// The stream could not go on.
    Lost,
    /// The counters do not follow.
    TooSlow,
}

/// The search for streams that are even over the slaves, and then what it has found.
pub(super) struct Measuring {
    plan: survey::Survey,
    /// What the observer had counted at its start.
    counted: ByPort,
    burst: Option<Burst>,
    /// Since when it has been looking; `None` once it has what it wants.
    since: Option<Instant>,
    /// When candidates were last opened.
    opened: Option<Instant>,
    /// Since when only the receiver's word is missing.
    waiting: Option<Instant>,
    /// The counters do not tell streams apart.
    hopeless: bool,
}

/// How a search has ended.
enum Outcome {
    Even,
    /// These slaves, by index, have no stream.
    Missed(Vec<u16>),
    Unknown,
}

impl Connector {
    /// Takes one step of measuring, if there is one to take.
    pub(super) fn measure(&mut self, conns: &mut Conns) -> Result<(), Error> {
        let (Some(hub), Some(gauge)) = (self.hub().cloned(), self.gauge.clone()) else { return Ok(()) };
        if self.is_done() || !self.sends() {
            return Ok(());
        }
        if self.measuring.is_none() && !gauge.doubted && !self.plan_fails(&gauge, conns) {
            return Ok(());
        }
        if self.measuring.is_none() {
            self.begin_measuring(&hub, &gauge);
        }
        let Some(mut measuring) = self.measuring.take() else { return Ok(()) };
        let opened = self.search_on(&mut measuring, &hub, &gauge, conns);
        self.measuring = Some(measuring);
        opened.map_or(Ok(()), |more| self.open_candidates(more, conns))
    }

    /// Where the plan is no more than a guess, measuring comes before the first block: what is under way already would have to arrive first.
    pub(super) fn measure_first(&mut self, hub: &Hub) {
        if let Some(gauge) = self.gauge.clone().filter(|gauge| gauge.doubted && self.sends()) {
            self.begin_measuring(hub, &gauge);
        }
    }

    /// There is a new plan: what did not hold of the old one is not trusted of this one either.
    pub(super) fn measure_anew(&mut self) {
        if self.measuring.take().is_none() {
            return;
        }
        if let Some(hub) = &self.hub {
            hub.release();
        }
        if let Some(gauge) = &mut self.gauge {
            gauge.doubted = true;
        }
    }

    /// The plan is no more than a guess from now on.
    pub(super) fn doubt(&mut self, hub: &Hub) {
        if let Some(gauge) = &mut self.gauge {
            gauge.doubted = true;
        }
        if self.measuring.is_none() {
            self.measure_first(hub);
        }
    }

    fn begin_measuring(&mut self, hub: &Hub, gauge: &Gauge) {
        log::info!("measuring by which of {} slaves each stream leaves", gauge.slaves.len());
        self.planner.set_outlook(Outlook::Unknown);
        self.measuring = Some(Measuring::new(gauge, gauge.streams.max(self.least_streams)));
        if gauge.is_shared() {
            hub.pause();
        }
    }

    /// Whether streams are being looked for now.
    pub(super) fn is_searching(&self) -> bool {
        self.measuring.as_ref().is_some_and(|measuring| measuring.since.is_some())
    }

    /// Answers how many candidates are to be opened.
    fn search_on(&mut self, search: &mut Measuring, hub: &Arc<Hub>, gauge: &Gauge, conns: &mut Conns) -> Option<u16> {
        let up: Vec<u32> = self.lanes.iter().filter_map(|lane| lane.stream).map(|id| id.0).collect();
        if search.hopeless || search.since.is_some_and(|since| since.elapsed() >= SEARCH_LIMIT) {
            self.settle(search, hub, gauge, &up, &Outcome::Unknown, conns);
        }
        if search.burst.is_some() {
            search.judge_burst(hub, gauge);
            return None;
        }
        search.plan.retain(&up);
        search.hear_arrivals(&up, hub);
        match search.plan.next(&up) {
            _ if search.hopeless => {}
            Step::Look(stream) => search.look(StreamId(stream), hub, gauge, &self.opened),
            // Those on their way may be what is missing.
            Step::Open(_) if self.lanes.iter().any(|lane| lane.stream.is_none()) => {
                if search.opened.is_none_or(|at| at.elapsed() >= CANDIDATE_LIMIT) {
                    hub.release();
                }
            }
            Step::Open(more) => {
                search.since.get_or_insert_with(Instant::now);
                search.opened = Some(Instant::now());
                search.plan.opened(more);
                return Some(more);
            }
            Step::Keep(_) if self.awaits_arrivals(search, &up, hub) => hub.release(),
            Step::Keep(keep) => self.settle(search, hub, gauge, &keep, &Outcome::Even, conns),
            Step::Short { keep, missed } => self.settle(search, hub, gauge, &keep, &Outcome::Missed(missed), conns),
        }
        None
    }

    /// Whether the receiver may soon tell where the streams arrive: then the set can be chosen even for both ends.
    fn awaits_arrivals(&self, search: &mut Measuring, up: &[u32], hub: &Hub) -> bool {
        let told = |stream: &u32| hub.observed(StreamId(*stream)).is_some();
        search.since.is_some()
            && self.peer_bond.is_some_and(|bond| u16::from(bond.slaves.count()) > 1)
            && !up.iter().filter(|stream| search.plan.slave_of(**stream).is_some()).all(told)
            && search.waiting.get_or_insert_with(Instant::now).elapsed() < ARRIVALS_LIMIT
    }

    fn open_candidates(&mut self, more: u16, conns: &mut Conns) -> Result<(), Error> {
        log::debug!("{more} more candidates");
        match self.planner.plan(more) {
            Ok(plan) => plan.into_iter().try_for_each(|planned| {
                self.lanes.push(Lane::new(planned));
                self.open(self.lanes.len() - 1, conns)
            }),
            Err(error) => {
                log::warn!("cannot open more streams: {error}");
                if let Some(measuring) = &mut self.measuring {
                    measuring.plan.opened(u16::MAX);
                }
                Ok(())
            }
        }
    }

    /// The search is over: keeps its choice, lets the others finish, and says what was found.
    fn settle(
        &mut self,
        search: &mut Measuring,
        hub: &Arc<Hub>,
        gauge: &Gauge,
        keep: &[u32],
        outcome: &Outcome,
        conns: &mut Conns,
    ) {
        if search.since.take().is_none() {
            return; // It has been over before, and nothing has changed.
        }
        search.burst = None;
        hub.release();
        self.slaves.clone_from(&gauge.slaves);
        let wanted = |lane: &Lane| lane.stream.is_some_and(|id| keep.contains(&id.0));
        let (kept, rest): (Vec<Lane>, Vec<Lane>) = std::mem::take(&mut self.lanes).into_iter().partition(wanted);
        self.lanes = kept;
        for lane in rest {
            self.close_lane(lane, conns);
        }
        for index in 0..self.lanes.len() {
            let Some(id) = self.lanes[index].stream else { continue };
            let slave = search.plan.slave_of(id.0);
            self.lanes[index].planned.slave = slave;
            self.name_slave(id, slave);
            conns.pin_txhash(hub, id);
        }
        say_outcome(gauge, outcome, self.lanes.len());
    }
}

impl Measuring {
    fn new(gauge: &Gauge, streams: u16) -> Self {
        Self {
            plan: survey::Survey::new(streams, &gauge.weights),
            counted: if let Leaving::Streams(read) = &gauge.leaving { read() } else { ByPort::new() },
            burst: None,
            since: Some(Instant::now()),
            opened: None,
            waiting: None,
            hopeless: false,
        }
    }

    /// Takes in what the receiver has told.
    fn hear_arrivals(&mut self, up: &[u32], hub: &Hub) {
        for stream in up {
            if let Some(place) = hub.observed(StreamId(*stream)).and_then(|seen| seen.place) {
                self.plan.arrives(*stream, place.slave(), place.of().into());
            }
        }
    }

    /// Begins to look at a stream, or tells at once.
    fn look(&mut self, stream: StreamId, hub: &Hub, gauge: &Gauge, opened: &[super::Opened]) {
        let since = *self.since.get_or_insert_with(Instant::now);
        match &gauge.leaving {
            Leaving::Streams(read) => {
                let known = opened.iter().rev().find(|opened| opened.id == stream);
                let seen = known.and_then(|known| leaves_by(&read(), &self.counted, known));
                if seen.is_some() || since.elapsed() >= UNSEEN {
                    self.saw(stream, seen.map(|(slave, _)| slave), gauge);
                }
            }
            Leaving::Slaves(_) => self.begin_burst(stream, BURST, hub),
        }
    }

    fn begin_burst(&mut self, stream: StreamId, len: u64, hub: &Hub) {
        // Nothing new for anybody, until what is under way has arrived.
        hub.pause();
        self.burst = Some(Burst { stream, len, since: Instant::now(), before: None, done: None });
    }

    fn judge_burst(&mut self, hub: &Hub, gauge: &Gauge) {
        let Some(mut burst) = self.burst.take() else { return };
        let (stream, len) = (burst.stream, burst.len);
        match burst.shown(hub, gauge) {
            Shown::Pending => self.burst = Some(burst),
            Shown::Starved => {
                // No link is kept idle by that: it does not count.
                (self.since, burst.since) = (Some(Instant::now()), Instant::now());
                self.burst = Some(burst);
            }
            Shown::Slave(slave) => self.saw(stream, Some(slave), gauge),
            Shown::Blurred if len < LARGEST_BURST => self.begin_burst(stream, len * 4, hub),
            Shown::Blurred | Shown::Lost => self.saw(stream, None, gauge),
            Shown::TooSlow => self.hopeless = true,
        }
    }

    fn saw(&mut self, stream: StreamId, slave: Option<u16>, gauge: &Gauge) {
        let name =
            slave.and_then(|slave| gauge.slaves.get(usize::from(slave))).map_or("no slave in sight", String::as_str);
        log::info!("stream {} leaves by {name}", stream.0);
        self.plan.saw(stream.0, slave);
    }
}

impl Burst {
    fn shown(&mut self, hub: &Hub, gauge: &Gauge) -> Shown {
        let Leaving::Slaves(read) = &gauge.leaving else { return Shown::Lost };
        let Some(before) = &self.before else {
            if hub.is_idle() {
                self.before = read();
                hub.burst(self.stream, self.len);
            }
            return Shown::Pending;
        };
        let Some(left) = hub.burst_left(self.stream) else { return Shown::Lost };
        match (left > 0, hub.is_idle()) {
            (true, true) if !hub.has_backlog() => return Shown::Starved,
            (false, true) => {}
            _ if self.since.elapsed() >= BURST_LIMIT => return Shown::Lost,
            _ => return Shown::Pending,
        }
        let done = *self.done.get_or_insert_with(Instant::now);
        let Some(now) = read().filter(|now| now.len() == before.len()) else { return Shown::Lost };
        match dominant(&now, before, self.len) {
            Some(shown) => shown,
            None if done.elapsed() < COUNTER_LAG => Shown::Pending,
            None => Shown::TooSlow,
        }
    }
}

/// What the counters show of a burst of `len` bytes; `None` if they do not show it at all.
fn dominant(now: &[u64], before: &[u64], len: u64) -> Option<Shown> {
    let moved: Vec<u64> = now.iter().zip(before).map(|(now, before)| now.saturating_sub(*before)).collect();
    let most = (0..moved.len()).max_by_key(|slave| moved[*slave]).filter(|most| moved[*most] >= len)?;
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than a few digits")]
    let share = moved[most] as f64 / moved.iter().sum::<u64>() as f64;
    Some(if share >= DOMINANT { u16::try_from(most).map_or(Shown::Lost, Shown::Slave) } else { Shown::Blurred })
}

/// The slave by which a stream has sent most since `before`, and how much. A NAT of this host's own has changed its port by then.
pub(super) fn leaves_by(now: &ByPort, before: &ByPort, stream: &super::Opened) -> Option<(u16, u64)> {
    most(now, before, stream.port).or_else(|| most(now, before, stream.seen.port()))
}

/// The slave by which a port has sent most since `before`, and how much.
fn most(now: &ByPort, before: &ByPort, port: u16) -> Option<(u16, u64)> {
    let since =
        |(key, bytes): (&(u16, u16), &u64)| (key.1, bytes.saturating_sub(before.get(key).copied().unwrap_or(0)));
    now.range((port, 0)..=(port, u16::MAX)).map(since).filter(|(_, bytes)| *bytes > 0).max_by_key(|(_, bytes)| *bytes)
}

fn say_outcome(gauge: &Gauge, outcome: &Outcome, streams: usize) {
    let all = gauge.slaves.len();
    match outcome {
        Outcome::Even => log::info!("measured: {streams} streams, even over {all} slaves"),
        Outcome::Missed(missed) if missed.len() < all => {
            let name = |slave: &u16| gauge.slaves.get(usize::from(*slave)).map(String::as_str);
            log::warn!(
                "no source port that was tried leads to {}: {} of {all} slaves are used, the bond does not hash on ports",
                missed.iter().filter_map(name).collect::<Vec<_>>().join(", "),
                all - missed.len()
            );
        }
        Outcome::Missed(_) | Outcome::Unknown => log::warn!(
            "the slaves' counters do not tell by which slave each stream leaves: {streams} streams share {all} slaves by chance"
        ),
    }
}

impl Conns {
    /// Keeps the stream's hash as it is: where it was drawn by lot (encap3+4), the kernel would draw again after a timeout.
    fn pin_txhash(&mut self, hub: &Arc<Hub>, id: StreamId) {
        let Some(conn) = self.token_of(hub, id).and_then(|token| self.get_mut(token)) else { return };
        if let Err(error) = txrehash::pin(conn.socket.as_fd()) {
            log::debug!("cannot keep the hash of stream {}: {}", id.0, words(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shows_its_slave_if_little_else_is_sent() {
        assert!(matches!(dominant(&[10, 700, 0], &[0, 0, 0], 600), Some(Shown::Slave(1))));
        assert!(matches!(dominant(&[500, 700, 0], &[0, 0, 0], 600), Some(Shown::Blurred)));
        assert!(dominant(&[100, 500], &[0, 0], 600).is_none());
    }

    #[test]
    fn the_slave_of_a_port_is_where_it_sent_most_since() {
        let before = ByPort::from([((7, 0), 1000), ((7, 1), 10), ((8, 0), 5)]);
        let now = ByPort::from([((7, 0), 1010), ((7, 1), 500), ((8, 0), 5), ((9, 2), 60)]);
        assert_eq!(most(&now, &before, 7), Some((1, 490)));
        assert_eq!(most(&now, &before, 8), None);
        assert_eq!(most(&now, &before, 9), Some((2, 60)));
    }
}
