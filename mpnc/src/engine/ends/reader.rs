//! The reader thread: the input into blocks, with the checksum of each and of all.
//!
//! It uses blocking calls: O_NONBLOCK on standard input would change it for the parent shell as well.

use super::Source;
use super::command::Running;
use crate::engine::digest::Digest;
use crate::engine::hub::Hub;
use crate::error::Error;
use crate::wire::Fault;
use crc32fast::Hasher as Crc;
use std::io;

/// Reads `source` into the session, to its end.
pub(super) fn read(source: &Source, command: Option<&Running>, hub: &Hub) {
    match read_all(source, command, hub) {
        Ok(Some(crc)) => hub.input_end(crc),
        Ok(None) => {}
        Err(error) => hub.fail(Fault::INPUT, Error::os(format!("cannot read {}", source.name), error)),
    }
}

/// The CRC-32 of everything; `None` if nobody wanted it all.
fn read_all(source: &Source, command: Option<&Running>, hub: &Hub) -> io::Result<Option<u32>> {
    let (halt, mut hasher, mut whole) = (hub.halt(), hub.hasher(), Crc::new());
    source.wait(halt)?;
    while let Some(mut buffer) = hub.input_pool().take() {
        let (len, ended) = source.fill(&mut buffer, hub)?;
        if len > 0 {
            buffer.truncate(len);
            hasher.as_mut().map(|hasher| hasher.update(&buffer));
            let crc = crc32fast::hash(&buffer);
            whole.combine(&Crc::new_with_initial_len(crc, len as u64));
            if !hub.input(buffer, crc) {
                return Ok(None);
            }
        }
        if ended {
            if let Some(hasher) = hasher {
                hub.digested(Digest::of(&hasher, true, &source.name));
            }
            // A command that answers is done when its answer is, and has the last word.
            command.map_or(Ok(()), |command| command.succeed(halt))?;
            return Ok(Some(whole.finalize()));
        }
    }
    Ok(None)
}
