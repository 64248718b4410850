//! One session: its streams, its one or two directions, its end.
//!
//! The same type serves both sides. Call order for the shell: report what happened (`stream_*`, `handle_*`, `input*`,
//! `written`, `finished`), then drain [`Session::poll_event`] and [`Session::poll_output`], then ask
//! [`Session::poll_transmit`] for every stream that can take bytes, then sleep until [`Session::poll_timeout`] and call
//! [`Session::handle_timeout`]. Time never runs backwards.
//!
//! The end, for data one way: the sender says End; the receiver, when all is written and its output closed, says Done;
//! a side whose directions are all done says Bye. The sender is finished with Done, the receiver with the Bye that
//! answers it. Both directions work the same way at once.

mod patience;

use super::stream::Stream;
use super::{Arrival, Extent, Output, PeerFault, Receiver, Sender, StreamId, StreamStats, Terms, Time};
use crate::wire::{Ack, BondFacts, Fault, Frame, Observation};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// An acknowledgement that nothing urges waits this long for company.
const ACK_DELAY: Duration = Duration::from_millis(40);
/// With every stream closed in good order but no goodbye, the peer's process is gone; this is left for a late stream.
const ORPHAN: Duration = Duration::from_secs(2);

/// Streams that are gone are kept in mind up to this number: on a bond that flaps for days they are without number.
pub const REMEMBERED: usize = 256;

/// What the shell decides about a session.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Whether this side sends, receives.
    pub sends: bool,
    /// Whether this side receives.
    pub receives: bool,
    /// Whether its output takes blocks at their offsets, in any order.
    pub any_order: bool,
    /// Bytes that this side can hold for reordering.
    pub window: u64,
    /// Silence of the peer, or lack of any stream, that ends the session.
    pub timeout: Duration,
    /// Most payload bytes that this side sends in a second, repeats included.
    pub rate: Option<u64>,
}

/// What to put on a stream next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// A small frame.
    Frame(Frame),
    /// A Data frame with this extent; the shell has the bytes.
    Data(Extent),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Every byte of every direction is written and confirmed.
    Complete,
    /// This side gave up, for this reason, and says so to the peer.
    Failed(Fault),
    /// The peer gave up, for this reason.
    PeerFailed(Fault),
    /// The peer broke the protocol.
    PeerMisbehaved(PeerFault),
    /// No stream to the peer was left, and none came back in time.
    Lost {
        /// How long was waited.
        waited: Duration,
    },
    /// All is written here, but the peer vanished before it could say that it knows.
    Unconfirmed,
}

/// Something the shell must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer holds these bytes: their buffer is free.
    Release(Extent),
    /// This stream is dead: close it. The session has forgotten it already.
    Drop(StreamId),
    /// Nothing has been heard on this stream for a while: open another in its place.
    Suspect(StreamId),
    /// A suspect stream moves again.
    Recovered(StreamId),
    /// The peer tells where a stream arrives.
    Observed(StreamId, Observation),
    /// The peer tells of its bond.
    PeerBond(BondFacts),
    /// This stream has carried all it had; close it when it is flushed. The session has forgotten it already.
    Retired(StreamId),
    /// The session is over. Streams may still be flushed: keep asking [`Session::poll_transmit`] for a moment.
    Ended(End),
}

/// See the module documentation.
#[derive(Debug)]
pub struct Session {
    config: Config,
    tx: Option<Sender>,
    rx: Option<Receiver>,
    streams: BTreeMap<StreamId, Stream>,
    /// When any stream was last heard.
    heard: Time,
    /// Since when there has been no stream, and how long that may last.
    alone: Option<(Time, Duration)>,
    /// The peer has confirmed all that this side sent.
    confirmed: bool,
    /// The peer has nothing left to say.
    peer_bye: bool,
    /// What this side tells the peer when it gives up.
    fault: Option<Fault>,
    ended: bool,
    /// This side's bond, if it was told since the greetings, with a number that counts from 1.
    bond: Option<(u64, BondFacts)>,
    /// The newest word about the peer's; that of a greeting has the number 0.
    peer_bond: Option<(u64, BondFacts)>,
    events: VecDeque<Event>,
    /// Counters of the last streams that went, [`REMEMBERED`] at most.
    past: VecDeque<(StreamId, StreamStats)>,
}

impl Session {
    /// A session without streams, at `now`.
    #[must_use]
    pub fn new(config: Config, now: Time) -> Self {
        Self {
            config,
            tx: config.sends.then(|| Sender::new(config.rate)),
            rx: config.receives.then(|| {
                if config.any_order { Receiver::in_any_order(config.window) } else { Receiver::new(config.window) }
            }),
            streams: BTreeMap::new(),
            heard: now,
            alone: Some((now, config.timeout)),
            confirmed: false,
            peer_bye: false,
            fault: None,
            ended: false,
            bond: None,
            peer_bond: None,
            events: VecDeque::new(),
            past: VecDeque::new(),
        }
    }

    /// As if everything below `offset` were transferred.
    #[cfg(test)]
    pub(super) fn forward_to(&mut self, offset: u64) {
        self.tx.as_mut().into_iter().for_each(|tx| tx.forward_to(offset));
        self.rx.as_mut().into_iter().for_each(|rx| rx.forward_to(offset));
    }

    // --- getters -----------------------------------------------------------------------------------------------------

    /// The sending direction, if this side has one.
    #[must_use]
    pub fn sender(&self) -> Option<&Sender> {
        self.tx.as_ref()
    }

    /// The receiving direction, if this side has one.
    #[must_use]
    pub fn receiver(&self) -> Option<&Receiver> {
        self.rx.as_ref()
    }

    /// Whether [`Event::Ended`] has been raised.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Counters of the streams that are up and of the last [`REMEMBERED`] that are not, by number.
    #[must_use]
    pub fn stream_stats(&self) -> Vec<(StreamId, StreamStats)> {
        let up = self.streams.iter().map(|(id, stream)| (*id, stream.stats));
        let mut all: Vec<_> = self.past.iter().copied().chain(up).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// Numbers of the streams that are up.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.keys().copied()
    }

    // --- streams -----------------------------------------------------------------------------------------------------

    /// A stream has said and heard its first frames. False if there is one of this number: then nothing has changed.
    pub fn stream_up(&mut self, id: StreamId, terms: &Terms, now: Time) -> bool {
        if self.streams.contains_key(&id) {
            return false;
        }
        if let Some(tx) = &mut self.tx {
            tx.grant(terms.window);
            tx.stream_up(id);
        }
        if let Some(bond) = terms.bond {
            self.hear_bond(0, bond);
        }
        self.streams.insert(id, Stream::new(now));
        self.heard = now;
        self.alone = None;
        true
    }

    /// A stream is closed. `orderly`: by the peer, after a whole frame, without an error.
    pub fn stream_down(&mut self, id: StreamId, orderly: bool, now: Time) {
        if self.forget(id) && self.streams.is_empty() {
            let patience = if orderly { ORPHAN.min(self.config.timeout) } else { self.config.timeout };
            self.alone = Some((now, patience));
        }
    }

    fn forget(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.streams.remove(&id) else { return false };
        self.past.push_back((id, stream.stats));
        if self.past.len() > REMEMBERED {
            self.past.pop_front();
        }
        if let Some(tx) = &mut self.tx {
            tx.stream_down(id);
        }
        true
    }

    /// Ends the use of a stream without losing anything: both sides finish what is under way on it, then it is closed.
    pub fn retire(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.retiring = true;
            if let Some(tx) = &mut self.tx {
                tx.drain(id);
            }
        }
    }

    /// See [`Sender::pause`].
    pub fn pause(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.pause();
        }
    }

    /// See [`Sender::burst`].
    pub fn burst(&mut self, id: StreamId, bytes: u64) {
        if let Some(tx) = &mut self.tx {
            tx.burst(id, bytes);
        }
    }

    /// See [`Sender::release`].
    pub fn release(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.release();
        }
    }

    /// This side has seen something of a stream that the peer should know.
    pub fn observe(&mut self, id: StreamId, seen: Observation) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.observation = Some(seen);
        }
    }

    /// This side's bond is that now, for the peer to know.
    pub fn tell_bond(&mut self, bond: BondFacts) {
        let told = self.bond.map_or(0, |(serial, _)| serial);
        self.bond = Some((told + 1, bond));
    }

    /// The peer's bond, as it told last; `None` if it knows none.
    #[must_use]
    pub fn peer_bond(&self) -> Option<BondFacts> {
        self.peer_bond.map(|(_, bond)| bond)
    }

    /// What the peer has told of where a stream arrives.
    #[must_use]
    pub fn observed(&self, id: StreamId) -> Option<Observation> {
        self.streams.get(&id)?.stats.observed
    }

    // --- the input and the output ------------------------------------------------------------------------------------

    /// The input has `len` more bytes: their place in the transfer. `None` if nothing is to be sent any more.
    pub fn input(&mut self, len: u32) -> Option<Extent> {
        self.tx.as_mut().filter(|_| !self.ended).map(|tx| tx.input(len))
    }

    /// The input has ended; `crc` is the CRC-32 of all of it.
    pub fn input_end(&mut self, crc: u32) {
        if let Some(tx) = &mut self.tx {
            tx.input_end(crc);
        }
    }

    /// What to do with the output next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.rx.as_mut().filter(|_| !self.ended)?.poll_output()
    }

    /// The output holds this extent. Answers whether the peer should hear of it soon.
    pub fn written(&mut self, extent: Extent) -> bool {
        let Some(rx) = &mut self.rx else { return false };
        rx.written(extent);
        let told = self.streams.values().map(|stream| stream.acked.credit).min().unwrap_or(0);
        rx.credit() - told >= self.config.window / 8
    }

    /// The output is flushed and closed.
    pub fn output_finished(&mut self) {
        if let Some(rx) = &mut self.rx {
            rx.finished();
        }
        self.check_complete();
    }

    /// This side gives up: the peer is told why.
    pub fn fail(&mut self, fault: Fault) {
        if !self.ended {
            self.fault = Some(fault.clone());
            self.end(End::Failed(fault));
        }
    }

    // --- frames ------------------------------------------------------------------------------------------------------

    /// Bytes have arrived on a stream, be they a whole frame or not.
    pub fn heard(&mut self, id: StreamId, now: Time) {
        self.heard = now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.heard = now;
        // With data under way only its progress counts: a stream can be heard and yet carry nothing.
        if stream.suspended && self.tx.as_ref().is_none_or(|tx| !tx.is_busy(id)) {
            self.progress(id, now);
        }
    }

    /// The peer's TCP has acknowledged more bytes of a stream: it moves, however slowly.
    pub fn progress(&mut self, id: StreamId, now: Time) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.progress = now;
            if std::mem::take(&mut stream.suspended) {
                self.events.push_back(Event::Recovered(id));
                if let Some(tx) = &mut self.tx {
                    tx.resume(id);
                }
            }
        }
    }

    /// A Data header has arrived: whether its payload is wanted.
    ///
    /// # Errors
    /// The peer's fault; the session has ended then.
    pub fn judge(&mut self, extent: Extent) -> Result<Arrival, PeerFault> {
        let judged = match &self.rx {
            Some(rx) => rx.judge(extent),
            None => Err(PeerFault::Unexpected("Data")),
        };
        self.blame(judged)
    }

    /// A Data frame has arrived whole and checked. If the answer is [`Arrival::Fresh`] the shell keeps the bytes until
    /// they are written.
    ///
    /// # Errors
    /// The peer's fault; the session has ended then.
    pub fn handle_data(&mut self, id: StreamId, extent: Extent) -> Result<Arrival, PeerFault> {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.frames += 1;
            stream.stats.received += u64::from(extent.len);
        }
        let arrived = match &mut self.rx {
            Some(rx) => rx.arrived(extent),
            None => Err(PeerFault::Unexpected("Data")),
        };
        self.blame(arrived)
    }

    /// A frame other than Data, Hello and Welcome has arrived.
    ///
    /// # Errors
    /// The peer's fault; the session has ended then.
    pub fn handle_frame(&mut self, id: StreamId, frame: Frame, now: Time) -> Result<(), PeerFault> {
        let handled = self.take_in(id, frame, now);
        self.blame(handled)
    }

    fn take_in(&mut self, id: StreamId, frame: Frame, now: Time) -> Result<(), PeerFault> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        match frame {
            Frame::Ack(ack) => self.handle_ack(id, &ack, now)?,
            Frame::End { total, crc } => self.rx.as_mut().ok_or(PeerFault::Unexpected("End"))?.end(total, crc)?,
            Frame::Done { total } => {
                if !self.tx.as_mut().is_some_and(|tx| tx.handle_done(total)) {
                    return Err(PeerFault::Unexpected("Done"));
                }
                self.confirmed = true;
                self.check_complete();
            }
            Frame::Bye => {
                self.peer_bye = true;
                self.check_complete();
            }
            Frame::Error(fault) => self.end(End::PeerFailed(fault)),
            Frame::Ping { token } => stream.pong = Some(token),
            Frame::Pong { .. } => {}
            Frame::Observation(seen) => {
                stream.stats.observed = Some(seen);
                self.events.push_back(Event::Observed(id, seen));
            }
            Frame::Retire => {
                stream.peer_retires = true;
                self.retire(id);
            }
            Frame::Bond { serial, bond } => self.hear_bond(serial, bond),
            Frame::Hello(_) => return Err(PeerFault::Unexpected("Hello")),
            Frame::Welcome(_) => return Err(PeerFault::Unexpected("Welcome")),
        }
        Ok(())
    }

    /// An older word may come later than a newer one: streams are not in step.
    fn hear_bond(&mut self, serial: u64, bond: BondFacts) {
        if self.peer_bond.is_none_or(|(newest, _)| serial >= newest) {
            let known = self.peer_bond.replace((serial, bond));
            if known.is_none_or(|(_, known)| known != bond) {
                self.events.push_back(Event::PeerBond(bond));
            }
        }
    }

    fn handle_ack(&mut self, id: StreamId, ack: &Ack, now: Time) -> Result<(), PeerFault> {
        let tx = self.tx.as_mut().ok_or(PeerFault::Unexpected("Ack"))?;
        let moved = tx.handle_ack(id, ack, now)?;
        self.events.extend(tx.take_released().map(Event::Release));
        if moved {
            self.progress(id, now);
        }
        Ok(())
    }

    fn blame<T>(&mut self, result: Result<T, PeerFault>) -> Result<T, PeerFault> {
        if let Err(fault) = &result
            && !self.ended
        {
            self.fault = Some(Fault::new(Fault::PROTOCOL, &fault.to_string()));
            self.end(End::PeerMisbehaved(fault.clone()));
        }
        result
    }

    // --- what to say -------------------------------------------------------------------------------------------------

    /// The next thing to put on a stream that can take it now.
    pub fn poll_transmit(&mut self, id: StreamId, now: Time) -> Option<Transmit> {
        if let Some(frame) = self.next_frame(id, now) {
            self.streams.get_mut(&id)?.spoke = now;
            return Some(Transmit::Frame(frame));
        }
        let tx = self.tx.as_mut().filter(|_| !self.ended)?;
        let idle = !tx.is_busy(id);
        let extent = tx.poll_data(id, now)?;
        let stream = self.streams.get_mut(&id)?;
        stream.stats.sent += u64::from(extent.len);
        stream.spoke = now;
        if idle {
            stream.progress = now;
        }
        Some(Transmit::Data(extent))
    }

    fn next_frame(&mut self, id: StreamId, now: Time) -> Option<Frame> {
        let ack = self.ack(id);
        let stream = self.streams.get_mut(&id)?;
        if let Some(fault) = &self.fault {
            return (!std::mem::replace(&mut stream.said.error, true)).then(|| Frame::Error(fault.clone()));
        }
        if let Some(token) = stream.pong.take() {
            return Some(Frame::Pong { token });
        }
        if let Some(ack) = ack
            && stream.ack_due(&ack, self.config.window, ACK_DELAY).is_some_and(|due| due <= now)
        {
            (stream.acked, stream.acked_at) = (ack, now);
            return Some(Frame::Ack(ack));
        }
        if let Some(seen) = stream.observation.take() {
            return Some(Frame::Observation(seen));
        }
        if let Some((serial, bond)) = self.bond.filter(|(serial, _)| *serial > stream.bonds_told) {
            stream.bonds_told = serial;
            return Some(Frame::Bond { serial, bond });
        }
        if let Some(frame) = self.next_farewell(id, now) {
            return Some(frame);
        }
        let stream = self.streams.get(&id)?;
        (now.since(stream.spoke) >= self.ping_every() && !self.ended).then_some(Frame::Ping { token: stream.frames })
    }

    /// End, Done, Bye, Retire: each once on every stream, as soon as it is true.
    fn next_farewell(&mut self, id: StreamId, now: Time) -> Option<Frame> {
        let end = self.tx.as_ref().and_then(Sender::end);
        let done = self.rx.as_ref().filter(|rx| rx.is_finished()).and_then(Receiver::total);
        let bye = self.has_nothing_left();
        let stream = self.streams.get_mut(&id)?;
        let said = &mut stream.said;
        if let Some((total, crc)) = end.filter(|_| !said.end) {
            said.end = true;
            return Some(Frame::End { total, crc });
        }
        if let Some(total) = done.filter(|_| !said.done) {
            said.done = true;
            return Some(Frame::Done { total });
        }
        if bye && !said.bye {
            said.bye = true;
            return Some(Frame::Bye);
        }
        if stream.retiring && !stream.said.retire && self.tx.as_ref().is_none_or(|tx| !tx.is_busy(id)) {
            stream.said.retire = true;
            return Some(Frame::Retire);
        }
        if stream.said.retire && stream.peer_retires {
            // It may be the last one: its successor may have died before it.
            self.stream_down(id, false, now);
            self.events.push_back(Event::Retired(id));
        }
        None
    }

    fn ack(&self, id: StreamId) -> Option<Ack> {
        let rx = self.rx.as_ref()?;
        let frames = self.streams.get(&id)?.frames;
        Some(Ack { delivered: rx.delivered(), received: rx.received(), credit: rx.credit(), frames })
    }

    // --- the end -----------------------------------------------------------------------------------------------------

    fn has_nothing_left(&self) -> bool {
        (self.tx.is_none() || self.confirmed) && self.rx.as_ref().is_none_or(Receiver::is_finished)
    }

    /// A side that only sends is finished when it is told Done; one that receives must know that its Done was heard.
    fn check_complete(&mut self) {
        if self.has_nothing_left() && (self.peer_bye || self.rx.is_none()) {
            self.end(End::Complete);
        }
    }

    fn end(&mut self, end: End) {
        if !std::mem::replace(&mut self.ended, true) {
            self.events.push_back(Event::Ended(end));
        }
    }

    /// The next thing for the shell to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bond::ByteOrder;
    use crate::wire::{SlaveCount, Slaves};

    const NOW: Time = Time(Duration::ZERO);

    fn bond(slaves: usize) -> BondFacts {
        BondFacts {
            slaves: SlaveCount::new(slaves).map(Slaves::alike).unwrap(),
            mode: None,
            policy: None,
            stacking: None,
            dynamic_lb: true,
            kernel: None,
            order: ByteOrder::Little,
            placed: false,
        }
    }

    #[test]
    fn a_bond_is_told_on_every_stream_and_the_newest_word_counts() {
        let config = Config {
            sends: true,
            receives: false,
            any_order: false,
            window: 1 << 20,
            timeout: Duration::from_secs(30),
            rate: None,
        };
        let mut sides =
            [config, Config { sends: false, receives: true, any_order: false, ..config }].map(|c| Session::new(c, NOW));
        let terms = Terms { window: 1 << 20, block: 4096, bond: None };
        let [here, there] = &mut sides;
        for id in [StreamId(0), StreamId(1)] {
            here.stream_up(id, &terms, NOW);
            there.stream_up(id, &terms, NOW);
        }
        let said = |here: &mut Session, id| match here.poll_transmit(StreamId(id), NOW) {
            Some(Transmit::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        };
        here.tell_bond(bond(3));
        let older = said(here, 0);
        here.tell_bond(bond(4));
        let newer = said(here, 1);
        assert_eq!(there.peer_bond(), None);
        for (id, frame) in [(1, newer), (0, older)] {
            there.handle_frame(StreamId(id), frame, NOW).unwrap();
        }
        assert_eq!(there.peer_bond(), Some(bond(4)));
        there.handle_frame(StreamId(0), said(here, 0), NOW).unwrap();
        assert_eq!(there.peer_bond(), Some(bond(4)));
        assert_eq!(here.poll_transmit(StreamId(0), NOW), None);
        there.stream_up(StreamId(2), &Terms { bond: Some(bond(3)), ..terms }, NOW);
        assert_eq!(there.peer_bond(), Some(bond(4)), "a greeting on its way is older than what was told");
    }

    #[test]
    fn until_a_bond_is_told_the_last_greeting_counts() {
        let config = Config {
            sends: false,
            receives: true,
            any_order: false,
            window: 1 << 20,
            timeout: Duration::from_secs(30),
            rate: None,
        };
        let mut session = Session::new(config, NOW);
        for (id, slaves) in [(0, 4), (1, 3)] {
            let terms = Terms { window: 1 << 20, block: 4096, bond: Some(bond(slaves)) };
            session.stream_up(StreamId(id), &terms, NOW);
            assert_eq!(session.peer_bond(), Some(bond(slaves)));
        }
    }
}
