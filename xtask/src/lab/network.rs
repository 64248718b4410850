//! A topology that stands: either kind, behind one set of questions.

use anyhow::Result;

use super::bonded::Bonded;
use super::netns::Namespace;
use super::stand_in::StandIn;
use super::topology::{Place, Topology};
use super::units::BitRate;

/// A network that was built from a description; gone when dropped.
#[derive(Debug)]
pub enum Network {
    /// Real bonds.
    Bonded(Box<Bonded>),
    /// Classes of traffic instead of slaves.
    StandIn(StandIn),
}

impl Network {
    /// Builds real bonds, or with `native` the stand-in.
    ///
    /// # Errors
    /// When a tool fails or the description does not fit.
    pub fn build(topology: &Topology, native: bool) -> Result<Self> {
        super::netns::remove_stale()?;
        let network = if native {
            Self::StandIn(StandIn::build(topology)?)
        } else {
            Self::Bonded(Box::new(Bonded::build(topology)?))
        };
        Ok(network)
    }

    /// The namespace of a place; the stand-in has no switch and gives the first host's instead.
    pub fn namespace(&self, place: Place) -> &Namespace {
        match self {
            Self::Bonded(bonded) => bonded.namespace(place),
            Self::StandIn(stand_in) => stand_in.namespace(place),
        }
    }

    /// (sent, received) bytes of each slave of a host, in the slaves' order.
    ///
    /// # Errors
    /// When counters cannot be read.
    pub fn counters(&self, place: Place) -> Result<Vec<(u64, u64)>> {
        match self {
            Self::Bonded(bonded) => bonded.counters(place),
            Self::StandIn(stand_in) => stand_in.counters(place),
        }
    }

    /// Sets the rate of one link (counted from 0), in both directions.
    ///
    /// # Errors
    /// When `tc` fails.
    pub fn set_rate(&self, slave: usize, rate: BitRate) -> Result<()> {
        match self {
            Self::Bonded(bonded) => bonded.set_rate(slave, rate),
            Self::StandIn(stand_in) => stand_in.set_rate(slave, rate),
        }
    }
}
