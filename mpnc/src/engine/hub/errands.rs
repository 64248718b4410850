//! What a session and the loops that carry its streams tell each other: each loop has its errands, and the first, where
//! the path manager is, hears the news.
//!
//! Must not know what a connection is.

use super::{Duration, Event, Hub, Note, Ordering, Passage, Sender, Shared, StreamId, Time, Traffic};
use std::collections::VecDeque;

/// What a session tells one of its workers in each turn of its loop.
pub(in crate::engine) struct Turn {
    pub(in crate::engine) orders: VecDeque<Errand>,
    /// How long the loop may sleep as far as this session is concerned.
    pub(in crate::engine) due: Option<Duration>,
    /// On the side that plans the streams.
    pub(in crate::engine) news: Option<News>,
}

/// What a worker must do with one of its connections. Every worker gets every order and ignores those for streams it
/// does not have.
#[derive(Debug, Clone)]
pub(in crate::engine) enum Errand {
    Close(StreamId),
    Retire(StreamId),
    /// Keep the hash of its packets as it is.
    Pin(StreamId),
    Finish,
}

/// The worker that has the path manager, on the side that has one.
const PLANS: usize = 0;

/// What has happened to a session since its path manager heard last.
pub(in crate::engine) struct News {
    pub(in crate::engine) events: VecDeque<Event>,
    /// Whether what this side sends gets through, by what TCP says of the streams.
    pub(in crate::engine) passage: Passage,
    /// While not every stream may take data.
    pub(in crate::engine) traffic: Option<Traffic>,
    pub(in crate::engine) over: bool,
}

impl Hub {
    /// Closes a stream, whichever loop has it.
    pub(in crate::engine) fn close(&self, id: StreamId) {
        self.act(true, |state, now| {
            state.down(id, false, now);
            state.order(&Errand::Close(id));
        });
    }

    /// Keeps the hash of a stream's packets as it is, whichever loop has it.
    pub(in crate::engine) fn pin(&self, id: StreamId) {
        self.act(true, |state, _| state.order(&Errand::Pin(id)));
    }

    /// A turn of the loop of worker number `worker`: what is due is done, and the worker hears what it has to do.
    pub(in crate::engine) fn turn(&self, worker: usize) -> Turn {
        let (mut state, now) = (self.lock(), self.now());
        state.session.handle_timeout(now);
        self.settle(&mut state, now);
        let orders = state.orders.get_mut(worker).map(std::mem::take).unwrap_or_default();
        let due = state.session.poll_timeout().map(|at| at.since(now));
        let news = if worker == PLANS { state.news(now) } else { None };
        self.unlock(state);
        Turn { orders, due, news }
    }

    /// A connection has joined.
    pub(in crate::engine) fn enter(&self) {
        self.members.fetch_add(1, Ordering::AcqRel);
    }

    /// A connection is closed. Whoever waits for the last of them may be another loop.
    pub(in crate::engine) fn leave(&self) {
        if self.members.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.halt.note(Note::Flushed);
            self.ring();
        }
    }

    pub(in crate::engine) fn members(&self) -> usize {
        self.members.load(Ordering::Acquire)
    }
}

impl Shared {
    /// Keeps news for the path manager, if there is one.
    pub(super) fn tell(&mut self, news: Event) {
        if let Some(queue) = &mut self.news {
            queue.push_back(news);
            self.wake = true;
        }
    }

    /// Every worker is to do this.
    pub(super) fn order(&mut self, errand: &Errand) {
        self.orders.iter_mut().for_each(|queue| queue.push_back(errand.clone()));
        self.wake = true;
    }

    /// What the path manager is to hear of this turn.
    fn news(&mut self, now: Time) -> Option<News> {
        let events = std::mem::take(self.news.as_mut()?);
        let traffic = self.session.sender().and_then(Sender::traffic);
        Some(News { events, passage: self.holes.judge(now), traffic, over: self.session.is_ended() })
    }

    /// A stream is gone; for the path manager that is as if the session had given it up.
    pub(super) fn down(&mut self, id: StreamId, orderly: bool, now: Time) {
        self.session.stream_down(id, orderly, now);
        self.holes.forget(id, now);
        self.tell(Event::Drop(id));
    }
}
