//! Frame headers and the small frames: encode and decode, checksums included.

use super::hello::{put_bond, take_extensions};
use super::read::Reader;
use super::text::{cut, printable};
use super::{BLOCK_RANGE, BondFacts, HEADER_LEN, Hello, MAX_CONTROL, Observation, Welcome, WireError};

/// What a frame is. Numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table in the module documentation describes each kind once")]
pub enum Kind {
    Hello,
    Welcome,
    Data,
    Ack,
    End,
    Done,
    Bye,
    Error,
    Ping,
    Pong,
    Observation,
    Retire,
    Bond,
    /// A kind of a later minor version: to be skipped by its length.
    Unknown(u8),
}

/// Wire number of each known kind.
const KINDS: [(u8, Kind); 13] = [
    (1, Kind::Hello),
    (2, Kind::Welcome),
    (3, Kind::Data),
    (4, Kind::Ack),
    (5, Kind::End),
    (6, Kind::Done),
    (7, Kind::Bye),
    (8, Kind::Error),
    (9, Kind::Ping),
    (10, Kind::Pong),
    (11, Kind::Observation),
    (12, Kind::Retire),
    (13, Kind::Bond),
];

impl Kind {
    pub(super) fn from_wire(number: u8) -> Self {
        KINDS.iter().find(|(n, _)| *n == number).map_or(Self::Unknown(number), |(_, kind)| *kind)
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Unknown(number) => number,
            known => KINDS.iter().find(|(_, kind)| *kind == known).map_or(0, |(n, _)| *n),
        }
    }
}

/// The fixed part in front of every frame's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Length of the body in bytes.
    pub len: u32,
    /// The one number that most frames need; see the table of kinds.
    pub arg: u64,
    /// CRC-32 (IEEE 802.3) of the body.
    pub body_crc: u32,
}

impl Header {
    /// The header's bytes, its own checksum last.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind.to_wire();
        bytes[4..8].copy_from_slice(&self.len.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.arg.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.body_crc.to_be_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a header and checks its length against the limit for its kind, `max_block` for Data.
    ///
    /// # Errors
    /// [`WireError::HeaderChecksum`] or [`WireError::TooLong`]; no memory has been touched for the body then.
    pub fn decode(bytes: &[u8; HEADER_LEN], max_block: u32) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, "header");
        let kind = Kind::from_wire(reader.u8()?);
        let _flags = reader.u8()?;
        let _reserved = reader.u16()?;
        let header = Self { kind, len: reader.u32()?, arg: reader.u64()?, body_crc: reader.u32()? };
        if reader.u32()? != crc32fast::hash(&bytes[..20]) {
            return Err(WireError::HeaderChecksum);
        }
        let limit = match kind {
            Kind::Data => max_block.min(*BLOCK_RANGE.end()),
            _ => u32::try_from(MAX_CONTROL).unwrap_or(u32::MAX),
        };
        if header.len > limit {
            return Err(WireError::TooLong { len: header.len, limit });
        }
        Ok(header)
    }
}

/// What the receiver tells the sender about one stream and the whole transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// Bytes written to the output, from the start, without a gap.
    pub delivered: u64,
    /// Bytes received and checked, from the start, without a gap. Never less than `delivered`.
    pub received: u64,
    /// The sender may send bytes below this offset.
    pub credit: u64,
    /// Data frames of this stream received and checked so far. A stream is in order, so this names each of them.
    pub frames: u64,
}

/// Why a side gives up, as it tells its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Machine-readable cause; see [`Fault::INPUT`] and its neighbours.
    pub code: u64,
    /// One line for a person.
    pub text: String,
}

impl Fault {
    /// Reading the input failed.
    pub const INPUT: u64 = 1;
    /// Writing the output failed.
    pub const OUTPUT: u64 = 2;
    /// A person or a supervisor ended the process.
    pub const INTERRUPTED: u64 = 3;
    /// The other side broke the protocol.
    pub const PROTOCOL: u64 = 4;
    /// The other side fell silent.
    pub const SILENT: u64 = 5;
    /// What was written is not what was sent.
    pub const CHECKSUM: u64 = 6;

    /// A fault with its text cut to what a frame may hold.
    #[must_use]
    pub fn new(code: u64, text: &str) -> Self {
        Self { code, text: cut(text).to_owned() }
    }
}

/// A whole frame that is not Data (whose payload never passes through here).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table in the module documentation describes each kind once")]
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    Ack(Ack),
    End { total: u64, crc: u32 },
    Done { total: u64 },
    Bye,
    Error(Fault),
    Ping { token: u64 },
    Pong { token: u64 },
    Observation(Observation),
    Retire,
    Bond { serial: u64, bond: BondFacts },
}

impl Frame {
    /// Appends header and body to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let (kind, arg) = self.encode_body(&mut body);
        let header =
            Header { kind, len: u32::try_from(body.len()).unwrap_or(u32::MAX), arg, body_crc: crc32fast::hash(&body) };
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(&body);
    }

    fn encode_body(&self, body: &mut Vec<u8>) -> (Kind, u64) {
        match self {
            Self::Hello(hello) => {
                hello.encode(body);
                (Kind::Hello, u64::from(hello.stream.0))
            }
            Self::Welcome(welcome) => {
                welcome.encode(body);
                (Kind::Welcome, 0)
            }
            Self::Ack(ack) => {
                for field in [ack.received, ack.credit, ack.frames] {
                    body.extend_from_slice(&field.to_be_bytes());
                }
                (Kind::Ack, ack.delivered)
            }
            Self::End { total, crc } => {
                body.extend_from_slice(&crc.to_be_bytes());
                (Kind::End, *total)
            }
            Self::Done { total } => (Kind::Done, *total),
            Self::Bye => (Kind::Bye, 0),
            Self::Error(fault) => {
                body.extend_from_slice(cut(&fault.text).as_bytes());
                (Kind::Error, fault.code)
            }
            Self::Ping { token } => (Kind::Ping, *token),
            Self::Pong { token } => (Kind::Pong, *token),
            Self::Observation(seen) => (Kind::Observation, seen.encode(body)),
            Self::Retire => (Kind::Retire, 0),
            Self::Bond { serial, bond } => {
                put_bond(body, Some(*bond));
                (Kind::Bond, *serial)
            }
        }
    }

    /// Reads the body of a frame; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// [`WireError::BodyChecksum`] or [`WireError::Malformed`].
    pub fn decode(header: &Header, body: &[u8]) -> Result<Option<Self>, WireError> {
        if header.body_crc != crc32fast::hash(body) {
            return Err(WireError::BodyChecksum);
        }
        Ok(Some(match header.kind {
            Kind::Hello => Self::Hello(Hello::decode(header.arg, body)?),
            Kind::Welcome => Self::Welcome(Welcome::decode(body)?),
            Kind::Ack => Self::Ack(decode_ack(header.arg, body)?),
            Kind::End => Self::End { total: header.arg, crc: Reader::new(body, "End").u32()? },
            Kind::Done => Self::Done { total: header.arg },
            Kind::Bye => Self::Bye,
            Kind::Error => Self::Error(Fault { code: header.arg, text: printable(body) }),
            Kind::Ping => Self::Ping { token: header.arg },
            Kind::Pong => Self::Pong { token: header.arg },
            Kind::Observation => Self::Observation(Observation::decode(header.arg, body)?),
            Kind::Retire => Self::Retire,
            Kind::Bond => decode_bond(header.arg, body)?,
            Kind::Data => return Err(WireError::Malformed("Data")),
            Kind::Unknown(_) => return Ok(None),
        }))
    }
}

fn decode_ack(delivered: u64, body: &[u8]) -> Result<Ack, WireError> {
    let mut reader = Reader::new(body, "Ack");
    let ack = Ack { delivered, received: reader.u64()?, credit: reader.u64()?, frames: reader.u64()? };
    if ack.received < ack.delivered || ack.credit < ack.delivered {
        return Err(reader.malformed());
    }
    Ok(ack)
}

fn decode_bond(serial: u64, body: &[u8]) -> Result<Frame, WireError> {
    let bond = take_extensions(&mut Reader::new(body, "Bond"), "Bond")?.bond;
    Ok(Frame::Bond { serial, bond: bond.ok_or(WireError::Malformed("Bond"))? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Means, Place};
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn round_trip(frame: &Frame) -> Option<Frame> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let (head, body) = bytes.split_first_chunk().unwrap();
        let header = Header::decode(head, *BLOCK_RANGE.end()).unwrap();
        assert_eq!(header.len as usize, body.len());
        Frame::decode(&header, body).unwrap()
    }

    #[test]
    fn every_small_frame_survives_the_wire() {
        for frame in [
            Frame::Ack(Ack { delivered: 1, received: 2, credit: u64::MAX, frames: 3 }),
            Frame::End { total: 1 << 50, crc: 0x1234_5678 },
            Frame::Done { total: 0 },
            Frame::Bye,
            Frame::Error(Fault::new(Fault::OUTPUT, "no space left on device")),
            Frame::Ping { token: 7 },
            Frame::Pong { token: u64::MAX },
            Frame::Observation(Observation { ifindex: NonZeroU32::new(3), place: Place::new(1, 4), by: Means::Queue }),
            Frame::Retire,
            Frame::Bond { serial: 7, bond: crate::wire::facts::tests::lacp() },
        ] {
            assert_eq!(round_trip(&frame), Some(frame));
        }
    }

    #[test]
    fn an_unknown_kind_is_skipped_not_refused() {
        let header = Header { kind: Kind::Unknown(200), len: 3, arg: 0, body_crc: crc32fast::hash(b"abc") };
        let read = Header::decode(&header.encode(), 4096).unwrap();
        assert_eq!(read.kind, Kind::Unknown(200));
        assert_eq!(Frame::decode(&read, b"abc"), Ok(None));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_memory() {
        let data = Header { kind: Kind::Data, len: 8193, arg: 0, body_crc: 0 };
        assert_eq!(Header::decode(&data.encode(), 8192), Err(WireError::TooLong { len: 8193, limit: 8192 }));
        let ack = Header { kind: Kind::Ack, len: 4097, arg: 0, body_crc: 0 };
        assert_eq!(Header::decode(&ack.encode(), 1 << 20), Err(WireError::TooLong { len: 4097, limit: 4096 }));
    }

    #[test]
    fn text_from_a_peer_cannot_move_the_cursor() {
        let fault = Frame::Error(Fault { code: 1, text: "a\x1b[2Jb\nc".into() });
        assert_eq!(round_trip(&fault), Some(Frame::Error(Fault { code: 1, text: "a [2Jb c".into() })));
    }

    proptest! {
        #[test]
        fn any_flipped_bit_of_a_header_is_noticed(bit in 0..HEADER_LEN * 8, len in 0u32..4096, arg: u64) {
            let mut bytes = Header { kind: Kind::Ack, len, arg, body_crc: 5 }.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::decode(&bytes, 1 << 20), Err(WireError::HeaderChecksum));
        }

        #[test]
        fn arbitrary_bodies_never_panic(
            kind in 0u8..16, arg: u64, body in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let header = Header {
                kind: Kind::from_wire(kind),
                len: u32::try_from(body.len()).unwrap(),
                arg,
                body_crc: crc32fast::hash(&body),
            };
            let _ = Frame::decode(&header, &body);
        }
    }
}
