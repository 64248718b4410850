//! What a session reads, a buffer at a time. It knows nothing of blocks, checksums and sessions.
//!
//! This one is ordered: what it gives follows what it gave before. The session wants blocks in order: several readers
//! of one file take their offsets in turn, read at them side by side, and hand over in that turn.

use super::claim::Claim;
use super::{place, widen_pipe};
use crate::engine::halt::Halt;
use crate::engine::hub::Hub;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

/// A partly filled block waits this long for more input while others are queued before it.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// See the module documentation.
pub(super) struct Source {
    file: File,
    /// "standard input", or the path.
    pub(super) name: String,
    _claim: Option<Claim>,
}

impl Source {
    pub(super) fn new(file: File, name: impl Into<String>, claim: Option<Claim>) -> Self {
        widen_pipe(&file);
        Self { file, name: name.into(), _claim: claim }
    }

    /// The number of bytes that it will give, where that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        place::remaining(&self.file)
    }

    /// Waits for the first of it.
    pub(super) fn wait(&self, halt: &Halt) -> io::Result<()> {
        wait_for(&self.file, PollFlags::IN, None, halt).map(drop)
    }

    /// Reads until the buffer is full, the input ends, or there is nothing to read for now: what a person typed must
    /// not wait for more.
    pub(super) fn fill(&self, buffer: &mut [u8], hub: &Hub) -> io::Result<(usize, bool)> {
        let (mut file, mut len) = (&self.file, 0);
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
