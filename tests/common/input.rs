//! An input that lasts as long as the test wants, for what must happen during a transfer and not after it.

use super::common::data::{Digest, Noise};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Noise that flows into a side until it is told to end.
pub(crate) struct Input {
    over: Arc<AtomicBool>,
    pouring: JoinHandle<Digest>,
}

/// Noise until `over`, copied to `sink` as it is read.
struct Tap<W> {
    noise: Noise,
    sink: W,
    over: Arc<AtomicBool>,
}

impl<W: Write> Read for Tap<W> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let n = self.noise.read(out)?;
        self.sink.write_all(&out[..n])?;
        Ok(n)
    }
}

impl Input {
    /// Begins to flow into `sink`.
    pub(crate) fn into(sink: impl Write + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let tap = Tap { noise: Noise::new(u64::MAX), sink, over: Arc::clone(&over) };
        Self { over, pouring: thread::spawn(move || Digest::of(tap)) }
    }

    /// Ends it, and answers what has flowed.
    pub(crate) fn end(self) -> Digest {
        self.over.store(true, Ordering::Relaxed);
        self.pouring.join().expect("the side has taken all of it")
    }
}
