//! Test data that needs no disk: a stream that is a function of its seed and the offset, so that the far end can
//! compare what arrives with what was sent, byte for byte, while it arrives. Cheap, because an emulated processor makes
//! and checks it.

/// Each chunk of the stream is a window into the pool, at a place that only seed and chunk number decide:
/// lost, doubled or exchanged chunks do not go unnoticed, and both ends only copy and compare.
const CHUNK: usize = 64 << 10;
const POOL: usize = 1 << 20;

/// An endless stream of bytes.
#[derive(Debug, Clone)]
pub struct Payload {
    pool: Vec<u8>,
    seed: u64,
}

impl Payload {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        let mut pool = vec![0; POOL + CHUNK];
        fastrand::Rng::with_seed(seed).fill(&mut pool);
        Self { pool, seed }
    }

    /// The bytes from `offset` to the end of its chunk, at most `limit`.
    pub fn at(&self, offset: u64, limit: u64) -> &[u8] {
        let start = fastrand::Rng::with_seed(self.seed.wrapping_add(offset / CHUNK as u64)).u64(..POOL as u64);
        let inside = offset % CHUNK as u64;
        let length = limit.min(CHUNK as u64 - inside);
        let first = usize::try_from(start + inside).expect("inside the pool");
        &self.pool[first..first + usize::try_from(length).expect("at most a chunk")]
    }

    /// Compares bytes that arrived with the stream from `offset` on; returns the offset of the first wrong byte.
    pub fn mismatch(&self, mut offset: u64, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            let expected = self.at(offset, bytes.len() as u64);
            let (now, later) = bytes.split_at(expected.len());
            if now != expected {
                let wrong = now.iter().zip(expected).position(|(a, b)| a != b).unwrap_or_default();
                return Some(offset + wrong as u64);
            }
            offset += now.len() as u64;
            bytes = later;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(payload: &Payload, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let done = bytes.len() as u64;
            bytes.extend_from_slice(payload.at(offset + done, length - done));
        }
        bytes
    }

    #[test]
    fn what_is_right_passes_and_what_is_wrong_is_found() {
        let payload = Payload::new(7);
        let mut bytes = collect(&payload, 1000, 300_000);
        assert_eq!(payload.mismatch(1000, &bytes), None);
        bytes[200_000] ^= 1;
        assert_eq!(payload.mismatch(1000, &bytes), Some(201_000));
        assert!(Payload::new(8).mismatch(1000, &collect(&payload, 1000, 100)).is_some());
    }

    #[test]
    fn exchanged_chunks_are_found() {
        let payload = Payload::new(7);
        let (first, second) = (collect(&payload, 0, CHUNK as u64), collect(&payload, CHUNK as u64, CHUNK as u64));
        assert!(payload.mismatch(0, &[second, first].concat()).is_some());
    }
}
