//! The reader thread: the input into blocks, with the checksum of each and of all.
//!
//! It uses blocking calls: O_NONBLOCK on standard input would change it for the parent shell as well.

use super::command::Running;
use super::halt::Halt;
use super::{Digest, Source};
use crate::engine::hub::Hub;
use crate::error::Error;
use crate::wire::Fault;
use crc32fast::Hasher as Crc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

/// A partly filled block waits this long for more input while others are queued before it.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

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
    wait_for(&source.file, PollFlags::IN, None, halt)?;
    while let Some(mut buffer) = hub.input_pool().take() {
        let (len, ended) = fill(&source.file, &mut buffer, hub)?;
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

/// Reads until the buffer is full, the input ends, or there is nothing to read for now: what a person typed must not wait for more.
fn fill(mut file: &File, buffer: &mut [u8], hub: &Hub) -> io::Result<(usize, bool)> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => return Ok((len, true)),
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                hub.halt().check()?;
                continue;
            }
            // Somebody else has set O_NONBLOCK on what we share with them, or it is a FIFO.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(file, PollFlags::IN, None, hub.halt())?;
                continue;
            }
            Err(error) => return Err(error),
        }
        let patience = if len < buffer.len() && hub.has_backlog() { &GATHER } else { &NOW };
        if len < buffer.len() && !wait_for(file, PollFlags::IN, Some(patience), hub.halt())? {
            break;
        }
    }
    Ok((len, false))
}

/// Whether the file becomes ready within `patience` (`None`: however long it takes).
pub(super) fn wait_for(file: &File, flags: PollFlags, patience: Option<&Timespec>, halt: &Halt) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(&file.as_fd(), flags)], patience) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => halt.check()?,
            Err(error) => return Err(error.into()),
        }
    }
}
