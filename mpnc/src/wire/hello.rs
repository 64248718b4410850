//! The first frame of each side: who is calling, for which session, in which direction, and the answer.

use super::read::{Reader, put_ip};
use super::text::{cut, printable};
use super::{Addresses, BLOCK_RANGE, BondFacts, WireError};
use std::fmt;
use std::net::SocketAddr;

/// 128 random bits that name a session. All its streams carry them; nobody can guess them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    /// The first four bytes: enough to tell sessions apart in a log, too little to join one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a stream within its session. The connector counts them up; a replacement gets a new number. On the wire it
/// has 64 bits, of which no version uses more than these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// Which way data flows, seen from the connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// The connector sends (the default).
    Send,
    /// The listener sends (`--reverse`).
    Receive,
    /// Both send (`--duplex`).
    Both,
    /// Both send, and nobody's data: a check of the way (`--doctor`). A listener that waits for data refuses it, and
    /// loses nothing.
    Check,
}

impl Directions {
    /// Whether the connector sends.
    pub fn connector_sends(self) -> bool {
        self != Self::Receive
    }

    /// Whether the listener sends.
    pub fn listener_sends(self) -> bool {
        self != Self::Send
    }

    /// The words a refusal uses, with the option that asks for it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Send => "from connector to listener (no option)",
            Self::Receive => "from listener to connector (--reverse)",
            Self::Both => "both ways (--duplex)",
            Self::Check => "for a check of the way (--doctor)",
        }
    }

    fn from_wire(bits: u8) -> Option<Self> {
        [Self::Send, Self::Receive, Self::Both, Self::Check].into_iter().find(|d| d.to_wire() == bits)
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Send => 1,
            Self::Receive => 2,
            Self::Both => 3,
            // Both ways, and a bit of its own.
            Self::Check => 7,
        }
    }
}

/// The connector's first frame on every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Number of this stream in its session; a replaced stream gets a new one.
    pub stream: StreamId,
    /// Which session it belongs to.
    pub session: SessionId,
    /// Which way data flows.
    pub directions: Directions,
    /// Whether the connector has been welcomed into this session before: then a listener that does not know it must
    /// refuse.
    pub established: bool,
    /// Bytes that the connector can hold for reordering.
    pub window: u64,
    /// Largest payload it will send in a Data frame, in bytes.
    pub block: u32,
    /// The connector's bond, if it knows one.
    pub bond: Option<BondFacts>,
}

/// Why a listener refuses a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another session is under way.
    Busy,
    /// The two ends disagree about who sends.
    Directions,
    /// The session is over, or was never here.
    NoSuchSession,
    /// This address may not connect.
    NotAllowed,
    /// The hello asks for something out of range.
    BadRequest,
    /// A reason of a later version.
    Other(u16),
}

impl Refusal {
    const WIRE: [(u16, Self); 5] = [
        (1, Self::Busy),
        (2, Self::Directions),
        (3, Self::NoSuchSession),
        (4, Self::NotAllowed),
        (5, Self::BadRequest),
    ];

    fn from_wire(code: u16) -> Self {
        Self::WIRE.iter().find(|(n, _)| *n == code).map_or(Self::Other(code), |(_, refusal)| *refusal)
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => Self::WIRE.iter().find(|(_, refusal)| *refusal == known).map_or(0, |(n, _)| *n),
        }
    }
}

/// Whether a stream is taken into the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Accepted,
    /// It is not, and why, in words that a person can act on.
    Refused(Refusal, String),
}

/// The listener's first frame on every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Taken or refused.
    pub verdict: Verdict,
    /// Bytes that the listener can hold for reordering.
    pub window: u64,
    /// Largest payload it will send in a Data frame, in bytes.
    pub block: u32,
    /// The connector's address and port as the listener sees them: how address translation is found.
    pub seen: SocketAddr,
    /// The listener's bond, if it knows one.
    pub bond: Option<BondFacts>,
    /// Its further addresses on the interface that the connection came in on, where the same port is open.
    pub addresses: Addresses,
}

/// Extensions: type (u16), length (u16), value. Unknown types are skipped, so later versions can say more.
const EXT_BOND: u16 = 1;
const EXT_ADDRESSES: u16 = 2;
const ESTABLISHED: u8 = 1;

/// What extensions say.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) bond: Option<BondFacts>,
    addresses: Addresses,
}

pub(super) fn put_bond(out: &mut Vec<u8>, bond: Option<BondFacts>) {
    let Some(bond) = bond else { return };
    let mut value = Vec::new();
    bond.encode(&mut value);
    put_extension(out, EXT_BOND, &value);
}

fn put_extension(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    // At most some dozen bytes.
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(value);
}

pub(super) fn take_extensions(reader: &mut Reader<'_>, what: &'static str) -> Result<Extensions, WireError> {
    let mut told = Extensions::default();
    while !reader.is_empty() {
        let (kind, len) = (reader.u16()?, reader.u16()?);
        let value = reader.take(usize::from(len))?;
        match kind {
            EXT_BOND => told.bond = Some(BondFacts::decode(value, what)?),
            EXT_ADDRESSES => told.addresses = Addresses::decode(value, what)?,
            _ => {}
        }
    }
    Ok(told)
}

fn take_block(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    let block = reader.u32()?;
    BLOCK_RANGE.contains(&block).then_some(block).ok_or_else(|| reader.malformed())
}

impl Hello {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.session.0);
        out.push(self.directions.to_wire());
        out.push(if self.established { ESTABLISHED } else { 0 });
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.block.to_be_bytes());
        put_bond(out, self.bond);
    }

    pub(super) fn decode(stream: u64, body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "Hello");
        Ok(Self {
            stream: StreamId(u32::try_from(stream).map_err(|_| reader.malformed())?),
            session: SessionId(reader.array()?),
            directions: Directions::from_wire(reader.u8()?).ok_or_else(|| reader.malformed())?,
            established: reader.u8()? & ESTABLISHED != 0,
            window: reader.u64()?,
            block: take_block(&mut reader)?,
            bond: take_extensions(&mut reader, "Hello")?.bond,
        })
    }
}

impl Welcome {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let (code, text) = match &self.verdict {
            Verdict::Accepted => (0, ""),
            Verdict::Refused(refusal, text) => (refusal.to_wire(), cut(text)),
        };
        out.extend_from_slice(&code.to_be_bytes());
        // `cut` keeps the text within MAX_TEXT, which fits.
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.block.to_be_bytes());
        put_ip(out, self.seen.ip());
        out.extend_from_slice(&self.seen.port().to_be_bytes());
        put_bond(out, self.bond);
        if !self.addresses.is_empty() {
            let mut value = Vec::new();
            self.addresses.encode(&mut value);
            put_extension(out, EXT_ADDRESSES, &value);
        }
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "Welcome");
        let code = reader.u16()?;
        let len = reader.u16()?;
        let text = printable(reader.take(usize::from(len))?);
        let verdict = if code == 0 { Verdict::Accepted } else { Verdict::Refused(Refusal::from_wire(code), text) };
        let (window, block) = (reader.u64()?, take_block(&mut reader)?);
        let seen = SocketAddr::new(reader.ip()?, reader.u16()?);
        let Extensions { bond, addresses } = take_extensions(&mut reader, "Welcome")?;
        Ok(Self { verdict, window, block, seen, bond, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            stream: StreamId(5),
            session: SessionId([7; 16]),
            directions: Directions::Both,
            established: true,
            window: 64 << 20,
            block: 256 << 10,
            bond: Some(crate::wire::facts::tests::lacp()),
        }
    }

    fn welcome(verdict: Verdict, seen: &str) -> Welcome {
        let addresses = Addresses::new(["fe80::1".parse().unwrap(), "10.1.2.4".parse().unwrap()]);
        Welcome { verdict, window: 1 << 20, block: 4096, seen: seen.parse().unwrap(), bond: None, addresses }
    }

    #[test]
    fn hello_survives_the_wire() {
        let mut body = Vec::new();
        hello().encode(&mut body);
        assert_eq!(Hello::decode(5, &body), Ok(hello()));
    }

    #[test]
    fn welcome_survives_the_wire_in_both_families() {
        for seen in ["10.1.2.3:30001", "[fd00::1]:30001"] {
            let sent = welcome(Verdict::Refused(Refusal::Busy, "one session at a time".into()), seen);
            let mut body = Vec::new();
            sent.encode(&mut body);
            assert_eq!(Welcome::decode(&body), Ok(sent));
        }
    }

    #[test]
    fn extensions_of_a_later_version_are_skipped() {
        let mut body = Vec::new();
        Hello { bond: None, ..hello() }.encode(&mut body);
        body.extend_from_slice(&[0, 99, 0, 2, 1, 2]);
        assert_eq!(Hello::decode(5, &body), Ok(Hello { bond: None, ..hello() }));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut body = Vec::new();
        hello().encode(&mut body);
        let fixed = 16 + 1 + 1 + 8 + 4;
        for len in (0..body.len()).filter(|len| *len != fixed) {
            assert!(Hello::decode(5, &body[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_block_size_out_of_range_is_an_error() {
        let mut body = Vec::new();
        Hello { block: 1, ..hello() }.encode(&mut body);
        assert_eq!(Hello::decode(5, &body), Err(WireError::Malformed("Hello")));
    }

    #[test]
    fn a_stream_number_has_32_bits() {
        let mut body = Vec::new();
        hello().encode(&mut body);
        assert_eq!(Hello::decode(1 << 32, &body), Err(WireError::Malformed("Hello")));
        assert_eq!(Hello::decode(u64::from(u32::MAX), &body).unwrap().stream, StreamId(u32::MAX));
    }

    #[test]
    fn a_session_id_shows_only_its_beginning() {
        assert_eq!(SessionId([0xab; 16]).to_string(), "abababab");
    }
}
