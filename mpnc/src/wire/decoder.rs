//! Bytes of one stream to frames, in whatever pieces they come. It is what a peer reaches first, be it hostile.
//!
//! It copies no payload and reads nothing: it says where the next bytes belong ([`Decoder::room`]), is told how many
//! came ([`Decoder::filled`]), and yields what has become whole ([`Decoder::poll`]). The payload of a Data frame goes
//! straight to the buffer that the caller hands in, the next header behind it to the decoder, so that one vectored read
//! serves both. Must not know where bytes come from.
//!
//! Of its own it holds a header, the body of one small frame ([`MAX_CONTROL`]), and while it reads past a payload
//! [`SCRATCH`] bytes.

use super::{BLOCK_RANGE, Frame, HEADER_LEN, Header, Kind, MAX_CONTROL, PREAMBLE_LEN, WireError, check_preamble};
use crc32fast::Hasher;
use std::ops::DerefMut;

/// Most payload that is read past at a time, in bytes.
pub const SCRATCH: usize = 64 << 10;
const _: () = assert!(MAX_CONTROL <= SCRATCH, "a small frame's body is the smaller of the two");

/// What has become whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<B> {
    /// A frame that is not Data.
    Frame(Frame),
    /// A frame of a kind that this version does not know.
    Unknown(u8),
    /// The header of a Data frame: nothing goes on before [`Decoder::answer`].
    Begin(Header),
    /// A Data frame is whole, and its checksum right: with the buffer that was handed in for its payload, if one was.
    Data(Header, Option<B>),
}

enum State<B> {
    Preamble,
    Header,
    /// The body of a small frame, of which so many bytes are here.
    Small(Header, usize),
    /// A Data frame's header was yielded, and the answer is to come.
    Begun(Header),
    Payload {
        header: Header,
        into: Into<B>,
        /// Bytes of it that are here.
        done: usize,
        crc: Hasher,
    },
}

/// Where a payload goes.
enum Into<B> {
    Buffer(B),
    /// Nowhere: it is not wanted.
    Scratch(Vec<u8>),
}

/// See the module documentation. `B` is a buffer for a payload.
pub struct Decoder<B> {
    state: State<B>,
    /// The preamble or header that comes next, of which so many bytes are here.
    head: [u8; HEADER_LEN],
    head_len: usize,
    /// Body of a small frame.
    small: Vec<u8>,
    max_block: u32,
}

impl<B: DerefMut<Target = [u8]>> Default for Decoder<B> {
    fn default() -> Self {
        Self {
            state: State::Preamble,
            head: [0; HEADER_LEN],
            head_len: 0,
            small: Vec::new(),
            max_block: *BLOCK_RANGE.start(),
        }
    }
}

impl<B: DerefMut<Target = [u8]>> Decoder<B> {
    /// From now on the peer may send payloads of so many bytes. Before, it may send the least that a peer can announce.
    pub fn set_max_block(&mut self, max_block: u32) {
        self.max_block = max_block;
    }

    /// Whether the peer may close now without leaving anything unfinished.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header) && self.head_len == 0
    }

    /// Where the next bytes belong: the rest of what is being read, and what comes behind it. Empty only while
    /// [`Item::Begin`] waits for its answer, and while [`poll`](Self::poll) has something to yield.
    pub fn room(&mut self) -> [&mut [u8]; 2] {
        let Self { state, head, head_len, small, .. } = self;
        match state {
            State::Preamble => [head.get_mut(*head_len..PREAMBLE_LEN).unwrap_or_default(), &mut []],
            State::Header => [head.get_mut(*head_len..).unwrap_or_default(), &mut []],
            State::Begun(_) => [&mut [], &mut []],
            State::Small(_, done) => [small.get_mut(*done..).unwrap_or_default(), head],
            State::Payload { into: Into::Buffer(buffer), done, .. } => {
                [buffer.get_mut(*done..).unwrap_or_default(), head]
            }
            State::Payload { header, into: Into::Scratch(scratch), done, .. } => {
                let left = (header.len as usize).saturating_sub(*done);
                let fits = left <= scratch.len();
                [&mut scratch[..left.min(SCRATCH)], if fits { head } else { &mut [] }]
            }
        }
    }

    /// So many bytes were put into what [`room`](Self::room) gave, from its beginning.
    pub fn filled(&mut self, n: usize) {
        let Self { state, head_len, small, .. } = self;
        let in_head = match state {
            State::Preamble | State::Header | State::Begun(_) => n,
            State::Small(_, done) => advance(done, small.len(), n),
            State::Payload { header, into, done, crc } => {
                let before = *done;
                let behind = advance(done, header.len as usize, n);
                crc.update(
                    match into {
                        Into::Buffer(buffer) => buffer.get(before..*done),
                        Into::Scratch(scratch) => scratch.get(..*done - before),
                    }
                    .unwrap_or_default(),
                );
                behind
            }
        };
        *head_len = (*head_len + in_head).min(HEADER_LEN);
    }

    /// What has become whole, one at a time; `None` until more bytes are here.
    ///
    /// # Errors
    /// What is wrong with the bytes. The stream is of no use then.
    pub fn poll(&mut self) -> Result<Option<Item<B>>, WireError> {
        loop {
            match std::mem::replace(&mut self.state, State::Header) {
                State::Preamble => {
                    let Some(bytes) = self.head.first_chunk().filter(|_| self.head_len >= PREAMBLE_LEN) else {
                        return Ok(self.wait(State::Preamble));
                    };
                    check_preamble(bytes)?;
                    self.head_len = 0;
                }
                State::Header if self.head_len < HEADER_LEN => return Ok(None),
                State::Header => self.begin()?,
                State::Small(header, done) if done < self.small.len() => {
                    return Ok(self.wait(State::Small(header, done)));
                }
                State::Small(header, _) => {
                    let unknown = if let Kind::Unknown(number) = header.kind { number } else { 0 };
                    let frame = Frame::decode(&header, &self.small)?;
                    return Ok(Some(frame.map_or(Item::Unknown(unknown), Item::Frame)));
                }
                State::Begun(header) => {
                    self.state = State::Begun(header);
                    return Ok(Some(Item::Begin(header)));
                }
                State::Payload { header, into, done, crc } if done < header.len as usize => {
                    return Ok(self.wait(State::Payload { header, into, done, crc }));
                }
                State::Payload { header, into, crc, .. } => {
                    if crc.finalize() != header.body_crc {
                        return Err(WireError::BodyChecksum);
                    }
                    let buffer = if let Into::Buffer(buffer) = into { Some(buffer) } else { None };
                    return Ok(Some(Item::Data(header, buffer)));
                }
            }
        }
    }

    /// Where the payload belongs that [`Item::Begin`] told of: a buffer of its length, or nowhere. A buffer of another
    /// length counts as none.
    pub fn answer(&mut self, buffer: Option<B>) {
        let State::Begun(header) = self.state else { return };
        let len = header.len as usize;
        let buffer = buffer.filter(|buffer| buffer.len() == len);
        let into = buffer.map_or_else(|| Into::Scratch(vec![0; SCRATCH.min(len)]), Into::Buffer);
        self.state = State::Payload { header, into, done: 0, crc: Hasher::new() };
    }

    fn begin(&mut self) -> Result<(), WireError> {
        let header = Header::decode(&self.head, self.max_block)?;
        self.head_len = 0;
        self.state = if header.kind == Kind::Data {
            State::Begun(header)
        } else {
            // At most MAX_CONTROL: the header was checked.
            self.small.resize(header.len as usize, 0);
            State::Small(header, 0)
        };
        Ok(())
    }

    fn wait(&mut self, state: State<B>) -> Option<Item<B>> {
        self.state = state;
        None
    }
}

/// Moves `done` on by `n`, to `len` at most; answers what is left of `n`.
fn advance(done: &mut usize, len: usize, n: usize) -> usize {
    let here = n.min(len.saturating_sub(*done));
    *done += here;
    n - here
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Ack, Encoder, preamble};
    use proptest::prelude::*;

    type Items = Vec<Item<Vec<u8>>>;

    /// Decodes `bytes` in pieces of these lengths, over and over; wants the payloads for which `wants` says so.
    /// Whatever it holds is within its limits, at every moment.
    fn decode(bytes: &[u8], pieces: &[usize], wants: impl Fn(&Header) -> bool) -> (Items, Result<(), WireError>) {
        let mut decoder = Decoder::default();
        decoder.set_max_block(1 << 20);
        let (mut items, mut rest, mut pieces) = (Vec::new(), bytes, pieces.iter().copied().cycle());
        loop {
            match decoder.poll() {
                Ok(Some(Item::Begin(header))) => {
                    decoder.answer(wants(&header).then(|| vec![0; header.len as usize]));
                    items.push(Item::Begin(header));
                }
                Ok(Some(item)) => items.push(item),
                Ok(None) if rest.is_empty() => return (items, Ok(())),
                Ok(None) => {
                    let [first, second] = decoder.room();
                    assert!(!first.is_empty(), "nothing to yield and no room");
                    let piece = pieces.next().unwrap_or(1).clamp(1, first.len() + second.len()).min(rest.len());
                    let (here, behind) = rest[..piece].split_at(piece.min(first.len()));
                    first[..here.len()].copy_from_slice(here);
                    second[..behind.len()].copy_from_slice(behind);
                    rest = &rest[piece..];
                    decoder.filled(piece);
                }
                Err(error) => return (items, Err(error)),
            }
            assert!(decoder.small.capacity() <= MAX_CONTROL);
            if let State::Payload { into: Into::Scratch(scratch), .. } = &decoder.state {
                assert!(scratch.capacity() <= SCRATCH);
            }
        }
    }

    /// A stream of small frames, frames of a later version, and blocks of these lengths.
    fn stream(lens: &[usize]) -> Vec<u8> {
        let mut bytes = preamble().to_vec();
        for (len, offset) in lens.iter().zip(0u64..) {
            let payload: Vec<u8> = (0..*len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut encoder = Encoder::<Vec<u8>>::default();
            encoder.frame(&Frame::Ack(Ack { delivered: 0, received: 1, credit: 2, frames: offset }));
            encoder.data(offset, crc32fast::hash(&payload), payload);
            let [small, block] = encoder.rest();
            bytes.extend([small, block].concat());
            let later = Header { kind: Kind::Unknown(77), len: 3, arg: 0, body_crc: crc32fast::hash(b"abc") };
            bytes.extend(later.encode().iter().chain(b"abc"));
        }
        Frame::Bye.encode(&mut bytes);
        bytes
    }

    #[test]
    fn payload_is_handed_back_whole_or_read_past() {
        let bytes = stream(&[5, 100_000, 0]);
        let (items, end) = decode(&bytes, &[1 << 20], |header| header.len != 100_000);
        assert_eq!(end, Ok(()));
        let data = |item: &Item<Vec<u8>>| match item {
            Item::Data(header, buffer) => Some((header.len, buffer.clone())),
            _ => None,
        };
        let data: Vec<_> = items.iter().filter_map(data).collect();
        assert_eq!(data, [(5, Some(vec![0, 1, 2, 3, 4])), (100_000, None), (0, Some(Vec::new()))]);
        assert_eq!(items.iter().filter(|item| **item == Item::Unknown(77)).count(), 3);
        assert_eq!(items.last(), Some(&Item::Frame(Frame::Bye)));
    }

    #[test]
    fn damage_is_noticed_in_payload_that_is_wanted_and_in_payload_that_is_not() {
        let mut bytes = stream(&[5000]);
        bytes[PREAMBLE_LEN + 2 * HEADER_LEN + 24 + 17] ^= 1;
        for wanted in [true, false] {
            assert_eq!(decode(&bytes, &[999], |_| wanted).1, Err(WireError::BodyChecksum), "{wanted}");
        }
    }

    #[test]
    fn the_end_is_orderly_between_frames_only() {
        let mut decoder = Decoder::<Vec<u8>>::default();
        assert!(!decoder.is_between_frames(), "not even a preamble");
        for (at, byte) in stream(&[]).into_iter().enumerate() {
            decoder.room()[0][0] = byte;
            decoder.filled(1);
            while decoder.poll().unwrap().is_some() {}
            assert_eq!(decoder.is_between_frames(), at + 1 == PREAMBLE_LEN || at + 1 == PREAMBLE_LEN + HEADER_LEN);
        }
    }

    #[test]
    fn a_buffer_of_another_length_is_none_and_an_answer_unasked_changes_nothing() {
        let bytes = stream(&[8]);
        let mut decoder = Decoder::default();
        decoder.answer(Some(vec![0; 3]));
        let mut items = Vec::new();
        for byte in bytes {
            decoder.room()[0][0] = byte;
            decoder.filled(1);
            while let Some(item) = decoder.poll().unwrap() {
                if matches!(item, Item::Begin(_)) {
                    decoder.answer(Some(vec![0; 3]));
                }
                items.push(item);
            }
        }
        assert!(items.iter().any(|item| matches!(item, Item::Data(_, None))));
    }

    proptest! {
        #[test]
        fn any_split_yields_the_same(
            lens in proptest::collection::vec(prop_oneof![0usize..300, 60_000usize..140_000], 0..4),
            pieces in proptest::collection::vec(prop_oneof![1usize..40, 1usize..200_000], 1..20),
            wanted: u64,
        ) {
            let bytes = stream(&lens);
            let wants = |header: &Header| wanted >> (header.arg % 64) & 1 == 1;
            let whole = decode(&bytes, &[usize::MAX], wants);
            prop_assert_eq!(&whole.1, &Ok(()));
            prop_assert_eq!(whole.0.len(), lens.len() * 4 + 1);
            prop_assert_eq!(decode(&bytes, &pieces, wants), whole);
        }

        #[test]
        fn arbitrary_bytes_fail_alike_in_any_split(
            begun: bool,
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            pieces in proptest::collection::vec(1usize..50, 1..20),
        ) {
            let bytes = if begun { [&preamble()[..], &noise].concat() } else { noise };
            prop_assert_eq!(decode(&bytes, &pieces, |_| true), decode(&bytes, &[usize::MAX], |_| true));
        }

        #[test]
        fn a_damaged_stream_fails_alike_in_any_split(
            at: proptest::sample::Index,
            bit in 0u8..8,
            pieces in proptest::collection::vec(1usize..5000, 1..20),
            wanted: bool,
        ) {
            let mut bytes = stream(&[300, 0, 7]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let split = decode(&bytes, &pieces, |_| wanted);
            prop_assert!(split.1.is_err());
            prop_assert_eq!(split, decode(&bytes, &[usize::MAX], |_| wanted));
        }

        #[test]
        fn lengths_that_a_header_claims_reserve_no_more_than_the_limits(kind: u8, len: u32, wanted: bool) {
            let header = Header { kind: Kind::from_wire(kind), len, arg: 0, body_crc: 0 };
            let bytes = [&preamble()[..], &header.encode(), &[0; 100]].concat();
            let (items, _) = decode(&bytes, &[64], |_| wanted);
            prop_assert!(items.iter().all(|item| !matches!(item, Item::Begin(header) if header.len > 1 << 20)));
        }
    }
}
