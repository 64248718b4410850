//! The digest of one direction, for people and for `b3sum`. Knows nothing else.

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

impl Digest {
    pub(super) fn of(hasher: &blake3::Hasher, sent: bool, name: &str) -> Self {
        Self { sent, name: name.to_owned(), hex: hasher.finalize().to_hex().to_string() }
    }
}
