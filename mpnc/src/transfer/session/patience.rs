//! When a session's patience with a stream, or with the peer, is at an end: pings, suspicion, stalls, silence.
//! Must not know what is sent, or why.

use super::super::stream::Stream;
use super::super::{Receiver, Sender, StreamId, Time};
use super::{ACK_DELAY, End, Event, Session};
use std::time::Duration;

/// A stream on which nothing has been said for this long gets a ping, so that its silence can be told from its death.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A stream on which nothing has been heard for this many pings is suspect.
const SUSPECT_PINGS: u32 = 3;
/// Data that does not move on a stream for this long while another stream's does: the stream is suspended.
const STALL: Duration = Duration::from_millis(700);

impl Session {
    /// Pings after this much silence of this side; a smaller timeout makes them more frequent.
    pub(super) fn ping_every(&self) -> Duration {
        PING_EVERY.min(self.config.timeout / 5)
    }

    /// When [`Self::handle_timeout`] must be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.ended {
            return None;
        }
        let alone = self.alone.map(|(since, patience)| since + patience);
        let late = self.tx.as_ref().and_then(Sender::poll_timeout);
        let streams = self.streams.iter().flat_map(|(id, stream)| {
            let ack = self.ack(*id).and_then(|ack| stream.ack_due(&ack, self.config.window, ACK_DELAY));
            let quiet = stream.heard + self.ping_every() * SUSPECT_PINGS;
            let suspect = if stream.suspended { stream.heard + self.config.timeout } else { quiet };
            [ack, Some(stream.spoke + self.ping_every()), Some(suspect), self.stall_deadline(*id, stream)]
        });
        streams.flatten().chain(alone).chain(late).min()
    }

    fn stall_deadline(&self, id: StreamId, stream: &Stream) -> Option<Time> {
        let busy = self.tx.as_ref().is_some_and(|tx| tx.is_busy(id));
        (busy && !stream.suspended && self.streams.len() > 1).then(|| stream.progress + STALL)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.ended {
            return;
        }
        self.check_silence(now);
        self.check_stalls(now);
        if let Some((since, patience)) = self.alone
            && now.since(since) >= patience
        {
            let written = self.rx.as_ref().is_some_and(Receiver::is_finished) && self.has_nothing_left();
            self.end(if written { End::Unconfirmed } else { End::Lost { waited: now.since(since) } });
        }
    }

    fn check_silence(&mut self, now: Time) {
        let (timeout, quiet) = (self.config.timeout, self.ping_every() * SUSPECT_PINGS);
        let silent: Vec<StreamId> = self.quiet_for(timeout, now).collect();
        for id in silent {
            self.drop_silent(id, now);
        }
        let suspects: Vec<StreamId> = self.quiet_for(quiet, now).collect();
        for id in suspects {
            self.suspend(id, now);
        }
    }

    fn drop_silent(&mut self, id: StreamId, now: Time) {
        self.events.push_back(Event::Drop(id));
        self.stream_down(id, false, now);
        // The silence is the patience: it has been waited for already.
        self.alone = self.alone.map(|_| (self.heard, self.config.timeout));
    }

    fn quiet_for(&self, span: Duration, now: Time) -> impl Iterator<Item = StreamId> {
        self.streams.iter().filter(move |(_, stream)| now.since(stream.heard) >= span).map(|(id, _)| *id)
    }

    fn check_stalls(&mut self, now: Time) {
        let newest = self.streams.values().map(|stream| stream.progress).max().unwrap_or_default();
        let stalled = |(id, stream): (&StreamId, &Stream)| {
            let due = self.stall_deadline(*id, stream)?;
            (due <= now && newest > stream.progress + STALL / 2).then_some(*id)
        };
        let stalled: Vec<StreamId> = self.streams.iter().filter_map(stalled).collect();
        for id in stalled {
            self.suspend(id, now);
        }
    }

    /// A stream that retires has its successor: it is closed, or flapping links would leave one behind with every plan.
    fn suspend(&mut self, id: StreamId, now: Time) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.retiring {
            self.drop_silent(id, now);
        } else if !std::mem::replace(&mut stream.suspended, true) {
            self.events.push_back(Event::Suspect(id));
            if let Some(tx) = &mut self.tx {
                tx.suspend(id);
            }
        }
    }
}
