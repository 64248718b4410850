//! What a session writes: a block at its offset, then all of it settled and closed. It knows nothing of queues and
//! sessions' ends.
//!
//! This one is ordered: each block follows the one before. One that takes blocks at their offsets has the same four
//! steps, and nothing that it is handed or reports is different ([`crate::engine::queue::ToWrite`], [`Hub::written`]).

use super::claim::{Claim, unlock};
use super::source::wait_for;
use super::{place, widen_pipe};
use crate::engine::halt::Halt;
use crate::engine::hub::Hub;
use crate::sys::close::close;
use rustix::event::PollFlags;
use std::fs::File;
use std::io::{self, Write};

/// See the module documentation.
pub(super) struct Sink {
    file: File,
    pub(super) name: String,
    claim: Option<Claim>,
    /// A file with contents that are not wanted, once there is something to write.
    to_empty: bool,
    /// Whether others have the same open file.
    shared: bool,
}

impl Sink {
    pub(super) fn new(file: File, name: impl Into<String>, claim: Option<Claim>) -> Self {
        widen_pipe(&file);
        Self { file, name: name.into(), claim, to_empty: false, shared: false }
    }

    /// One that others have open as well.
    pub(super) fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// One whose contents are not wanted, once there is something to write.
    pub(super) fn replacing(self) -> Self {
        Self { to_empty: true, ..self }
    }

    /// There is something to write, if only that there is nothing.
    pub(super) fn begin(&mut self, hub: &Hub) -> io::Result<()> {
        if std::mem::take(&mut self.to_empty) && place::empty(&self.file)? {
            hub.fills(&self.name);
        }
        Ok(())
    }

    /// Writes the block at this offset of the transfer, which is where the file stands.
    pub(super) fn put(&self, _offset: u64, mut bytes: &[u8], halt: &Halt) -> io::Result<()> {
        let mut file = &self.file;
        while !bytes.is_empty() {
            match file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(file, PollFlags::OUT, None, halt)?;
                }
                Err(error) => return Err(error),
            }
            // An interrupted call may also come back with part of the block.
            halt.check()?;
        }
        Ok(())
    }

    /// A disk reports some write errors only when it is asked whether all has arrived; "confirmed" must include them.
    pub(super) fn settle(&self, hub: &Hub) -> io::Result<()> {
        if !place::is_storage(&self.file) {
            return Ok(());
        }
        hub.flushing();
        match self.file.sync_data() {
            // A file system without the operation.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        }
    }

    /// Lets go of it after a failure that has been told.
    pub(super) fn give_up(self) {
        let _ = self.close();
    }

    /// Closes it; only then it is over what it holds.
    pub(super) fn close(self) -> io::Result<()> {
        let Self { file, claim, shared, .. } = self;
        if shared {
            unlock(&file);
        }
        let closed = close(file);
        drop(claim);
        closed
    }
}
