//! What became of a session, and of the connector's streams: for the summary.
//!
//! Must not know sockets.

use super::digest::Digest;
use super::hub::{Hub, Progress};
use crate::error::Error;
use crate::stats::Snapshot;
use crate::transfer::{End, REMEMBERED, StreamId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What became of a session.
#[derive(Debug)]
pub struct Report {
    /// The other side.
    pub peer: SocketAddr,
    /// How far it got.
    pub progress: Progress,
    /// Time from its first stream to its end.
    pub elapsed: Duration,
    /// The connector's streams, with what was planned for them.
    pub opened: Vec<Opened>,
    /// Everything that was known at its end.
    pub snapshot: Box<Snapshot>,
    /// Of each direction, if they were wanted.
    pub digests: Vec<Digest>,
}

/// A stream that was up, for the summary.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Its number in the session.
    pub id: StreamId,
    /// The source port it had.
    pub port: u16,
    /// The source address and port that the peer saw.
    pub seen: SocketAddr,
    /// Name of the slave that it was planned for.
    pub slave: Option<String>,
}

/// The streams that are up, and the last that were: on a bond that flaps for days they are without number.
#[derive(Debug, Default)]
pub(super) struct Roll {
    opened: Vec<Opened>,
    up: BTreeSet<StreamId>,
}

impl Roll {
    pub(super) fn enter(&mut self, opened: Opened) {
        self.up.insert(opened.id);
        self.opened.push(opened);
        let is_past = |opened: &Opened| !self.up.contains(&opened.id);
        if self.opened.len() > REMEMBERED
            && let Some(oldest) = self.opened.iter().position(is_past)
        {
            self.opened.remove(oldest);
        }
    }

    pub(super) fn leave(&mut self, id: StreamId) {
        self.up.remove(&id);
    }

    pub(super) fn name(&mut self, id: StreamId, slave: Option<String>) {
        if let Some(opened) = self.opened.iter_mut().rev().find(|opened| opened.id == id) {
            opened.slave = slave;
        }
    }

    pub(super) fn slave_of(&self, id: StreamId) -> Option<&str> {
        self.opened.iter().rev().find(|opened| opened.id == id)?.slave.as_deref()
    }

    pub(super) fn into_opened(self) -> Vec<Opened> {
        self.opened
    }
}

/// Turns the end of a session into a report or an error that names who is to blame.
pub(super) fn conclude(hub: &Arc<Hub>, peer: SocketAddr, opened: Vec<Opened>) -> Result<Report, Error> {
    let progress = hub.progress();
    let cause = match hub.take_end() {
        Some((End::Complete, _)) => {
            let (snapshot, digests) = (Box::new(hub.snapshot()), hub.digests());
            return Ok(Report { peer, elapsed: hub.elapsed(), opened, progress, snapshot, digests });
        }
        Some((_, Some(cause))) => cause,
        Some((End::Failed(fault), None)) => Error::Peer(fault.text),
        Some((End::PeerFailed(fault), None)) => Error::Peer(format!("the other side ({peer}) gave up: {}", fault.text)),
        Some((End::PeerMisbehaved(fault), None)) => Error::Peer(format!("{peer}: {fault}")),
        Some((End::Lost { waited }, None)) => {
            Error::Peer(format!("lost {peer}: no stream to it for {:.0} s", waited.as_secs_f64()))
        }
        Some((End::Unconfirmed, None)) => {
            Error::Peer(format!("everything is written, but {peer} vanished before it could be told so"))
        }
        None => Error::Bug("a session ended without an end".into()),
    };
    let Progress { sent, received, file, .. } = progress;
    Err(Error::Midway { cause: Box::new(cause), sent, received, file })
}
