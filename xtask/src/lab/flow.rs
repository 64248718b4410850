//! Feeding test data to one program and checking what comes out of the other, each on a thread of its own, and files in
//! memory where pipes would cost too much. Knows nothing of networks.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::payload::Payload;
use super::scenario::{Input, Output};

/// One direction of a transfer: where its bytes come from, where they went, what became of them.
#[derive(Debug)]
pub struct Flow {
    payload: Arc<Payload>,
    total: u64,
    input: Option<File>,
    output: Option<File>,
    delivered: Arc<AtomicU64>,
    feeder: Option<JoinHandle<()>>,
    checker: Option<JoinHandle<Option<u64>>>,
}

/// A pause of the program that reads the output.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// After so many bytes.
    pub at: u64,
    /// For so long.
    pub time: Duration,
}

/// What came out in the end.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Bytes in the output.
    pub bytes: u64,
    /// Offset of the first that differs from the input.
    pub wrong_at: Option<u64>,
}

impl Flow {
    /// Prepares `total` bytes of the stream of `seed`.
    ///
    /// # Errors
    /// When a file in memory cannot be written.
    pub fn new(seed: u64, total: u64, input: Input, output: Output) -> Result<Self> {
        let payload = Arc::new(Payload::new(seed));
        let file = match input {
            Input::Pipe => None,
            Input::File => {
                let mut file = memory_file()?;
                pour(&payload, total, &mut file).context("write the input file")?;
                file.seek(SeekFrom::Start(0))?;
                Some(file)
            }
        };
        let output = if output == Output::File { Some(memory_file()?) } else { None };
        let delivered = Arc::default();
        Ok(Self { payload, total, input: file, output, delivered, feeder: None, checker: None })
    }

    /// What the sending program gets as its standard input.
    ///
    /// # Errors
    /// When the file cannot be shared.
    pub fn stdin(&self) -> Result<Stdio> {
        self.input.as_ref().map_or_else(|| Ok(Stdio::piped()), |file| Ok(file.try_clone()?.into()))
    }

    /// What the receiving program gets as its standard output.
    ///
    /// # Errors
    /// When the file cannot be shared.
    pub fn stdout(&self) -> Result<Stdio> {
        self.output.as_ref().map_or_else(|| Ok(Stdio::piped()), |file| Ok(file.try_clone()?.into()))
    }

    /// Starts to feed the sending program, if it reads from a pipe.
    pub fn feed(&mut self, sender: &mut Child) {
        if let Some(mut stdin) = sender.stdin.take() {
            let (payload, total) = (Arc::clone(&self.payload), self.total);
            // A program that ends early closes the pipe: its exit code says so, not this thread.
            self.feeder = Some(std::thread::spawn(move || {
                drop(pour(&payload, total, &mut stdin));
            }));
        }
    }

    /// Starts to check what the receiving program puts out, if it writes to a pipe.
    pub fn check(&mut self, receiver: &mut Child, stall: Option<Stall>) {
        if let Some(stdout) = receiver.stdout.take() {
            let (payload, delivered) = (Arc::clone(&self.payload), Arc::clone(&self.delivered));
            self.checker = Some(std::thread::spawn(move || compare(&payload, stdout, &delivered, stall)));
        }
    }

    /// Bytes in the output so far.
    pub fn delivered(&self) -> u64 {
        let in_file = self.output.as_ref().and_then(|file| file.metadata().ok()).map(|data| data.len());
        in_file.unwrap_or_else(|| self.delivered.load(Ordering::Relaxed))
    }

    /// Bytes to be moved in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Waits for both threads (both programs have ended) and says what arrived.
    ///
    /// # Errors
    /// When a thread died, or the output file cannot be read.
    pub fn finish(mut self) -> Result<Arrival> {
        if let Some(feeder) = self.feeder.take() {
            feeder.join().map_err(|_| anyhow::anyhow!("the feeding thread died"))?;
        }
        let wrong_at = match (self.checker.take(), self.output.take()) {
            (Some(checker), _) => checker.join().map_err(|_| anyhow::anyhow!("the checking thread died"))?,
            (None, Some(mut file)) => {
                file.seek(SeekFrom::Start(0))?;
                compare(&self.payload, file, &self.delivered, None)
            }
            (None, None) => None,
        };
        let bytes = self.delivered.load(Ordering::Relaxed);
        // Bytes beyond the end are wrong even where the endless stream would go on like this.
        let wrong_at = wrong_at.or_else(|| (bytes > self.total).then_some(self.total));
        Ok(Arrival { bytes, wrong_at })
    }
}

fn pour(payload: &Payload, total: u64, to: &mut impl Write) -> std::io::Result<()> {
    let mut offset = 0;
    while offset < total {
        let bytes = payload.at(offset, total - offset);
        to.write_all(bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

/// Reads to the end, counting; returns the offset of the first wrong byte.
fn compare(payload: &Payload, mut from: impl Read, delivered: &AtomicU64, mut stall: Option<Stall>) -> Option<u64> {
    let mut buffer = vec![0; 256 << 10];
    let (mut offset, mut wrong) = (0, None);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        wrong = wrong.or_else(|| payload.mismatch(offset, &buffer[..read]));
        offset += read as u64;
        delivered.store(offset, Ordering::Relaxed);
        if let Some(Stall { time, .. }) = stall.take_if(|stall| offset >= stall.at) {
            std::thread::sleep(time);
        }
    }
    wrong
}

/// A file without a name, in memory where the system has a place for that.
fn memory_file() -> Result<File> {
    let shared = Path::new("/dev/shm");
    let file = if shared.is_dir() { tempfile::tempfile_in(shared) } else { tempfile::tempfile() };
    file.context("make a file in memory")
}
