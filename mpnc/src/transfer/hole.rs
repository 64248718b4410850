//! A path that lets small packets through and drops full ones: a hole in the path's MTU, without the ICMP message that
//! would heal it.
//!
//! Told by what TCP says of each stream: nothing of what is under way is acknowledged, however often it is sent again,
//! while the other side is heard. A stream whose greeting was acknowledged, and nothing since, shows that it is the
//! size that matters; of one that has carried full segments before that cannot be told, so another is opened beside it.
//! Pure: knows neither sockets nor clocks.

use super::{StreamId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// Nothing that is under way is acknowledged for this long.
const STUCK: Duration = Duration::from_secs(4);
/// Repetitions of the same segment, each after twice the time: fewer are every day's loss.
const REPEATED: u8 = 3;
/// The other side gives up a stream on which it hears nothing before that. So many in a row that were stuck for half as
/// long tell the same.
const GIVEN_UP: u32 = 2;

/// So long no full segment passes on a path that lets others pass: then it is no outage that has just ended.
const PROOF: Duration = Duration::from_millis(1500);

/// What TCP says of a stream at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flight {
    /// Bytes that the peer's TCP has acknowledged.
    pub acked: u64,
    /// Bytes received in order.
    pub received: u64,
    /// Segments under way.
    pub segments: u32,
    /// Bytes not acknowledged, or not sent yet.
    pub queued: u64,
    /// Bytes of a full segment.
    pub mss: u32,
    /// How often in a row the oldest was sent again for want of an answer.
    pub repeated: u8,
}

/// What that comes to, over all streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passage {
    /// Data moves, or there is none.
    #[default]
    Free,
    /// Nothing moves, though the peer is heard, or answers all but in words: a new stream will show why, or let the
    /// peer say it.
    Stuck,
    /// Full segments do not get through.
    Hole {
        /// Bytes of a full segment.
        mss: u32,
    },
}

#[derive(Debug)]
struct Watched {
    flight: Flight,
    /// When something of it was last acknowledged, or nothing was under way.
    moved: Time,
    /// What had been received then.
    heard: u64,
    /// When something was last received, and what had been acknowledged then.
    spoken_to: (Time, u64),
}

impl Watched {
    /// Whether it waits in vain, for so long, while the peer is heard.
    fn is_stuck(&self, span: Duration, now: Time) -> bool {
        let Flight { received, queued, mss, repeated, .. } = self.flight;
        // What is less than a full segment says nothing about full ones.
        let full = queued >= u64::from(mss);
        now.since(self.moved) >= span && repeated >= REPEATED && received > self.heard && full
    }

    /// Whether the peer's TCP acknowledges what is sent, for so long, and nothing comes back: what it sends may be
    /// stuck.
    fn is_deaf(&self, span: Duration, now: Time) -> bool {
        let (at, acked) = self.spoken_to;
        now.since(at) >= span && self.flight.acked > acked
    }

    /// Whether it has never carried a full segment.
    fn is_new(&self) -> bool {
        self.flight.acked < u64::from(self.flight.mss)
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Holes {
    streams: BTreeMap<StreamId, Watched>,
    patience: Duration,
    /// When a full segment was last acknowledged on any stream.
    passed: Option<Time>,
    /// Streams that were stuck and are gone, since then.
    given_up: u32,
    /// Bytes of their full segments.
    mss: u32,
    /// When another stream came up beside those that were stuck, and the bytes of their full segments.
    witnessed: Option<(Time, u32)>,
}

impl Holes {
    /// `timeout` is how long a silent peer is waited for: the cause must be known before.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            streams: BTreeMap::new(),
            patience: STUCK.min(timeout / 3),
            passed: None,
            given_up: 0,
            mss: 0,
            witnessed: None,
        }
    }

    /// Takes in what TCP says of one stream.
    pub fn look(&mut self, id: StreamId, flight: Flight, now: Time) {
        let spoken_to = (now, flight.acked);
        let fresh = Watched { flight, moved: now, heard: flight.received, spoken_to };
        let watched = self.streams.entry(id).or_insert(fresh);
        let moves = flight.acked != watched.flight.acked;
        // The kernel may be looking for a size that passes (net.ipv4.tcp_mtu_probing).
        let shrinks = flight.mss < watched.flight.mss;
        if moves || shrinks || flight.segments == 0 {
            (watched.moved, watched.heard) = (now, flight.received);
        }
        if flight.received != watched.flight.received {
            watched.spoken_to = spoken_to;
        }
        watched.flight = flight;
        if moves && !watched.is_new() {
            (self.passed, self.given_up, self.witnessed) = (Some(now), 0, None);
        }
    }

    /// The stream is gone.
    pub fn forget(&mut self, id: StreamId, now: Time) {
        let Some(watched) = self.streams.remove(&id) else { return };
        if watched.is_new() && watched.is_stuck(self.patience / 2, now) {
            (self.given_up, self.mss) = (self.given_up + 1, watched.flight.mss);
        }
    }

    /// Another stream is up, whose small frames pass. That alone says nothing yet: the path may have been broken, and
    /// healed just now. What is sent from here on shows whether full segments pass.
    pub fn witness(&mut self, now: Time) {
        if let Passage::Hole { mss } = self.judge(now) {
            self.witnessed.get_or_insert((now, mss));
        }
    }

    /// Bytes of a full segment, once it is certain that they do not get through: since a stream came up beside those
    /// that were stuck, none has, though some wait.
    #[must_use]
    pub fn certain(&self, now: Time) -> Option<u32> {
        let (since, mss) = self.witnessed?;
        let waits = |watched: &Watched| watched.flight.queued >= u64::from(watched.flight.mss);
        let in_vain = |watched: &Watched| waits(watched) && now.since(watched.moved) >= PROOF;
        (now.since(since) >= PROOF && self.streams.values().any(in_vain)).then_some(mss)
    }

    fn is_deaf(&self, now: Time) -> bool {
        !self.streams.is_empty() && self.streams.values().all(|watched| watched.is_deaf(self.patience, now))
    }

    /// What it all comes to.
    #[must_use]
    pub fn judge(&self, now: Time) -> Passage {
        if self.passed.is_some_and(|passed| now.since(passed) < self.patience) {
            return Passage::Free;
        }
        let mut stuck = self.streams.values().filter(|watched| watched.is_stuck(self.patience, now));
        match stuck.clone().find(|watched| watched.is_new()) {
            Some(watched) => Passage::Hole { mss: watched.flight.mss },
            None if self.given_up >= GIVEN_UP => Passage::Hole { mss: self.mss },
            None if stuck.next().is_some() || self.is_deaf(now) => Passage::Stuck,
            None => Passage::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn at(secs: u64) -> Time {
        Time(Duration::from_secs(secs))
    }

    /// A stream whose greeting was acknowledged, and that now waits for a full segment to be.
    fn waiting(repeated: u8, received: u64) -> Flight {
        Flight { acked: 200, received, segments: 10, queued: 200_000, mss: 1460, repeated }
    }

    fn judged(looks: &[(u64, u32, Flight)]) -> Passage {
        let mut holes = Holes::new(TIMEOUT);
        for (secs, id, flight) in looks {
            holes.look(StreamId(*id), *flight, at(*secs));
        }
        holes.judge(at(looks.last().map_or(0, |(secs, ..)| *secs)))
    }

    #[test]
    fn full_segments_that_nobody_acknowledges_while_the_peer_is_heard_are_a_hole() {
        let looks = [(0, 1, waiting(0, 100)), (2, 1, waiting(2, 110)), (5, 1, waiting(4, 130))];
        assert_eq!(judged(&looks), Passage::Hole { mss: 1460 });
        assert_eq!(judged(&looks[..2]), Passage::Free, "not yet");
    }

    #[test]
    fn a_dead_path_is_none() {
        assert_eq!(judged(&[(0, 1, waiting(0, 100)), (9, 1, waiting(5, 100))]), Passage::Free);
    }

    #[test]
    fn a_reader_that_stalls_is_none() {
        let closed = |secs, repeated| (secs, 1, Flight { segments: 0, ..waiting(repeated, 100 + secs) });
        assert_eq!(judged(&[closed(0, 0), closed(9, 6)]), Passage::Free);
    }

    #[test]
    fn a_stream_that_moves_clears_all_others() {
        let moving = |secs: u64| (secs, 2, Flight { acked: 100_000 * secs, ..waiting(0, secs) });
        let looks = [(0, 1, waiting(0, 1)), moving(0), (9, 1, waiting(5, 9)), moving(9)];
        assert_eq!(judged(&looks), Passage::Free);
    }

    #[test]
    fn one_that_has_only_just_begun_clears_none() {
        let looks = [(0, 1, waiting(0, 1)), (5, 2, waiting(0, 1)), (5, 1, waiting(4, 9))];
        assert_eq!(judged(&looks), Passage::Hole { mss: 1460 });
    }

    #[test]
    fn streams_that_the_other_side_gave_up_one_after_another_tell_it_too() {
        let mut holes = Holes::new(TIMEOUT);
        for (id, begin) in [(1, 0), (2, 3)] {
            assert_eq!(holes.judge(at(begin)), Passage::Free);
            holes.look(StreamId(id), waiting(0, 1), at(begin));
            holes.look(StreamId(id), waiting(3, 9), at(begin + 3));
            holes.forget(StreamId(id), at(begin + 3));
        }
        assert_eq!(holes.judge(at(6)), Passage::Hole { mss: 1460 });
        holes.look(StreamId(3), Flight { acked: 1 << 20, ..waiting(0, 1) }, at(7));
        holes.look(StreamId(3), Flight { acked: 2 << 20, ..waiting(0, 2) }, at(8));
        assert_eq!(holes.judge(at(60)), Passage::Free, "another one has got through since");
    }

    #[test]
    fn of_a_stream_that_has_carried_full_segments_only_a_new_one_tells() {
        let full = |secs, repeated| (secs, 1, Flight { acked: 1 << 20, ..waiting(repeated, secs) });
        let mut looks = vec![full(0, 0), full(9, 5)];
        assert_eq!(judged(&looks), Passage::Stuck);
        looks.extend([(10, 2, waiting(0, 1)), full(15, 6), (15, 2, waiting(4, 5))]);
        assert_eq!(judged(&looks), Passage::Hole { mss: 1460 });
    }

    #[test]
    fn a_peer_whose_kernel_answers_and_that_says_nothing_may_be_stuck_itself() {
        let ping = |secs: u64, received| (secs, 1, Flight { acked: 200 + secs, segments: 0, ..waiting(0, received) });
        assert_eq!(judged(&[ping(0, 9), ping(2, 9), ping(5, 9)]), Passage::Stuck);
        assert_eq!(judged(&[ping(0, 9), ping(2, 10), ping(5, 10)]), Passage::Free);
    }

    #[test]
    fn a_small_last_word_may_be_lost_for_any_reason() {
        let word = |secs, repeated| (secs, 1, Flight { segments: 1, queued: 24, ..waiting(repeated, 1 + secs) });
        assert_eq!(judged(&[word(0, 0), word(9, 5)]), Passage::Free);
    }

    #[test]
    fn a_stream_that_is_gone_tells_nothing() {
        let mut holes = Holes::new(Duration::from_secs(3));
        holes.look(StreamId(1), waiting(0, 0), at(0));
        holes.look(StreamId(1), waiting(4, 1), at(1));
        assert_eq!(holes.judge(at(1)), Passage::Hole { mss: 1460 }, "a third of a short timeout is enough");
        holes.forget(StreamId(1), at(0));
        assert_eq!(holes.judge(at(9)), Passage::Free);
    }

    #[test]
    fn small_frames_that_are_lost_are_no_hole_however_many_wait() {
        let mut holes = Holes::new(TIMEOUT);
        for secs in 0..20u8 {
            let pings =
                Flight { segments: 3, queued: 24 * u64::from(secs), ..waiting(secs.min(9), 100 + u64::from(secs)) };
            holes.look(StreamId(1), pings, at(secs.into()));
            assert_eq!(holes.judge(at(secs.into())), Passage::Free, "after {secs} s");
        }
    }

    #[test]
    fn a_size_that_the_kernel_tries_has_its_time() {
        let mut holes = Holes::new(TIMEOUT);
        for (secs, mss) in [(0, 1460), (3, 1460), (5, 1024), (8, 1024)] {
            holes.look(StreamId(1), Flight { mss, ..waiting(4, 1 + secs) }, at(secs));
        }
        assert_eq!(holes.judge(at(8)), Passage::Free);
        holes.look(StreamId(1), Flight { mss: 1024, ..waiting(6, 20) }, at(10));
        assert_eq!(holes.judge(at(10)), Passage::Hole { mss: 1024 });
    }

    #[test]
    fn only_what_is_lost_beside_a_stream_that_is_up_is_certain() {
        let broken = || {
            let mut holes = Holes::new(TIMEOUT);
            holes.look(StreamId(1), waiting(0, 1), at(0));
            holes.look(StreamId(1), waiting(4, 6), at(5));
            assert!(matches!(holes.judge(at(5)), Passage::Hole { .. }));
            assert_eq!(holes.certain(at(5)), None, "an outage looks the same");
            holes.witness(at(5));
            assert_eq!(holes.certain(at(5)), None, "and it may have ended just now");
            holes.forget(StreamId(1), at(5));
            holes.look(StreamId(2), waiting(0, 1), at(5));
            holes
        };
        let mut hole = broken();
        hole.look(StreamId(2), waiting(2, 2), at(7));
        assert_eq!(hole.certain(at(7)), Some(1460));
        let mut healed = broken();
        healed.look(StreamId(2), Flight { acked: 50_000, ..waiting(0, 2) }, at(6));
        healed.look(StreamId(2), Flight { acked: 50_000, ..waiting(2, 3) }, at(8));
        assert_eq!(healed.certain(at(8)), None);
    }
}
