//! The writer thread: blocks in order to the output, what that says of each of them, of flushing and of closing, and whether the whole is
//! what was sent.
//!
//! It uses blocking calls: O_NONBLOCK on standard output would change it for the parent shell as well.

use super::command::Running;
use super::reader::wait_for;
use super::{Digest, Sink, place};
use crate::engine::hub::Hub;
use crate::engine::pool::Buffer;
use crate::error::Error;
use crate::sys::close::close;
use crate::wire::Fault;
use crc32fast::Hasher as Crc;
use rustix::event::PollFlags;
use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, Sender};

/// For the writer thread.
pub(in crate::engine) enum ToWrite {
    /// The block at this offset, which directly follows the one before, and its CRC-32.
    Block(u64, Buffer, u32),
    /// Nothing follows; the CRC-32 of everything, as the sender has it.
    Finish(u32),
}

/// What the writer thread starts with: its end of the queue.
pub(in crate::engine) struct WriterQueue(Receiver<ToWrite>);

/// The queue to a writer thread. Its length is bounded by the session's window.
pub(in crate::engine) fn writer_queue() -> (Sender<ToWrite>, WriterQueue) {
    let (sender, receiver) = mpsc::channel();
    (sender, WriterQueue(receiver))
}

/// What is written so far, as the output is to end up with it.
struct Written {
    hasher: Option<blake3::Hasher>,
    crc: Crc,
    end: u64,
}

/// Writes what the session hands out, to its end. Gives the output back if it did not come to that, still open: a command must be ended
/// before its pipe is closed.
pub(super) fn write(mut sink: Sink, queue: &WriterQueue, command: Option<&Running>, hub: &Hub) -> Option<Sink> {
    let mut written = Written { hasher: hub.hasher(), crc: Crc::new(), end: 0 };
    let expected = match write_all(&mut sink, queue, hub, &mut written) {
        Ok(Some(crc)) => crc,
        Ok(None) => return Some(sink),
        Err(error) => return Some(give_up(sink, command, error, hub)),
    };
    let crc = written.crc.finalize();
    if crc != expected {
        // Every block was right by its own checksum: one is missing, doubled or out of place, and which side's doing that is cannot be seen.
        let text =
            format!("what was written to {} is not what was sent: CRC-32 {crc:08x}, not {expected:08x}", sink.name);
        hub.fail(Fault::CHECKSUM, Error::Peer(text));
        return Some(sink);
    }
    if let Some(hasher) = written.hasher {
        hub.digested(Digest::of(&hasher, false, &sink.name));
    }
    if let Err(error) = settle_on_storage(&sink, hub) {
        return Some(give_up(sink, command, error, hub));
    }
    let name = sink.name.clone();
    let closed = sink.close().and_then(|()| command.map_or(Ok(()), |command| command.succeed(hub.halt())));
    match closed {
        Ok(()) => hub.output_finished(),
        Err(error) => hub.fail(Fault::OUTPUT, Error::os(format!("cannot write to {name}"), error)),
    }
    None
}

fn give_up(sink: Sink, command: Option<&Running>, error: io::Error, hub: &Hub) -> Sink {
    let error = match command {
        Some(command) => command.explain(error),
        None => error,
    };
    hub.fail(Fault::OUTPUT, Error::os(format!("cannot write to {}", sink.name), error));
    sink
}

/// The sender's CRC-32 of everything, once everything is written; `None` if the session ended before.
fn write_all(sink: &mut Sink, queue: &WriterQueue, hub: &Hub, written: &mut Written) -> io::Result<Option<u32>> {
    for message in &queue.0 {
        // What is queued of a session that is over is not for the output.
        hub.halt().check()?;
        sink.begin(hub)?;
        match message {
            ToWrite::Block(offset, bytes, crc) => {
                write_block(&sink.file, &bytes, hub)?;
                debug_assert_eq!(offset, written.end, "blocks come in order");
                written.hasher.as_mut().map(|hasher| hasher.update(&bytes));
                written.crc.combine(&Crc::new_with_initial_len(crc, bytes.len() as u64));
                written.end += bytes.len() as u64;
                drop(bytes);
                hub.written(written.end);
            }
            ToWrite::Finish(crc) => return Ok(Some(crc)),
        }
    }
    Ok(None)
}

fn write_block(mut file: &File, mut bytes: &[u8], hub: &Hub) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(file, PollFlags::OUT, None, hub.halt())?;
            }
            Err(error) => return Err(error),
        }
        // An interrupted call may also come back with part of the block.
        hub.halt().check()?;
    }
    Ok(())
}

/// A disk reports some write errors only when it is asked whether all has arrived; "confirmed" must include them.
fn settle_on_storage(sink: &Sink, hub: &Hub) -> io::Result<()> {
    if !place::is_storage(&sink.file) {
        return Ok(());
    }
    hub.flushing();
    match sink.file.sync_data() {
        // A file system without the operation.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

impl Sink {
    /// There is something to write, if only that there is nothing.
    fn begin(&mut self, hub: &Hub) -> io::Result<()> {
        if std::mem::take(&mut self.to_empty) && place::empty(&self.file)? {
            hub.fills(&self.name);
        }
        Ok(())
    }

    /// Lets go of it after a failure that has been told.
    pub(super) fn give_up(self) {
        let _ = self.close();
    }

    /// Closes it; only then it is over what it holds.
    fn close(self) -> io::Result<()> {
        let Self { file, claim, shared, .. } = self;
        if shared {
            super::claim::unlock(&file);
        }
        let closed = close(file);
        drop(claim);
        closed
    }
}
