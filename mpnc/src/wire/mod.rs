//! The wire, version 2: what one stream carries, byte for byte.
//!
//! Pure: bytes in, meaning out. It must not know sockets, clocks, sessions or which side it is on. Of bonds it knows
//! the words only.
//!
//! Every stream is one TCP connection. Each side begins with an eight-byte [`preamble`]; after it there are only
//! frames: a [`Header`] of [`HEADER_LEN`] bytes, then `len` bytes of body. All numbers are big-endian.
//!
//! ```text
//!  0      1       2          4            8                  16             20             24
//!  | kind | flags | reserved | len (u32)  | arg (u64)        | CRC-32 body  | CRC-32 head  | body ...
//! ```
//!
//! | kind | sent by | `arg` | body |
//! |---|---|---|---|
//! | Hello | connector, first | stream number | [`Hello`] |
//! | Welcome | listener, first | 0 | [`Welcome`] |
//! | Data | sender | offset of the payload in the whole transfer | payload |
//! | Ack | receiver | delivered: bytes written to the output | [`Ack`] |
//! | End | sender | total length of the transfer | CRC-32 of the whole transfer (u32) |
//! | Done | receiver | total length: all of it is written | none |
//! | Bye | both | 0 | none: this side has nothing left to say |
//! | Error | both | code | text for a person |
//! | Ping, Pong | both | token, returned as it came | none |
//! | Observation | both | slave (interface index) | [`Observation`] |
//! | Bond | listener | its number, from 1 | its bond is another now, as in a Welcome |
//! | Retire | both | 0 | none: no more data on this stream; close it when it is drained |
//!
//! The header has a checksum of its own, because a damaged length would desynchronise the stream. A frame of unknown
//! kind is skipped by its length, an extension of unknown type too, and what stands behind the fields that are known
//! here is passed over: so a later version of the same major number can say more. What a peer says is checked here
//! once; numbers that decide anything become types that hold no nonsense ([`SlaveCount`], [`Place`], [`StreamId`]). A
//! stream whose bytes do not check is closed as a whole and its blocks are sent again over others.

mod addresses;
mod decoder;
mod encoder;
mod facts;
mod frame;
mod hello;
mod observation;
mod read;
mod text;

pub use addresses::Addresses;
pub use decoder::{Decoder, Item, SCRATCH};
pub use encoder::Encoder;
pub use facts::{BondFacts, Place, SlaveCount, Slaves};
pub use frame::{Ack, Fault, Frame, Header, Kind};
pub use hello::{Directions, Hello, Refusal, SessionId, StreamId, Verdict, Welcome};
pub use observation::{Means, Observation};
pub use text::printable;

/// Major version: peers whose major versions differ do not talk.
pub const VERSION: u8 = 2;
/// Length of the preamble in bytes.
pub const PREAMBLE_LEN: usize = 8;
/// Length of a frame header in bytes.
pub const HEADER_LEN: usize = 24;
/// Longest body of any frame but Data, in bytes: larger than the largest one defined, small enough to buffer per
/// stream.
pub const MAX_CONTROL: usize = 4096;
/// Smallest and largest payload capacity of a Data frame that a peer may announce, in bytes. Below 4 KiB the
/// bookkeeping of a block outweighs its bytes; above 16 MiB a single block would hold a stream for too long.
pub const BLOCK_RANGE: std::ops::RangeInclusive<u32> = 4 << 10..=16 << 20;
/// Longest text in an Error or a refusal, in bytes.
pub const MAX_TEXT: usize = 1024;

/// The seven bytes that say "mpnc" (the high bit catches 7-bit links, CR LF catches line-ending translation, as PNG's
/// does).
const MAGIC: [u8; 7] = *b"\x89mpnc\r\n";
/// Magic and version together.
const PREAMBLE: [u8; PREAMBLE_LEN] = *b"\x89mpnc\r\n\x02";
const _: () = assert!(PREAMBLE[PREAMBLE_LEN - 1] == VERSION, "the preamble ends with the version");

/// The bytes that open every stream, from each side: magic and major version.
#[must_use]
pub const fn preamble() -> [u8; PREAMBLE_LEN] {
    PREAMBLE
}

/// Reads a preamble.
///
/// # Errors
/// [`WireError::NotMpnc`] if the magic is not there, [`WireError::Version`] if it is of another major version.
pub fn check_preamble(bytes: &[u8; PREAMBLE_LEN]) -> Result<(), WireError> {
    let [magic @ .., version] = bytes;
    if *magic != MAGIC {
        return Err(WireError::NotMpnc(*bytes));
    }
    if *version != VERSION {
        return Err(WireError::Version(*version));
    }
    Ok(())
}

/// What can be wrong with bytes that came from a peer. All of it is the peer's (or the path's) fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not mpnc's.
    #[error("the peer does not speak mpnc (its first bytes were \"{}\")", .0.escape_ascii())]
    NotMpnc([u8; PREAMBLE_LEN]),
    /// The peer is mpnc, of another major version.
    #[error(
        "the peer speaks version {0} of the mpnc protocol, this is version {VERSION}: use the same release on both \
         sides"
    )]
    Version(u8),
    /// A frame header whose checksum does not match.
    #[error("a frame header arrived damaged (checksum mismatch)")]
    HeaderChecksum,
    /// A frame body whose checksum does not match.
    #[error("a frame arrived damaged (checksum mismatch)")]
    BodyChecksum,
    /// A length above the limit for its kind.
    #[error("a frame of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// The length claimed, in bytes.
        len: u32,
        /// The limit for this kind, in bytes.
        limit: u32,
    },
    /// A body that ends before its fields do, or has a field out of range.
    #[error("a malformed {0} frame")]
    Malformed(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preamble_of_this_version_is_accepted() {
        assert_eq!(check_preamble(&preamble()), Ok(()));
    }

    #[test]
    fn http_is_not_mpnc() {
        let error = check_preamble(b"HTTP/1.1").unwrap_err();
        assert_eq!(error, WireError::NotMpnc(*b"HTTP/1.1"));
        assert!(error.to_string().contains("HTTP/1.1"));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = preamble();
        bytes[7] = 9;
        assert_eq!(check_preamble(&bytes), Err(WireError::Version(9)));
    }
}
