//! Where the slave of a stream cannot be computed it is seen: this looks at one stream after the other until [`Survey`]
//! has the set that it wants.
//!
//! With the observer a stream shows by its own packets; with the slaves' counters one stream at a time does (see
//! [`Burst`]). Must not know how streams are opened and let go.

use super::audit::Leaving;
use super::burst::{Burst, Shown};
use super::evening::Arrivals;
use super::looks::Looks;
use super::order::Orders;
use super::survey::{Step, Survey};
use super::{Access, ByPort, Counted, Finding, Gauge, Reading, Sees, Stamp};
use crate::transfer::{StreamId, Time, Traffic};
use std::time::Duration;

/// How long a stream may go without a packet of its own before it counts as unseen by the observer.
const UNSEEN: Duration = Duration::from_secs(2);
/// Candidates that take longer to come up are not waited for with the links idle.
const CANDIDATE_LIMIT: Duration = Duration::from_secs(1);
/// A receiver with a bond is given so long to tell where the streams arrive.
const ARRIVALS_LIMIT: Duration = Duration::from_secs(2);
/// A search that takes longer is given up: while it lasts the links are not filled.
const SEARCH_LIMIT: Duration = Duration::from_secs(20);
/// How soon to look again while a search is on.
const TICK: Duration = Duration::from_millis(10);

/// How a search has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Even,
    /// These slaves, by index, have no stream.
    Missed(Vec<u16>),
    /// It cannot be told.
    Unknown,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    /// So many candidates are to be opened.
    Open(u16),
    /// The search is over: these streams are to be kept.
    Settle(Outcome, Vec<StreamId>),
}

/// What it goes by.
pub(super) struct View {
    /// The streams that are up.
    pub(super) streams: Vec<Leaving>,
    /// Others are on their way.
    pub(super) coming: bool,
    pub(super) arrivals: Arrivals,
    /// The receiver has several links, and so may tell where streams arrive.
    pub(super) tells: bool,
    pub(super) traffic: Option<Traffic>,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Surveying {
    survey: Survey,
    /// Names of the slaves.
    slaves: Vec<String>,
    /// Since when it has been looking.
    since: Time,
    /// When candidates were last opened.
    opened: Option<Time>,
    /// Since when only the receiver's word is missing.
    waiting: Option<Time>,
    /// Whether the links wait for the next burst.
    holding: bool,
    eye: Eye,
    /// The counters do not tell streams apart.
    hopeless: bool,
    /// The streams that were up, and whether others were coming, when there was last nothing to do.
    rested: (Vec<u32>, bool),
}

/// How a stream is seen.
#[derive(Debug)]
enum Eye {
    /// By its own packets: what had been counted at the start, and since.
    Streams { base: Option<ByPort>, now: ByPort, asked: Option<Stamp>, next: Time },
    /// By the slaves' counters.
    Slaves { burst: Option<Burst> },
}

impl Surveying {
    pub(super) fn new(gauge: &Gauge, streams: u16, now: Time) -> Self {
        let eye = match gauge.sees {
            Sees::Streams => Eye::Streams { base: None, now: ByPort::new(), asked: None, next: now },
            Sees::Slaves => Eye::Slaves { burst: None },
        };
        Self {
            survey: Survey::new(streams, &gauge.weights),
            slaves: gauge.slaves.clone(),
            since: now,
            opened: None,
            waiting: None,
            // What is under way already would have to arrive first.
            holding: gauge.sees == Sees::Slaves,
            eye,
            hopeless: false,
            rested: (Vec::new(), false),
        }
    }

    /// So many streams are wanted in all.
    pub(super) fn aim(&mut self, streams: u16) {
        self.survey.aim(streams);
    }

    pub(super) fn slaves(&self) -> &[String] {
        &self.slaves
    }

    pub(super) fn slave_of(&self, stream: StreamId) -> Option<u16> {
        self.survey.slave_of(stream.0)
    }

    /// Who may take data now.
    pub(super) fn access(&self) -> Access {
        match &self.eye {
            Eye::Slaves { burst: Some(burst) } => burst.access(),
            Eye::Slaves { burst: None } if self.holding => Access::Nobody,
            _ => Access::All,
        }
    }

    pub(super) fn poll_timeout(now: Time) -> Time {
        now + TICK
    }

    /// So many candidates are being opened; with none to be had at all, there will be no more.
    pub(super) fn opened(&mut self, streams: u16, now: Time) {
        self.opened = Some(now);
        self.survey.opened(streams);
    }

    /// Candidates have to wait: not with the links idle.
    pub(super) fn wait(&mut self) {
        self.holding = false;
    }

    /// It has been over: whether streams have come or gone since, so that it must go on.
    pub(super) fn goes_on(&mut self, up: Vec<u32>, coming: bool, now: Time) -> bool {
        if self.rested == (up.clone(), coming) {
            return false;
        }
        self.survey.retain(&up);
        let more = match self.survey.next(&up) {
            Step::Look(_) => true,
            Step::Open(_) => !coming,
            Step::Keep(_) | Step::Short { .. } => false,
        };
        self.rested = (up, coming);
        if more {
            (self.since, self.opened, self.waiting) = (now, None, None);
            // What was asked before it was over is not answered any more.
            if let Eye::Streams { asked, next, .. } = &mut self.eye {
                (*asked, *next) = (None, now);
            }
        }
        more
    }

    /// Takes one step.
    pub(super) fn step(&mut self, view: &View, now: Time, looks: &mut Looks<'_>) -> Verdict {
        let up = numbers(&view.streams);
        if self.hopeless || now.since(self.since) >= SEARCH_LIMIT {
            return Verdict::Settle(Outcome::Unknown, ids(&up));
        }
        if let Eye::Slaves { burst: Some(burst) } = &mut self.eye {
            let shown = burst.step(view.traffic, now, looks);
            self.take_in(shown, now, looks.out());
            return Verdict::Wait;
        }
        self.survey.retain(&up);
        for stream in &up {
            if let Some((slave, slaves)) = view.arrivals.place(StreamId(*stream)) {
                self.survey.arrives(*stream, slave, slaves);
            }
        }
        match self.survey.next(&up) {
            Step::Look(stream) => {
                self.look(StreamId(stream), view, now, looks);
                Verdict::Wait
            }
            // Those on their way may be what is missing.
            Step::Open(_) if view.coming => {
                self.holding &= self.opened.is_some_and(|at| now.since(at) < CANDIDATE_LIMIT);
                Verdict::Wait
            }
            Step::Open(more) => Verdict::Open(more),
            Step::Keep(_) if self.awaits_arrivals(&up, view, now) => {
                self.holding = false;
                Verdict::Wait
            }
            Step::Keep(keep) => Verdict::Settle(Outcome::Even, ids(&keep)),
            Step::Short { keep, missed } => Verdict::Settle(Outcome::Missed(missed), ids(&keep)),
        }
    }

    /// Whether the receiver may soon tell where the streams arrive: then the set can be chosen even for both ends.
    fn awaits_arrivals(&mut self, up: &[u32], view: &View, now: Time) -> bool {
        let seen = up.iter().filter(|stream| self.survey.slave_of(**stream).is_some());
        let told = seen.copied().all(|stream| view.arrivals.place(StreamId(stream)).is_some());
        view.tells && !told && now.since(*self.waiting.get_or_insert(now)) < ARRIVALS_LIMIT
    }

    /// Begins to look at a stream, or tells at once.
    fn look(&mut self, stream: StreamId, view: &View, now: Time, looks: &mut Looks<'_>) {
        match &mut self.eye {
            Eye::Slaves { burst } => (*burst, self.holding) = (Some(Burst::new(stream, now)), true),
            Eye::Streams { base, now: counted, asked, next } => {
                let known = view.streams.iter().find(|leaving| leaving.id == stream);
                let seen = base.as_ref().and_then(|base| known?.by(counted, base));
                if seen.is_some() || now.since(self.since) >= UNSEEN {
                    self.saw(stream, seen.map(|(slave, _)| slave), looks.out());
                } else if asked.is_none() && *next <= now {
                    *asked = Some(looks.look());
                }
            }
        }
    }

    /// The gauge has been read.
    pub(super) fn read(&mut self, reading: &Reading, now: Time, out: &mut Orders) {
        match &mut self.eye {
            Eye::Slaves { burst: Some(burst) } => {
                let shown = burst.read(reading, now);
                self.take_in(shown, now, out);
            }
            Eye::Streams { base, now: counted, asked, next } if *asked == Some(reading.stamp) => {
                (*asked, *next) = (None, now + TICK);
                if let Some(Counted::Streams(read)) = &reading.counted {
                    base.get_or_insert_with(|| read.clone());
                    counted.clone_from(read);
                }
            }
            _ => {}
        }
    }

    /// What a burst has shown.
    fn take_in(&mut self, shown: Shown, now: Time, out: &mut Orders) {
        let Eye::Slaves { burst } = &mut self.eye else { return };
        let Some(mut shot) = burst.take() else { return };
        let stream = shot.stream;
        match shown {
            Shown::Pending => *burst = Some(shot),
            Shown::Starved => {
                // No link is kept idle by that: it does not count.
                self.since = now;
                shot.excuse(now);
                *burst = Some(shot);
            }
            Shown::Slave(slave) => self.saw(stream, Some(slave), out),
            Shown::Blurred if let Some(longer) = shot.longer(now) => *burst = Some(longer),
            Shown::Blurred | Shown::Lost => self.saw(stream, None, out),
            Shown::TooSlow => self.hopeless = true,
        }
    }

    fn saw(&mut self, stream: StreamId, slave: Option<u16>, out: &mut Orders) {
        let name = slave.and_then(|slave| self.slaves.get(usize::from(slave))).cloned();
        out.say(Finding::Leaves { stream: stream.0, slave: name });
        self.survey.saw(stream.0, slave);
    }
}

fn numbers(streams: &[Leaving]) -> Vec<u32> {
    streams.iter().map(|stream| stream.id.0).collect()
}

fn ids(numbers: &[u32]) -> Vec<StreamId> {
    numbers.iter().copied().map(StreamId).collect()
}
