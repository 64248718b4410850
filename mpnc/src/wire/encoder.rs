//! Frames to the bytes of one stream: what is queued, and how much of it has been taken.
//!
//! It copies no payload: small frames and Data headers are bytes of its own, a block's payload stays where it is. Must
//! not know where bytes go.

use super::{Frame, Header, Kind, preamble};
use std::ops::Deref;

/// See the module documentation. `B` is a payload.
pub struct Encoder<B> {
    /// Preamble, small frames and the header of the block, in order.
    small: Vec<u8>,
    /// Bytes of it that have been taken.
    small_done: usize,
    /// Payload that follows.
    block: Option<B>,
    block_done: usize,
    /// What was queued behind the block.
    behind: Vec<u8>,
}

impl<B> Default for Encoder<B> {
    fn default() -> Self {
        Self { small: Vec::new(), small_done: 0, block: None, block_done: 0, behind: Vec::new() }
    }
}

impl<B: Deref<Target = [u8]>> Encoder<B> {
    /// Queues the preamble.
    pub fn preamble(&mut self) {
        self.queue().extend_from_slice(&preamble());
    }

    /// Queues a small frame.
    pub fn frame(&mut self, frame: &Frame) {
        frame.encode(self.queue());
    }

    /// Queues a Data frame: `payload`, whose CRC-32 is `crc`, belongs at `offset` of the transfer. There is room for
    /// one: while another is under way, or if it is longer than a frame can say, it is given back.
    pub fn data(&mut self, offset: u64, crc: u32, payload: B) -> Option<B> {
        let (None, Ok(len)) = (&self.block, u32::try_from(payload.len())) else { return Some(payload) };
        let header = Header { kind: Kind::Data, len, arg: offset, body_crc: crc };
        self.small.extend_from_slice(&header.encode());
        self.block = Some(payload);
        None
    }

    /// What is to be written, in this order.
    #[must_use]
    pub fn rest(&self) -> [&[u8]; 2] {
        let block = self.block.as_deref().and_then(|block| block.get(self.block_done..));
        [&self.small[self.small_done..], block.unwrap_or_default()]
    }

    /// So many bytes of [`rest`](Self::rest) have been taken.
    pub fn wrote(&mut self, n: usize) {
        let in_small = n.min(self.small.len() - self.small_done);
        self.small_done += in_small;
        self.block_done += n - in_small;
        if self.small_done < self.small.len() {
            return;
        }
        self.small.clear();
        self.small_done = 0;
        if self.block.as_ref().is_none_or(|block| self.block_done >= block.len()) {
            (self.block, self.block_done) = (None, 0);
            std::mem::swap(&mut self.small, &mut self.behind);
        }
    }

    /// Whether all that was queued has been taken.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.small.is_empty() && self.block.is_none()
    }

    fn queue(&mut self) -> &mut Vec<u8> {
        if self.block.is_some() { &mut self.behind } else { &mut self.small }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_queued_is_written_in_order_however_little_is_taken(
            frames in proptest::collection::vec((any::<bool>(), 0usize..50, 0usize..80), 0..40),
        ) {
            let (mut encoder, mut queued, mut written) = (Encoder::<Vec<u8>>::default(), Vec::new(), Vec::new());
            encoder.preamble();
            queued.extend_from_slice(&preamble());
            let mut take = |encoder: &mut Encoder<Vec<u8>>, most: usize| {
                let rest = encoder.rest().concat();
                let n = rest.len().min(most);
                written.extend_from_slice(&rest[..n]);
                encoder.wrote(n);
            };
            for (is_data, len, most) in frames {
                if is_data {
                    let (payload, was_busy) = (vec![u8::try_from(len).unwrap(); len], encoder.block.is_some());
                    let back = encoder.data(7, 9, payload.clone());
                    prop_assert_eq!(back.is_some(), was_busy);
                    if back.is_none() {
                        let header = Header { kind: Kind::Data, len: u32::try_from(len).unwrap(), arg: 7, body_crc: 9 };
                        queued.extend(header.encode().into_iter().chain(payload));
                    }
                } else {
                    let frame = Frame::Ping { token: len as u64 };
                    encoder.frame(&frame);
                    frame.encode(&mut queued);
                }
                take(&mut encoder, most);
            }
            while !encoder.is_flushed() {
                take(&mut encoder, 13);
            }
            prop_assert_eq!(written, queued);
        }
    }
}
