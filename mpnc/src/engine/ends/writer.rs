//! The writer thread: blocks in order to the output, what that says of each of them, of flushing and of closing, and
//! whether the whole is what was sent.
//!
//! It uses blocking calls: O_NONBLOCK on standard output would change it for the parent shell as well.

use super::Sink;
use super::command::Running;
use crate::engine::digest::Digest;
use crate::engine::hub::Hub;
use crate::engine::queue::{ToWrite, WriterQueue};
use crate::error::Error;
use crate::transfer::Extent;
use crate::wire::Fault;
use crc32fast::Hasher as Crc;
use std::io;

/// What is written so far, as the output is to end up with it.
struct Written {
    hasher: Option<blake3::Hasher>,
    crc: Crc,
    end: u64,
}

/// Writes what the session hands out, to its end. Gives the output back if it did not come to that, still open: a
/// command must be ended before its pipe is closed.
pub(super) fn write(mut sink: Sink, queue: &WriterQueue, command: Option<&Running>, hub: &Hub) -> Option<Sink> {
    let mut written = Written { hasher: hub.hasher(), crc: Crc::new(), end: 0 };
    let expected = match write_all(&mut sink, queue, hub, &mut written) {
        Ok(Some(crc)) => crc,
        Ok(None) => return Some(sink),
        Err(error) => return Some(give_up(sink, command, error, hub)),
    };
    let crc = written.crc.finalize();
    if crc != expected {
        // Every block was right by its own checksum: one is missing, doubled or out of place, and which side's doing
        // that is cannot be seen.
        let text =
            format!("what was written to {} is not what was sent: CRC-32 {crc:08x}, not {expected:08x}", sink.name);
        hub.fail(Fault::CHECKSUM, Error::Peer(text));
        return Some(sink);
    }
    if let Some(hasher) = written.hasher {
        hub.digested(Digest::of(&hasher, false, &sink.name));
    }
    if let Err(error) = sink.settle(hub) {
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
                let extent = Extent { offset, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
                debug_assert_eq!(offset, written.end, "blocks come in order");
                sink.put(offset, &bytes, hub.halt())?;
                written.hasher.as_mut().map(|hasher| hasher.update(&bytes));
                written.crc.combine(&Crc::new_with_initial_len(crc, bytes.len() as u64));
                written.end += bytes.len() as u64;
                drop(bytes);
                hub.written(extent);
            }
            ToWrite::Finish(crc) => return Ok(Some(crc)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::hub::{Read, Setup};
    use crate::engine::queue::writer_queue;
    use crate::transfer::{Config, End, StreamId, Terms};
    use crate::wire::Frame;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::Sender;
    use std::sync::{Arc, Mutex, atomic::AtomicUsize, atomic::Ordering};
    use std::thread;
    use std::time::Duration;

    const BLOCK: usize = 4096;
    const BLOCKS: usize = 40;
    const STREAM: StreamId = StreamId(0);

    fn receiving(writer: Sender<ToWrite>) -> Arc<Hub> {
        let window = 1 << 20;
        let timeout = Duration::from_secs(30);
        let config = Config { sends: false, receives: true, any_order: true, window, timeout, rate: None };
        let peer = "127.0.0.1:9".parse().unwrap();
        let (block, peer_block, writer) = (BLOCK, BLOCK, Some(writer));
        let setup = Setup { peer, config, block, peer_block, writer, digest: false, plans: false };
        let (hub, _notes) = Hub::new(setup, Vec::new());
        hub.stream_up(STREAM, &Terms { window, block: 4096, bond: None });
        hub
    }

    fn take_in(hub: &Hub, read: Read) {
        assert!(hub.take_in(STREAM, &mut vec![read], None).unwrap().is_none());
    }

    /// What a connection does with a Data frame.
    fn arrive(hub: &Hub, number: usize, bytes: &[u8]) {
        let extent = Extent { offset: (number * BLOCK) as u64, len: u32::try_from(BLOCK).unwrap() };
        let mut buffer = hub.take_in(STREAM, &mut Vec::new(), Some(extent)).unwrap().expect("it is new");
        buffer.copy_from_slice(&bytes[number * BLOCK..][..BLOCK]);
        let crc = crc32fast::hash(&buffer);
        take_in(hub, Read::Data { extent, bytes: Some(buffer), crc });
    }

    /// One of several writers, of an output with offsets.
    fn place(file: &File, queue: &Mutex<WriterQueue>, hub: &Hub, placed: &AtomicUsize) {
        loop {
            let message = queue.lock().unwrap().0.recv();
            match message {
                Ok(ToWrite::Block(offset, bytes, _)) => {
                    file.write_all_at(&bytes, offset).unwrap();
                    placed.fetch_add(1, Ordering::Relaxed);
                    hub.written(Extent { offset, len: u32::try_from(bytes.len()).unwrap() });
                }
                Ok(ToWrite::Finish(_)) => {
                    assert_eq!(placed.load(Ordering::Relaxed), BLOCKS, "not before all is written");
                    hub.output_finished();
                    take_in(hub, Read::Frame(Frame::Bye));
                }
                Err(_) => return,
            }
        }
    }

    #[test]
    fn writers_of_an_output_with_offsets_fit_the_same_session() {
        let bytes: Vec<u8> = (0..=250).cycle().take(BLOCK * BLOCKS).collect();
        let (writer, queue) = writer_queue();
        let (hub, queue) = (receiving(writer), Mutex::new(queue));
        let (file, placed) = (tempfile::tempfile().unwrap(), AtomicUsize::new(0));
        thread::scope(|scope| {
            (0..2).for_each(|_| drop(scope.spawn(|| place(&file, &queue, &hub, &placed))));
            (1..BLOCKS).rev().for_each(|number| arrive(&hub, number, &bytes));
            // Nothing waits for the first block.
            for _ in 0..60_000 {
                if placed.load(Ordering::Relaxed) == BLOCKS - 1 {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(hub.progress().received, 0);
            take_in(&hub, Read::Frame(Frame::End { total: bytes.len() as u64, crc: 0 }));
            arrive(&hub, 0, &bytes);
        });
        let mut written = vec![0; bytes.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == bytes, "every block is where it belongs");
        assert_eq!(hub.progress().received, bytes.len() as u64);
        assert_eq!(hub.take_end().map(|(end, _)| end), Some(End::Complete));
    }
}
