//! The two ends of the pipe: a thread that reads the input into blocks, a thread that writes the output in order.
//!
//! They use blocking calls: O_NONBLOCK on standard input or output would change it for the parent shell as well.

use super::hub::Hub;
use super::pool::Buffer;
use crate::error::Error;
use crate::wire::Fault;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// What to ask of the kernel for a pipe on either end: its usual limit for ordinary users (pipe(7), /proc/sys/fs/pipe-max-size).
const PIPE_SIZE: usize = 1 << 20;
/// A partly filled block waits this long for more input while others are queued before it.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// What must still succeed when a file has been read to its end or written and closed: a command that was on its other end.
pub type Epilogue = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// The BLAKE3 digest of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// Whether this side sent it; otherwise it received it.
    pub sent: bool,
    /// Of what: the name in messages of what was read or written.
    pub name: String,
    /// The digest, in hexadecimal.
    pub hex: String,
}

/// A file, and what to call it in messages.
pub struct Named {
    /// Dropped before the file is closed if it was not needed: a command must not take a broken stream for a whole one.
    pub epilogue: Option<Epilogue>,
    /// Open for reading or for writing.
    pub file: File,
    /// "the input", or the path.
    pub name: String,
}

impl Named {
    /// A file without an epilogue.
    pub fn new(file: File, name: impl Into<String>) -> Self {
        Self { epilogue: None, file, name: name.into() }
    }

    /// Closes the file; then the epilogue has the last word.
    fn close(self) -> io::Result<()> {
        let Self { epilogue, file, .. } = self;
        drop(file);
        epilogue.map_or(Ok(()), |epilogue| epilogue())
    }

    /// The number of bytes from the current position to the end, where the kind of file has one.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        let mut file = &self.file;
        if !self.is_storage() {
            return None;
        }
        let here = file.stream_position().ok()?;
        let end = file.seek(SeekFrom::End(0)).ok()?;
        file.seek(SeekFrom::Start(here)).ok()?;
        end.checked_sub(here)
    }

    /// Whether it is a regular file or a block device.
    fn is_storage(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| {
            matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::BlockDevice)
        })
    }

    fn widen_pipe(&self) {
        // Refused for anything but a pipe, and beyond the user's pipe allowance: then it works as it is.
        let _ = rustix::pipe::fcntl_setpipe_size(&self.file, PIPE_SIZE);
    }
}

/// For the writer thread.
pub(super) enum ToWrite {
    /// The block at this offset, which directly follows the one before.
    Block(u64, Buffer),
    /// Nothing follows.
    Finish,
}

/// Starts the thread that reads `input` into the session.
pub(super) fn spawn_reader(input: Named, hub: Arc<Hub>) -> io::Result<()> {
    input.widen_pipe();
    thread::Builder::new().name("reader".into()).spawn(move || {
        let name = input.name.clone();
        if let Err(error) = read_all(input, &hub) {
            hub.fail(Fault::INPUT, Error::os(format!("cannot read {name}"), error));
        }
    })?;
    Ok(())
}

fn read_all(input: Named, hub: &Arc<Hub>) -> io::Result<()> {
    let mut hasher = hub.hasher();
    while let Some(mut buffer) = hub.input_pool().take() {
        let (len, ended) = fill(&input.file, &mut buffer, hub)?;
        if len > 0 {
            buffer.truncate(len);
            hasher.as_mut().map(|hasher| hasher.update(&buffer));
            if !hub.input(buffer) {
                return Ok(());
            }
        }
        if ended {
            conclude(hub, hasher, true, &input.name);
            input.close()?;
            hub.input_end();
            return Ok(());
        }
    }
    Ok(())
}

/// Reads until the buffer is full, the input ends, or there is nothing to read for now: what a person typed must not wait for more.
fn fill(mut file: &File, buffer: &mut [u8], hub: &Hub) -> io::Result<(usize, bool)> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => return Ok((len, true)),
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Somebody else has set O_NONBLOCK on what we share with them.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(file, PollFlags::IN, None)?;
                continue;
            }
            Err(error) => return Err(error),
        }
        let patience = if len < buffer.len() && hub.has_backlog() { &GATHER } else { &NOW };
        if len < buffer.len() && !wait_for(file, PollFlags::IN, Some(patience))? {
            break;
        }
    }
    Ok((len, false))
}

/// Whether the file becomes ready within `patience` (`None`: however long it takes).
fn wait_for(file: &File, flags: PollFlags, patience: Option<&Timespec>) -> io::Result<bool> {
    loop {
        match poll(&mut [PollFd::new(&file.as_fd(), flags)], patience) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the writer thread starts with: its end of the queue.
pub(super) struct WriterQueue(Receiver<ToWrite>);

/// The queue to a writer thread. Its length is bounded by the session's window.
pub(super) fn writer_queue() -> (Sender<ToWrite>, WriterQueue) {
    let (sender, receiver) = mpsc::channel();
    (sender, WriterQueue(receiver))
}

/// Starts the thread that writes what the session hands out to `output`.
pub(super) fn spawn_writer(output: Named, queue: WriterQueue, hub: Arc<Hub>) -> io::Result<()> {
    output.widen_pipe();
    thread::Builder::new().name("writer".into()).spawn(move || {
        let name = output.name.clone();
        if let Err(error) = write_all(output, &queue, &hub) {
            hub.fail(Fault::OUTPUT, Error::os(format!("cannot write to {name}"), error));
        }
    })?;
    Ok(())
}

fn write_all(output: Named, queue: &WriterQueue, hub: &Hub) -> io::Result<()> {
    let mut hasher = hub.hasher();
    for message in &queue.0 {
        match message {
            ToWrite::Block(offset, bytes) => {
                write_block(&output.file, &bytes)?;
                hasher.as_mut().map(|hasher| hasher.update(&bytes));
                let end = offset + bytes.len() as u64;
                drop(bytes);
                hub.written(end);
            }
            ToWrite::Finish => {
                conclude(hub, hasher, false, &output.name);
                settle_on_storage(&output, hub)?;
                output.close()?;
                hub.output_finished();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// All of a direction has passed.
fn conclude(hub: &Hub, hasher: Option<blake3::Hasher>, sent: bool, name: &str) {
    if let Some(hasher) = hasher {
        hub.digested(Digest { sent, name: name.to_owned(), hex: hasher.finalize().to_hex().to_string() });
    }
}

fn write_block(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for(file, PollFlags::OUT, None)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A disk reports some write errors only when it is asked whether all has arrived; "confirmed" must include them.
fn settle_on_storage(output: &Named, hub: &Hub) -> io::Result<()> {
    if !output.is_storage() {
        return Ok(());
    }
    hub.flushing();
    match output.file.sync_data() {
        // A file system without the operation.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}
