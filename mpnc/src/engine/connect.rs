//! The connecting side: carries facts from sockets, session and system to the path manager, and its orders back.
//!
//! Must not decide which stream goes where, when to open another or when to give up: that is [`crate::paths`].

use super::bell::Bell;
use super::caller::Caller;
use super::carrier::Crew;
use super::conn::{ConnError, Phase};
use super::conns::Conns;
use super::dial;
use super::ends::{Open, attend};
use super::gauge::{Leaving, Reader};
use super::hub::{Hub, News};
use super::options::{Options, tune};
use super::passage;
use super::report::{Opened, Roll};
use super::start::{Begun, Side, begin_session};
use crate::bond::{Planned, Planner, PortPool, Severity};
use crate::error::Error;
use crate::paths::{self, Fact, Failure, Finding, Order, Paths, Reading, Setup, SlotId, Up};
use crate::transfer::{Event, StreamId, Terms, Time};
use crate::wire::{Addresses, BondFacts, Directions, Fault, Frame, Hello, Refusal, SessionId, Verdict, Welcome};
use mio::Token;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Duration;

/// The way out, and what shows by which of its slaves streams leave.
#[derive(Debug, Clone)]
pub struct Way {
    /// What the path manager goes by.
    pub facts: paths::Way,
    /// How its gauge is read, if it has one.
    pub leaving: Option<Leaving>,
}

/// What to connect to, and how.
pub struct Connect {
    /// The listener.
    pub target: SocketAddr,
    /// The way there, with the local address to bind to, so that the bond's hash is known.
    pub way: Way,
    /// The source of further ports.
    pub planner: Planner,
    /// One entry per stream.
    pub plan: Vec<Planned>,
    /// Whether a person has said how many streams there are to be.
    pub stated: bool,
    /// Loops that share the streams, each on a thread of its own.
    pub workers: usize,
    /// The source ports that the kernel itself would choose from, for where the planned ones get no answer.
    pub spare: PortPool,
    /// Starts whatever tells of changes of the way out.
    pub follow: Box<dyn FnOnce(Teller) + Send>,
    /// Tries the listener's further addresses, if they may be used.
    pub others: Option<Others>,
}

/// Takes what the listener's first greeting tells, and returns at once.
pub type Others = Box<dyn FnOnce(Told) + Send>;

/// What the listener's first greeting tells.
pub struct Told {
    /// Its further addresses.
    pub addresses: Addresses,
    /// Its bond.
    pub bond: Option<BondFacts>,
    /// Takes the way by which they are reached too.
    pub teller: Teller,
}

/// Tells the connector that the way out is another now, from any thread.
#[derive(Clone)]
pub struct Teller {
    ways: mpsc::Sender<Way>,
    bell: Weak<Bell>,
}

impl Teller {
    /// Whether there is still a connector.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.bell.strong_count() > 0
    }

    /// The way is that now.
    pub fn tell(&self, way: Way) {
        // That nobody takes it any more is no loss.
        let _ = self.ways.send(way);
        self.bell.upgrade().into_iter().for_each(|bell| bell.ring());
    }
}

/// See the module documentation.
pub(super) struct Connector {
    target: SocketAddr,
    options: Options,
    session: SessionId,
    next_stream: u32,
    paths: Paths,
    /// Connections on their way, and for which slot.
    dials: BTreeMap<Token, SlotId>,
    ways: mpsc::Receiver<Way>,
    gauge: Reader,
    leaving: Option<Leaving>,
    others: Option<(Others, Teller)>,
    /// To the session's thread, which waits for it.
    begin: mpsc::Sender<Begun>,
    crew: Crew,
    roll: Roll,
    /// Of each kind of failure the first, in words.
    reasons: BTreeMap<Failure, Error>,
}

impl Connector {
    /// One that is woken by `bell`, the first of the crew's.
    pub(super) fn new(
        how: Connect,
        options: Options,
        open: Open,
        (bell, crew): (&Arc<Bell>, Crew),
        now: Time,
    ) -> Result<Self, Error> {
        let Connect { target, way, planner, plan, stated, spare, follow, others, .. } = how;
        let (ways, told) = mpsc::channel();
        let teller = Teller { ways, bell: Arc::downgrade(bell) };
        let others = others.map(|others| (others, teller.clone()));
        let on_session = Arc::clone(&options.on_session);
        let begin = attendant(target, open, move |hub| {
            on_session(hub, &Caller { number: 1, peer: target });
            follow(teller);
        })?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Error::os("cannot get random bytes", io::Error::other(error)))?;
        let (sends, receives) = (options.directions.connector_sends(), options.directions.listener_sends());
        // The streams of a check are drawn by lot.
        let receives = receives && options.directions != Directions::Check;
        let (way, leaving, timeout) = (way.facts, way.leaving, options.timeout);
        let setup = Setup { target, way, planner, plan, spare, sends, receives, stated, timeout };
        Ok(Self {
            target,
            session: SessionId(id),
            next_stream: 0,
            paths: Paths::new(setup, now),
            dials: BTreeMap::new(),
            ways: told,
            gauge: Reader::new(bell),
            leaving,
            others,
            begin,
            crew,
            roll: Roll::default(),
            reasons: BTreeMap::new(),
            options,
        })
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.crew.hub()
    }

    pub(super) fn is_done(&self) -> bool {
        self.hub().is_some_and(|hub| hub.is_ended())
    }

    /// What became of it.
    pub(super) fn into_parts(self) -> (Option<Arc<Hub>>, Vec<Opened>) {
        (self.hub().cloned(), self.roll.into_opened())
    }

    /// Whether nothing is left of the session's streams, in whichever loop, and of its ends.
    pub(super) fn is_nothing_left(&self) -> bool {
        self.hub().is_none_or(|hub| hub.members() == 0 && hub.are_ends_gone())
    }

    // --- one turn of the loop ----------------------------------------------------------------------------------------

    /// Tells the path manager what has happened since the last turn, and does what it wants done.
    pub(super) fn turn(&mut self, news: Option<News>, conns: &mut Conns) -> Result<(), Error> {
        let now = conns.now;
        // Of several changes only the last matters.
        if let Some(Way { facts, leaving }) = self.ways.try_iter().last() {
            self.leaving = leaving;
            self.paths.handle(Fact::Way(facts), now);
        }
        if let Some(hub) = self.crew.hub() {
            for (stamp, counted) in self.gauge.answers() {
                self.paths.handle(Fact::Reading(Reading { stamp, counted, acked: hub.acked() }), now);
            }
        }
        if let Some(news) = news {
            for fact in news.events.iter().filter_map(fact) {
                if let Fact::Down(id) = fact {
                    self.roll.leave(id);
                    self.crew.leave(id);
                }
                self.paths.handle(fact, now);
            }
            self.paths.handle(Fact::Passage(news.passage), now);
            news.traffic.into_iter().for_each(|traffic| self.paths.handle(Fact::Traffic(traffic), now));
            if news.over {
                self.paths.handle(Fact::Over, now);
            }
        }
        self.proceed(conns)
    }

    /// Does what the path manager wants done, until that is nothing.
    pub(super) fn proceed(&mut self, conns: &mut Conns) -> Result<(), Error> {
        self.paths.handle_timeout(conns.now);
        while let Some(order) = self.paths.poll_order() {
            self.carry_out(order, conns)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order, conns: &mut Conns) -> Result<(), Error> {
        match order {
            Order::Open { slot, source, target, port } => {
                let target = target.unwrap_or(self.target);
                let placer = self.options.placer.clone();
                let hold = placer.map(|placer| move |port| placer.hold(port, target));
                let started = dial::start(target, (source, port), hold);
                match started.and_then(|(socket, held)| Ok((conns.add(socket, target, Phase::Connecting)?, held))) {
                    Ok((token, held)) => {
                        if let Some(conn) = conns.get_mut(token) {
                            conn.held = held;
                        }
                        self.dials.insert(token, slot);
                    }
                    Err(error) => self.slot_failed(slot, &error, conns),
                }
            }
            Order::Abandon(slot) => {
                for (token, _) in self.dials.extract_if(.., |_, dialled| *dialled == slot) {
                    conns.remove(token);
                }
            }
            Order::Read(stamp) => self.gauge.ask(stamp, self.leaving.as_ref()),
            Order::Say(finding) => say(&finding),
            Order::GiveUp(failure) => return self.give_up(failure),
            of_session => {
                if let Some(hub) = self.crew.hub() {
                    carry_out_in(hub, of_session, &mut self.roll);
                }
            }
        }
        Ok(())
    }

    fn give_up(&mut self, failure: Failure) -> Result<(), Error> {
        let known = self.reasons.remove(&failure);
        let reason = known.unwrap_or_else(|| Error::Bug(format!("no stream could be opened ({failure:?})")));
        let Some(hub) = self.hub() else { return Err(reason) };
        let reason = match failure {
            Failure::PortClosed => Error::Peer(format!("the peer at {} is gone (connection refused)", self.target)),
            _ => Error::Peer(reason.to_string()),
        };
        hub.fail(Fault::SILENT, reason);
        Ok(())
    }

    pub(super) fn poll_timeout(&mut self, conns: &Conns) -> Option<Duration> {
        self.paths.poll_timeout(conns.now).map(|at| at.since(conns.now))
    }

    // --- connecting --------------------------------------------------------------------------------------------------

    /// The TCP handshake is done: say hello.
    pub(super) fn connected(&mut self, token: Token, conns: &mut Conns) {
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return };
        tune(&conn.socket, self.options.tuning);
        if let Some((placer, held)) = self.options.placer.as_ref().zip(conn.held.as_ref()) {
            placer.answered(held);
        }
        let hello = Hello {
            stream: StreamId(self.next_stream),
            session: self.session,
            directions: self.options.directions,
            established: self.hub().is_some(),
            window: self.options.window,
            block: self.options.block,
            bond: (self.options.introduce)(self.target.ip()).bond,
        };
        self.next_stream += 1;
        conn.hello_id = Some(hello.stream);
        conn.greet(&Frame::Hello(hello));
        conn.enter(Phase::Greeting, now);
        if let Some(slot) = self.dials.get(&token) {
            self.paths.handle(Fact::Answered(*slot), now);
        }
    }

    /// The TCP handshake has failed.
    pub(super) fn failed(&mut self, token: Token, conns: &mut Conns, error: &io::Error) {
        conns.remove(token);
        if let Some(slot) = self.dials.remove(&token) {
            self.slot_failed(slot, error, conns);
        }
    }

    fn slot_failed(&mut self, slot: SlotId, error: &io::Error, conns: &Conns) {
        let reason = if error.kind() == io::ErrorKind::ConnectionReset {
            let text = "it took the connection and cut it off; is that mpnc, and does a firewall in between allow it?";
            Error::Peer(format!("{}: {text}", self.target))
        } else {
            let unanswered = self.paths.unanswered().map(|unanswered| unanswered.to_string());
            dial::unreachable(self.target, error, unanswered)
        };
        self.do_without(slot, dial::failure(error), reason, conns);
    }

    /// The peer took the connection and then did not greet as it should.
    pub(super) fn greeting_failed(&mut self, token: Token, conns: &mut Conns, error: Option<&ConnError>) {
        conns.remove(token);
        let Some(slot) = self.dials.remove(&token) else { return };
        let (failure, reason) = match error {
            Some(ConnError::Io(error)) if error.kind() == io::ErrorKind::TimedOut && self.hub().is_none() => (
                Failure::Silent,
                "it took the connection but said nothing; is that mpnc, and is it running?".to_owned(),
            ),
            Some(ConnError::Io(error)) => return self.slot_failed(slot, error, conns),
            Some(other) => (Failure::Garbled, other.to_string()),
            None => {
                let text = "it closed the connection without a greeting; is that mpnc, and of this version?";
                (Failure::Closed, text.to_owned())
            }
        };
        self.do_without(slot, failure, Error::Peer(format!("{}: {reason}", self.target)), conns);
    }

    fn do_without(&mut self, slot: SlotId, failure: Failure, reason: Error, conns: &Conns) {
        if failure == Failure::PortTaken {
            log::debug!("no stream: {reason}");
        } else {
            log::info!("no stream: {reason}");
        }
        self.reasons.entry(failure).or_insert(reason);
        self.paths.handle(Fact::Failed(slot, failure), conns.now);
    }

    // --- in the session ----------------------------------------------------------------------------------------------

    /// The listener has answered.
    pub(super) fn welcomed(&mut self, token: Token, welcome: &Welcome, conns: &mut Conns) -> Result<(), Error> {
        let Some(slot) = self.dials.remove(&token) else { return Ok(()) };
        if let Verdict::Refused(refusal, text) = &welcome.verdict {
            conns.remove(token);
            let reason = Error::Refused(format!("{} refused: {text}", self.target));
            self.do_without(slot, failure_of(*refusal), reason, conns);
            return self.proceed(conns);
        }
        let hub = match self.hub() {
            Some(hub) => Arc::clone(hub),
            None => self.begin_session(welcome)?,
        };
        let now = conns.now;
        let Some(conn) = conns.get_mut(token) else { return Ok(()) };
        let Some(id) = conn.hello_id else { return Ok(()) };
        let local = conn.socket.local_addr().unwrap_or(self.target);
        let port = local.port();
        hub.stream_up(id, &Terms { window: welcome.window, block: welcome.block, bond: welcome.bond });
        conn.join(Arc::clone(&hub), id, welcome.block, now);
        passage::stream_up(&hub);
        // Where an address is translated on the way, the others lead who knows where.
        if welcome.seen.ip() == local.ip().to_canonical()
            && let Some((others, teller)) = self.others.take_if(|_| !welcome.addresses.is_empty())
        {
            others(Told { addresses: welcome.addresses.clone(), bond: welcome.bond, teller });
        }
        self.roll.enter(Opened { id, port, seen: welcome.seen, slave: None });
        self.crew.deal(token, id, &hub, conns)?;
        self.paths.handle(Fact::Up(Up { slot, id, port, seen: welcome.seen }), now);
        // What is to be measured is measured before the first block.
        self.proceed(conns)?;
        log::info!("stream {} up from port {port}, planned for {}", id.0, self.roll.slave_of(id).unwrap_or("no slave"));
        Ok(())
    }

    fn begin_session(&mut self, welcome: &Welcome) -> Result<Arc<Hub>, Error> {
        let begun = begin_session(&self.options, Side::Connector, self.target, welcome.block, self.crew.bells());
        let hub = Arc::clone(&begun.hub);
        self.crew.begin(&hub);
        self.begin.send(begun).map_err(|_| Error::Bug("the session's thread is gone".into()))?;
        Ok(hub)
    }
}

/// Does what is about a session's streams.
fn carry_out_in(hub: &Hub, order: Order, roll: &mut Roll) {
    match order {
        Order::Retire(id) => hub.retire(id),
        Order::Close(id) => hub.close(id),
        Order::Pin(id) => hub.pin(id),
        Order::Access(access) => hub.access(access),
        Order::Name(id, slave) => {
            hub.plan(id, slave.clone());
            roll.name(id, slave);
        }
        Order::Open { .. } | Order::Abandon(_) | Order::Read(_) | Order::Say(_) | Order::GiveUp(_) => {}
    }
}

/// What the session tells that the path manager is to know. (A greeting's word on the bond is not told by itself: it
/// may be older than the session's.)
fn fact(event: &Event) -> Option<Fact> {
    Some(match *event {
        Event::Suspect(id) => Fact::Suspect(id),
        Event::Recovered(id) => Fact::Recovered(id),
        Event::Observed(stream, seen) => {
            let place = seen.place?;
            Fact::Arrival { stream, slave: place.slave(), slaves: place.of().into() }
        }
        Event::PeerBond(bond) => Fact::PeerBond(bond),
        Event::Drop(id) | Event::Retired(id) => Fact::Down(id),
        Event::Release(_) | Event::Ended(_) => return None,
    })
}

fn failure_of(refusal: Refusal) -> Failure {
    match refusal {
        // This may be about one stream too many: others may have been let in.
        Refusal::BadRequest => Failure::NoRoom,
        Refusal::NoSuchSession => Failure::NoSession,
        _ => Failure::Refused,
    }
}

fn say(finding: &Finding) {
    match finding.severity() {
        Severity::Info => log::info!("{finding}"),
        Severity::Uncertain | Severity::InTheWay => log::warn!("{finding}"),
    }
}

/// Starts the session's thread, which does what takes time: before there is a session, so that its first byte need not
/// wait for a thread. `also` is done when the ends are at work.
fn attendant(
    target: SocketAddr,
    open: Open,
    also: impl FnOnce(&Arc<Hub>) + Send + 'static,
) -> Result<mpsc::Sender<Begun>, Error> {
    let (begin, begins) = mpsc::channel::<Begun>();
    let work = move || {
        let Ok(Begun { hub, queue, mut lookout }) = begins.recv() else { return };
        attend(&open, &Caller { number: 1, peer: target }, &hub, queue, &mut lookout, || also(&hub));
        while !hub.is_ended() {
            lookout.wait(&hub, None);
        }
    };
    let thread = thread::Builder::new().name("session".into()).spawn(work);
    thread.map_err(|error| Error::os("cannot start a thread", error))?;
    Ok(begin)
}
