//! What one end sees of where a stream arrives.

use super::read::Reader;
use super::{Place, WireError};
use std::num::NonZeroU32;

/// How the slave is known on which a stream arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Means {
    /// The end that knows is of a later version, and knows by other means.
    #[default]
    Other,
    /// By the receive queue that the kernel remembers for the socket (NAPI id).
    Queue,
    /// By the kernel's own count of its packets on each slave.
    Observer,
    /// Worked out from the slaves' receive counters.
    Counters,
}

impl Means {
    const WIRE: [(u16, Self); 3] = [(1, Self::Queue), (2, Self::Observer), (3, Self::Counters)];

    /// One word for machines.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Queue => "queue",
            Self::Observer => "observer",
            Self::Counters => "counters",
        }
    }

    fn from_wire(number: u16) -> Self {
        Self::WIRE.iter().find(|(n, _)| *n == number).map_or(Self::Other, |(_, means)| *means)
    }

    fn to_wire(self) -> u16 {
        Self::WIRE.iter().find(|(_, means)| *means == self).map_or(0, |(n, _)| *n)
    }
}

/// The slave on which one end sees the packets of a stream arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Its interface index on that host.
    pub ifindex: Option<NonZeroU32>,
    /// Its place in that host's bond; `None` where it has none, or the device is none of its usable slaves.
    pub place: Option<Place>,
    /// How it is known.
    pub by: Means,
}

/// Position of a slave that is none.
const NOWHERE: u16 = u16::MAX;

impl Observation {
    pub(super) fn encode(self, out: &mut Vec<u8>) -> u64 {
        let (slave, of) = self.place.map_or((NOWHERE, 0), |place| (place.slave(), place.of().into()));
        for field in [slave, of, self.by.to_wire()] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        self.ifindex.map_or(0, |ifindex| ifindex.get().into())
    }

    /// What a peer says decides how many streams are opened: a place that cannot be is no mistake to be lenient about.
    pub(super) fn decode(ifindex: u64, body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body, "Observation");
        let ifindex = u32::try_from(ifindex).map_err(|_| reader.malformed())?;
        let (slave, of) = (reader.u16()?, reader.u16()?);
        let place = match (slave, of) {
            (NOWHERE, _) | (_, 0) => None,
            (slave, of) => Some(Place::new(slave.into(), of.into()).ok_or_else(|| reader.malformed())?),
        };
        Ok(Self { ifindex: NonZeroU32::new(ifindex), place, by: Means::from_wire(reader.u16()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(fields: [u16; 3]) -> Result<Observation, WireError> {
        Observation::decode(3, &fields.map(u16::to_be_bytes).concat())
    }

    #[test]
    fn a_place_that_cannot_be_is_malformed() {
        for (slave, of) in [(0, 60_000), (0, 256), (2, 2), (60_000, 60_000), (255, 255), (NOWHERE - 1, NOWHERE)] {
            assert_eq!(decode([slave, of, 1]), Err(WireError::Malformed("Observation")), "{slave} of {of}");
        }
        let last = decode([254, 255, 1]).unwrap();
        assert_eq!((last.place, last.by), (Place::new(254, 255), Means::Queue));
    }

    #[test]
    fn what_is_unknown_is_said_to_be() {
        for (slave, of) in [(NOWHERE, 0), (NOWHERE, 4), (NOWHERE, 60_000), (0, 0)] {
            assert_eq!(decode([slave, of, 9]).map(|seen| (seen.place, seen.by)), Ok((None, Means::Other)));
        }
    }

    #[test]
    fn an_interface_index_has_32_bits() {
        assert_eq!(Observation::decode(1 << 32, &[0; 6]), Err(WireError::Malformed("Observation")));
        assert_eq!(Observation::decode(0, &[0; 6]).unwrap().ifindex, None);
    }
}
