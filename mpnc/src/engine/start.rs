//! The start of a session, the same on both sides: its hub, and the threads at the ends of its pipe.

use super::hub::{Bell, Hub, Setup};
use super::stdio::{spawn_reader, spawn_writer, writer_queue};
use super::{Options, Pipe};
use crate::error::Error;
use crate::transfer::Config;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which side this is: it decides which direction is sending.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Connector,
    Listener,
}

/// Starts a session whose peer sends blocks of `peer_block` bytes.
pub(super) fn start_session(
    options: &Options,
    side: Side,
    peer: SocketAddr,
    pipe: Pipe,
    peer_block: u32,
    bells: &[Arc<Bell>],
) -> Result<Arc<Hub>, Error> {
    let directions = options.directions;
    let (sends, receives) = match side {
        Side::Connector => (directions.connector_sends(), directions.listener_sends()),
        Side::Listener => (directions.listener_sends(), directions.connector_sends()),
    };
    let (writer, queue) = writer_queue();
    let setup = Setup {
        peer,
        config: Config { sends, receives, window: options.window, timeout: options.timeout, rate: options.rate },
        block: options.block as usize,
        peer_block: peer_block as usize,
        writer: Some(writer),
        digest: options.digest,
    };
    let hub = Hub::new(setup, bells.to_vec());
    let failed = |error| Error::os("cannot start a thread", error);
    if let Some(output) = pipe.output {
        spawn_writer(output, queue, Arc::clone(&hub)).map_err(failed)?;
    }
    if let Some(input) = pipe.input {
        spawn_reader(input, Arc::clone(&hub)).map_err(failed)?;
    }
    Ok(hub)
}
