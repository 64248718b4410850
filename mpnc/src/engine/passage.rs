//! What is done where full segments do not get through: a new stream shows whether it is so, and carries the word of it, for on the others
//! nothing passes what is stuck.
//!
//! Must not judge; that is `transfer::hole`'s.

use super::connect::Connector;
use super::conns::Conns;
use super::hub::Hub;
use crate::error::Error;
use crate::transfer::Passage;
use std::time::{Duration, Instant};

/// A new stream is given this long to carry a full segment, before the next is opened.
const AGAIN: Duration = Duration::from_secs(2);

/// When a stream was last opened to see, or to tell.
#[derive(Debug, Default)]
pub(super) struct Messenger {
    /// What was known then, and when.
    sent: Option<(Passage, Instant)>,
}

impl Connector {
    /// Opens another stream where nothing moves on any.
    pub(super) fn look_through(&mut self, conns: &mut Conns) -> Result<(), Error> {
        let passage = self.hub().map_or(Passage::Free, |hub| hub.passage());
        if passage == Passage::Free {
            self.messenger.sent = None;
            return Ok(());
        }
        let is_due = self.messenger.sent.is_none_or(|(then, at)| then != passage || at.elapsed() >= AGAIN);
        let free = self.lanes.iter().position(|lane| lane.attempt.is_none());
        let Some(lane) = free.filter(|_| is_due) else { return Ok(()) };
        self.messenger.sent = Some((passage, Instant::now()));
        log::info!("nothing moves on any stream, though the peer is there: opening another");
        self.next_port(lane);
        self.open(lane, conns)
    }
}

/// There is a new stream, with nothing on it yet: it shows what passes, or can say what does not.
pub(super) fn stream_up(hub: &Hub) {
    let Some(mss) = hub.hole() else { return hub.witness() };
    let what = format!(
        "full segments ({mss} bytes) to {} are not acknowledged, small ones are: a hole in the path's MTU; \
         lower the MTU of the device on the way (ip link set DEVICE mtu 1400), or let ICMP through; \
         `ping -M do -s SIZE` finds what passes",
        hub.peer().ip()
    );
    hub.fail(crate::wire::Fault::SILENT, Error::Peer(what));
}
