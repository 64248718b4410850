//! The further loops of a connector: they carry streams that have joined its session, and do nothing else.
//!
//! A stream is dialled, greets and joins in the connector's own loop; then it is dealt to the loop that has the fewest,
//! be it that one. What the session and the path manager want done with it reaches every loop as the hub's errand, and
//! what becomes of it reaches the path manager as the hub's news: no loop knows where a stream is.

use super::bell::Bell;
use super::conn::Conn;
use super::conns::Conns;
use super::hub::Hub;
use super::options::Options;
use crate::error::{Error, words};
use crate::transfer::StreamId;
use crate::wire::Fault;
use mio::Token;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};

/// The session, once there is one, for each loop to know.
type Session = Arc<OnceLock<Arc<Hub>>>;

/// The loops of a connector, by number; its own is the first. When this goes, the carriers end.
pub(super) struct Crew {
    bells: Vec<Arc<Bell>>,
    /// To the carriers, from loop 1 on.
    carriers: Vec<Sender<Conn>>,
    session: Session,
    shares: Shares,
}

impl Crew {
    /// One loop for each bell, the first of which is the connector's, and the carriers of the others.
    pub(super) fn new(bells: Vec<Arc<Bell>>, options: &Options) -> (Self, Vec<Carrier>) {
        if bells.len() > 1 {
            log::info!("{} workers", bells.len());
        }
        let session = Session::default();
        let carrier = |_: &Arc<Bell>| {
            let (carrier, dealt) = mpsc::channel();
            (carrier, Carrier { options: options.clone(), session: Arc::clone(&session), dealt, is_done: false })
        };
        let (senders, carriers) = bells.iter().skip(1).map(carrier).unzip();
        let shares = Shares::of(bells.len());
        (Self { bells, carriers: senders, session, shares }, carriers)
    }

    pub(super) fn bells(&self) -> &[Arc<Bell>] {
        &self.bells
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.session.get()
    }

    /// There is a session.
    pub(super) fn begin(&self, hub: &Arc<Hub>) {
        self.session.get_or_init(|| Arc::clone(hub));
    }

    /// A stream has joined `hub`: from now on one of the loops has it. To be called before anything can be ordered
    /// about it: an errand that came to a loop before the stream would be lost. The first of a session stays here, so
    /// that nothing leaves before the path manager has heard of it.
    pub(super) fn deal(&mut self, token: Token, id: StreamId, hub: &Hub, conns: &mut Conns) -> Result<(), Error> {
        let index = self.shares.deal(id);
        hub.attend(id, index);
        let Some(carrier) = index.checked_sub(1).and_then(|place| self.carriers.get(place)) else { return Ok(()) };
        let Some(conn) = conns.remove(token) else { return Ok(()) };
        carrier.send(conn).map_err(|_| Error::Bug(format!("worker {index} is gone")))?;
        self.bells.get(index).into_iter().for_each(|bell| bell.ring());
        Ok(())
    }

    /// A stream is gone.
    pub(super) fn leave(&mut self, id: StreamId) {
        self.shares.leave(id);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.carriers.clear();
        self.bells.iter().for_each(|bell| bell.ring());
    }
}

/// See the module documentation.
pub(super) struct Carrier {
    options: Options,
    session: Session,
    dealt: Receiver<Conn>,
    is_done: bool,
}

impl Carrier {
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn hub(&self) -> Option<&Arc<Hub>> {
        self.session.get()
    }

    /// Whether the connector has ended.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes the streams that were dealt to this loop; between hearing the hub's errands and doing them, so that the
    /// stream of each is there.
    pub(super) fn take_over(&mut self, conns: &mut Conns) {
        loop {
            match self.dealt.try_recv() {
                Ok(conn) => take_in(conn, conns),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.is_done = true;
                    return;
                }
            }
        }
    }

    /// The loop has failed, and with it the session. Gives the error back if there is none to tell it to.
    pub(super) fn fail(self, error: Error) -> Option<Error> {
        let Some(hub) = self.session.get() else { return Some(error) };
        // No code is about that: the words say it.
        hub.fail(Fault::INTERRUPTED, error);
        None
    }
}

fn take_in(mut conn: Conn, conns: &mut Conns) {
    // What happened to it between two loops, neither was told.
    (conn.readable, conn.writable) = (true, true);
    let member = conn.member.clone();
    if let (Err(error), Some((hub, id))) = (conns.take(conn), member) {
        log::info!("cannot watch stream {}: {}", id.0, words(&error));
        hub.stream_down(id, false);
    }
}

/// Which loop has which of the streams that are up.
struct Shares(Vec<BTreeSet<StreamId>>);

impl Shares {
    fn of(loops: usize) -> Self {
        Self(vec![BTreeSet::new(); loops])
    }

    /// The loop of a new stream: the one with the fewest, the first of several.
    fn deal(&mut self, id: StreamId) -> usize {
        let fewest = self.0.iter_mut().enumerate().min_by_key(|(_, streams)| streams.len());
        fewest.map_or(0, |(index, streams)| {
            streams.insert(id);
            index
        })
    }

    fn leave(&mut self, id: StreamId) {
        for streams in &mut self.0 {
            streams.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deal(shares: &mut Shares, streams: impl IntoIterator<Item = u32>) -> Vec<usize> {
        streams.into_iter().map(|id| shares.deal(StreamId(id))).collect()
    }

    #[test]
    fn streams_are_dealt_in_turn_from_the_first_loop_on() {
        assert_eq!(deal(&mut Shares::of(3), 0..7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(deal(&mut Shares::of(1), 0..3), [0; 3]);
    }

    #[test]
    fn a_successor_takes_the_place_that_is_free() {
        let mut shares = Shares::of(3);
        deal(&mut shares, 0..6);
        for lost in [2, 4, 5] {
            shares.leave(StreamId(lost));
            // Nobody else's place is free because of that.
            shares.leave(StreamId(lost));
        }
        assert_eq!(deal(&mut shares, 6..10), [2, 1, 2, 0]);
    }

    #[test]
    fn the_first_of_a_session_and_the_first_after_all_are_lost_stay_with_the_connector() {
        let mut shares = Shares::of(4);
        deal(&mut shares, 0..4);
        (0..4).for_each(|id| shares.leave(StreamId(id)));
        assert_eq!(deal(&mut shares, [4]), [0]);
    }
}
