//! The start of a session, the same on both sides: its hub, and what its own thread needs.

use super::bell::Bell;
use super::hub::{Hub, Setup};
use super::lookout::Lookout;
use super::options::Options;
use super::queue::{WriterQueue, writer_queue};
use crate::transfer::Config;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which side this is: it decides which direction is sending.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Connector,
    Listener,
}

/// What the session's thread works with.
pub(super) struct Begun {
    pub(super) hub: Arc<Hub>,
    pub(super) queue: WriterQueue,
    pub(super) lookout: Lookout,
}

/// Begins a session whose peer sends blocks of `peer_block` bytes. Blocks nobody: its ends are opened by its thread.
pub(super) fn begin_session(
    options: &Options,
    side: Side,
    peer: SocketAddr,
    peer_block: u32,
    bells: &[Arc<Bell>],
) -> Begun {
    let directions = options.directions;
    let (sends, receives) = match side {
        Side::Connector => (directions.connector_sends(), directions.listener_sends()),
        Side::Listener => (directions.listener_sends(), directions.connector_sends()),
    };
    let (writer, queue) = writer_queue();
    let setup = Setup {
        peer,
        config: Config {
            sends,
            receives,
            any_order: false,
            window: options.window,
            timeout: options.timeout,
            rate: options.rate,
        },
        block: options.block as usize,
        peer_block: peer_block as usize,
        writer: Some(writer),
        digest: options.digest,
        plans: matches!(side, Side::Connector),
    };
    let (hub, notes) = Hub::new(setup, bells.to_vec());
    Begun { hub, queue, lookout: Lookout::new(notes, options.sight.clone()) }
}
