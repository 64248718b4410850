//! Test data: pseudo-random bytes of any length that are never held as a whole, and the digest of what comes out.

use sha2::{Digest as _, Sha256};
use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::thread::{self, JoinHandle};

/// Bytes handled at a time: not a divisor of mpnc's block, so that the pieces never line up.
const PIECE: usize = 60_000;

/// Reproducible bytes without a period that a block size could hide.
pub(crate) struct Noise {
    random: fastrand::Rng,
    left: u64,
    word: [u8; 8],
    used: usize,
}

impl Noise {
    /// `len` bytes.
    pub(crate) fn new(len: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(1), left: len, word: [0; 8], used: 8 }
    }
}

impl Read for Noise {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let mut done = 0;
        while done < len {
            if self.used == 8 {
                (self.word, self.used) = (self.random.u64(..).to_le_bytes(), 0);
            }
            let n = (8 - self.used).min(len - done);
            out[done..done + n].copy_from_slice(&self.word[self.used..self.used + n]);
            (done, self.used) = (done + n, self.used + n);
        }
        self.left -= len as u64;
        Ok(len)
    }
}

/// Length and SHA-256 of a run of bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) len: u64,
    sha256: [u8; 32],
}

impl Digest {
    /// Of what [`Noise::new`] makes.
    pub(crate) fn of_noise(len: u64) -> Self {
        Self::of(Noise::new(len))
    }

    /// Of everything that `source` still has.
    pub(crate) fn of(mut source: impl Read) -> Self {
        let (mut hasher, mut len, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match source.read(&mut piece) {
                Ok(0) => return Self { len, sha256: hasher.finalize().into() },
                Ok(n) => {
                    hasher.update(&piece[..n]);
                    len += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("reading what is to be checked: {error}"),
            }
        }
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.sha256.iter().take(8).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        write!(f, "{} bytes, sha256 {hex}...", self.len)
    }
}

/// Takes the digest of everything that `source` yields, on a thread of its own.
pub(crate) fn drain(source: impl Read + Send + 'static) -> JoinHandle<Digest> {
    thread::spawn(move || Digest::of(source))
}

/// Writes everything of `source` to `sink` and closes it, on a thread of its own. A sink that breaks ends it: mpnc has
/// to say why, not the test.
pub(crate) fn pour(mut source: impl Read + Send + 'static, mut sink: impl Write + Send + 'static) {
    thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        while let Ok(n) = source.read(&mut piece) {
            if n == 0 || sink.write_all(&piece[..n]).is_err() {
                return;
            }
        }
    });
}
