//! What one end tells of the bond that it transmits on, so that the other can compute its choice of slave.
//!
//! Every number of a peer becomes a type here that cannot hold nonsense. Numbers that a later version may add (a mode,
//! a policy, a formula) read as unknown, and the rest counts; numbers that no version sends make the frame malformed.
//! Must not know what is planned by it.

use super::WireError;
use super::read::Reader;
use crate::bond::{AddressHash, ByteOrder, Era, Hashing, KernelHash, Mode, Policy, Stacking, Sway};
use std::num::NonZeroU8;

/// How many usable slaves a bond has: 1 to [`SlaveCount::MOST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlaveCount(NonZeroU8);

impl SlaveCount {
    /// The largest count that can be told. Bonds of more than eight are rare, and more streams than 64 are never
    /// opened.
    pub const MOST: u16 = 255;

    /// `None` for none, and for more than [`Self::MOST`].
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        u8::try_from(count).ok().and_then(NonZeroU8::new).map(Self)
    }
}

impl From<SlaveCount> for u16 {
    fn from(count: SlaveCount) -> Self {
        count.0.get().into()
    }
}

impl From<SlaveCount> for usize {
    fn from(count: SlaveCount) -> Self {
        count.0.get().into()
    }
}

impl std::fmt::Display for SlaveCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A slave, by its position among the usable ones of its bond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    slave: u8,
    of: SlaveCount,
}

impl Place {
    /// `None` unless `slave` is less than `of`, and that a [`SlaveCount`].
    #[must_use]
    pub fn new(slave: usize, of: usize) -> Option<Self> {
        let (slave, of) = (u8::try_from(slave).ok()?, SlaveCount::new(of)?);
        (slave < of.0.get()).then_some(Self { slave, of })
    }

    /// The position, from 0; always less than [`of`](Self::of).
    #[must_use]
    pub fn slave(self) -> u16 {
        self.slave.into()
    }

    /// How many there are.
    #[must_use]
    pub fn of(self) -> SlaveCount {
        self.of
    }
}

/// The usable slaves of a bond, in the order that its hash counts them: how many, and how fast beside each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slaves {
    count: SlaveCount,
    /// The first `count` are theirs, none of them 0; all 1 where they are alike.
    relative: [u8; Self::MOST_UNLIKE],
}

impl Slaves {
    /// Bonds of more slaves are told as if these were alike: to be even over that many, it takes more streams than
    /// there may be.
    pub const MOST_UNLIKE: usize = 32;

    /// Slaves of one speed, or of speeds that nobody knows.
    #[must_use]
    pub fn alike(count: SlaveCount) -> Self {
        Self { count, relative: [1; Self::MOST_UNLIKE] }
    }

    /// Slaves of these speeds, in any unit; alike where one is 0 or there are too many. `None` for none, and for more
    /// than [`SlaveCount::MOST`]. What is told is their ratio, of at most 1 to 255.
    #[must_use]
    pub fn of_speeds(speeds: &[u32]) -> Option<Self> {
        let mut slaves = Self::alike(SlaveCount::new(speeds.len())?);
        if speeds.len() <= Self::MOST_UNLIKE && !speeds.contains(&0) {
            let unit = speeds.iter().copied().reduce(common_divisor).unwrap_or(1);
            // The fastest at 255, where the exact ratio does not fit.
            let most = u64::from(speeds.iter().max().copied().unwrap_or(1) / unit).max(255);
            for (relative, speed) in slaves.relative.iter_mut().zip(speeds) {
                *relative = u8::try_from(u64::from(speed / unit) * 255 / most).unwrap_or(u8::MAX).max(1);
            }
        }
        Some(slaves)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> SlaveCount {
        self.count
    }

    /// Relative capacity of each, by position; none is 0.
    #[must_use]
    pub fn weights(&self) -> Vec<u32> {
        let told = self.relative.iter().copied().map(u32::from).chain(std::iter::repeat(1));
        told.take(self.count.into()).collect()
    }

    /// What the wire says of their speeds; nothing where they are alike.
    fn unlike(&self) -> &[u8] {
        let told = self.relative.get(..self.count.into()).unwrap_or_default();
        if told.iter().all(|relative| *relative == 1) { &[] } else { told }
    }
}

impl std::fmt::Debug for Slaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.count)?;
        if self.unlike().is_empty() { Ok(()) } else { write!(f, " {:?}", self.unlike()) }
    }
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// What one end knows about the bond it transmits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondFacts {
    /// Its usable slaves.
    pub slaves: Slaves,
    /// `None` for a mode of a later version, and so on.
    pub mode: Option<Mode>,
    /// Its transmit hash policy.
    pub policy: Option<Policy>,
    /// What lies above it.
    pub stacking: Option<Stacking>,
    /// `tlb_dynamic_lb`: balance-tlb and -alb place flows by load, not by the hash.
    pub dynamic_lb: bool,
    /// The formula of the kernel that owns it, and the other one where that is in doubt.
    pub kernel: Option<KernelHash>,
    /// That host's byte order.
    pub order: ByteOrder,
    /// A program places what it sends, whatever the bond's hash is: streams are spread over its slaves by themselves.
    pub placed: bool,
}

impl BondFacts {
    /// What source ports decide there; `None` where something of it is unknown here.
    #[must_use]
    pub fn sway(&self) -> Option<Sway> {
        if self.placed {
            // As with a bond that takes the next slave for every packet: as many streams as slaves, from any ports.
            return Some(Sway::PerPacket);
        }
        Some(Sway::of_settings(self.mode?, self.policy?, self.dynamic_lb, self.stacking?))
    }

    /// Its hash, if it chooses by source ports and the formula is known here.
    #[must_use]
    pub fn hashing(&self) -> Option<Hashing> {
        let kernel = self.kernel.filter(|_| self.sway() == Some(Sway::Exact))?;
        Some(Hashing { kernel, order: self.order, weights: self.slaves.weights() })
    }

    /// Its hash, if it chooses by addresses and the formula is known here.
    #[must_use]
    pub fn address_hash(&self) -> Option<AddressHash> {
        let settings = Some((self.mode?, self.policy?, self.dynamic_lb)).filter(|_| !self.placed)?;
        AddressHash::of_settings(settings, self.stacking?, (self.kernel?, self.order), self.slaves.weights())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let era = |era: Option<Era>| era.and_then(|era| u8::try_from(era as u32).ok()).unwrap_or(UNKNOWN);
        let unlike = self.slaves.unlike();
        out.extend_from_slice(&[
            self.slaves.count.0.get(),
            self.mode.map_or(UNKNOWN, |mode| mode as u8),
            self.policy.and_then(|policy| u8::try_from(policy as u32).ok()).unwrap_or(UNKNOWN),
            era(self.kernel.map(|kernel| kernel.era)),
            u8::from(self.order == ByteOrder::Big),
            era(self.kernel.and_then(|kernel| kernel.or)),
            STACKINGS.iter().find(|(_, stacking)| Some(*stacking) == self.stacking).map_or(UNKNOWN, |(n, _)| *n),
            u8::from(self.dynamic_lb),
            // At most MOST_UNLIKE, which fits.
            u8::try_from(unlike.len()).unwrap_or(0),
        ]);
        out.extend_from_slice(unlike);
        if self.placed {
            out.push(PLACED);
        }
    }

    /// From the value of its extension in frame `what`. What a later version adds behind it is passed over.
    pub(super) fn decode(value: &[u8], what: &'static str) -> Result<Self, WireError> {
        let mut reader = Reader::new(value, what);
        let count = SlaveCount::new(reader.u8()?.into()).ok_or_else(|| reader.malformed())?;
        let mode = Mode::from_number(reader.u8()?);
        let policy = Policy::from_u32(reader.u8()?.into());
        let era = Era::from_u32(reader.u8()?.into());
        let order = if reader.u8()? == 0 { ByteOrder::Little } else { ByteOrder::Big };
        if reader.is_empty() {
            // The first releases of version 2 told no more; the rest as it is most often.
            let (slaves, kernel) = (Slaves::alike(count), era.map(KernelHash::certain));
            let (stacking, dynamic_lb, placed) = (Some(Stacking::Plain), true, false);
            return Ok(Self { slaves, mode, policy, stacking, dynamic_lb, kernel, order, placed });
        }
        let or = Era::from_u32(reader.u8()?.into());
        let stacking = reader.u8()?;
        let stacking = STACKINGS.iter().find(|(n, _)| *n == stacking).map(|(_, stacking)| *stacking);
        let dynamic_lb = reader.u8()? != 0;
        let slaves = take_speeds(count, &mut reader)?;
        let placed = !reader.is_empty() && reader.u8()? & PLACED != 0;
        let kernel = era.map(|era| KernelHash { era, or });
        Ok(Self { slaves, mode, policy, stacking, dynamic_lb, kernel, order, placed })
    }
}

/// Of the flags behind the speeds: what is sent is placed.
const PLACED: u8 = 1;
/// A number that no version means anything by.
const UNKNOWN: u8 = u8::MAX;

const STACKINGS: [(u8, Stacking); 5] = [
    (0, Stacking::Plain),
    (1, Stacking::DoubleVlan),
    (2, Stacking::UdpTunnel),
    (3, Stacking::PlainTunnel),
    (4, Stacking::OneFlow),
];

/// One relative speed for each slave, or none at all.
fn take_speeds(count: SlaveCount, reader: &mut Reader<'_>) -> Result<Slaves, WireError> {
    let told = reader.u8()?;
    let speeds = reader.take(told.into())?;
    let mut slaves = Slaves::alike(count);
    if speeds.is_empty() {
        return Ok(slaves);
    }
    let place = slaves.relative.get_mut(..speeds.len()).filter(|_| told == count.0.get() && !speeds.contains(&0));
    place.ok_or_else(|| reader.malformed())?.copy_from_slice(speeds);
    Ok(slaves)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(value: &[u8]) -> Result<BondFacts, WireError> {
        BondFacts::decode(value, "Hello")
    }

    fn encoded(facts: BondFacts) -> Vec<u8> {
        let mut bytes = Vec::new();
        facts.encode(&mut bytes);
        bytes
    }

    pub(in crate::wire) fn lacp() -> BondFacts {
        BondFacts {
            slaves: Slaves::of_speeds(&[10_000, 25_000, 10_000]).unwrap(),
            mode: Some(Mode::Ieee8023ad),
            policy: Some(Policy::Layer34),
            stacking: Some(Stacking::Plain),
            dynamic_lb: true,
            kernel: Some(KernelHash { era: Era::V4_14, or: Some(Era::V3_13) }),
            order: ByteOrder::Big,
            placed: false,
        }
    }

    #[test]
    fn a_bond_is_told_byte_for_byte() {
        assert_eq!(encoded(lacp()), [3, 4, 1, 2, 1, 1, 0, 1, 3, 2, 5, 2]);
        let alike = BondFacts { slaves: Slaves::of_speeds(&[1000; 4]).unwrap(), order: ByteOrder::Little, ..lacp() };
        assert_eq!(encoded(alike), [4, 4, 1, 2, 0, 1, 0, 1, 0]);
        assert_eq!(encoded(BondFacts { placed: true, ..alike }), [4, 4, 1, 2, 0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn a_bond_whose_streams_are_placed_wants_as_many_from_any_ports() {
        let placed = BondFacts { placed: true, policy: Some(Policy::Layer2), ..lacp() };
        assert_eq!((placed.sway(), placed.hashing(), placed.address_hash()), (Some(Sway::PerPacket), None, None));
    }

    #[test]
    fn everything_that_can_be_told_comes_through() {
        let unknown = [None, Some(())];
        for (n, stacking) in STACKINGS {
            for known in unknown {
                let told = BondFacts {
                    mode: known.map(|()| Mode::ALL[usize::from(n)]),
                    policy: known.and_then(|()| Policy::from_u32(n.into())),
                    stacking: known.map(|()| stacking),
                    dynamic_lb: n % 2 == 0,
                    kernel: known.map(|()| KernelHash::certain(Era::ALL[usize::from(n)])),
                    placed: n % 3 == 0,
                    ..lacp()
                };
                assert_eq!(decode(&encoded(told)), Ok(told));
            }
        }
    }

    #[test]
    fn what_a_later_version_knows_is_unknown_and_the_rest_counts() {
        let facts = decode(&[2, 9, 77, 200, 0, 200, 33, 1, 0, 4, 2, 3]).unwrap();
        assert_eq!((facts.mode, facts.policy, facts.stacking, facts.kernel), (None, None, None, None));
        assert_eq!((usize::from(facts.slaves.count()), facts.sway(), facts.hashing()), (2, None, None));
        assert!(decode(&[2, 4, 1, 4, 0]).is_ok_and(|facts| facts.hashing().is_some()), "an earlier one tells less");
        let doubt = decode(&[2, 4, 1, 4, 0, 200, 0, 1, 0]).unwrap();
        assert_eq!(doubt.kernel, Some(KernelHash::certain(Era::V5_18)));
    }

    #[test]
    fn numbers_that_no_version_sends_are_malformed() {
        let sound = [3, 4, 1, 2, 1, 1, 0, 1, 3, 2, 5, 2];
        assert!(decode(&sound).is_ok());
        for (at, number) in [(0, 0), (0, 4), (0, 60), (8, 2), (8, 200), (10, 0)] {
            let mut odd = sound;
            odd[at] = number;
            assert_eq!(decode(&odd), Err(WireError::Malformed("Hello")), "{number} at {at}");
        }
        let many: Vec<u8> = [33, 4, 1, 2, 0, 255, 0, 1, 33].into_iter().chain([7; 33]).collect();
        assert_eq!(decode(&many), Err(WireError::Malformed("Hello")), "more speeds than are told");
        for len in (0..sound.len()).filter(|len| *len != 5) {
            assert_eq!(decode(&sound[..len]), Err(WireError::Malformed("Hello")), "cut to {len}");
        }
    }

    #[test]
    fn speeds_are_told_as_their_ratio() {
        let weights = |speeds: &[u32]| Slaves::of_speeds(speeds).unwrap().weights();
        assert_eq!(weights(&[1000, 10_000, 1000]), [1, 10, 1]);
        assert_eq!(weights(&[25_000, 10_000]), [5, 2]);
        assert_eq!(weights(&[100, 400_000]), [1, 255], "as far apart as can be told");
        assert_eq!(weights(&[0, 1000]), [1, 1], "one is unknown");
        assert_eq!(weights(&[u32::MAX, u32::MAX - 1]), [255, 254]);
        assert_eq!(Slaves::of_speeds(&[40_000; 3]), SlaveCount::new(3).map(Slaves::alike));
        let many: Vec<u32> = (1..=40).collect();
        assert_eq!(weights(&many), [1; 40]);
        assert_eq!((Slaves::of_speeds(&[]), Slaves::of_speeds(&[1; 256])), (None, None));
    }

    #[test]
    fn a_place_lies_among_its_slaves() {
        assert_eq!(
            (Place::new(0, 0), Place::new(4, 4), Place::new(0, 256), Place::new(60_000, 60_000)),
            Default::default()
        );
        let last = Place::new(254, 255).unwrap();
        assert_eq!((last.slave(), last.of()), (254, SlaveCount::new(255).unwrap()));
        assert_eq!(u16::from(last.of()), SlaveCount::MOST);
    }

    proptest! {
        #[test]
        fn arbitrary_facts_are_sound_or_refused(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(facts) = decode(&value) {
                let weights = facts.slaves.weights();
                prop_assert_eq!(weights.len(), usize::from(facts.slaves.count()));
                prop_assert!(weights.iter().all(|weight| (1..=255).contains(weight)));
                prop_assert_eq!(decode(&encoded(facts)), Ok(facts));
            }
        }

        #[test]
        fn any_speeds_can_be_told(speeds in proptest::collection::vec(any::<u32>(), 1..80)) {
            let facts = BondFacts { slaves: Slaves::of_speeds(&speeds).unwrap(), ..lacp() };
            prop_assert_eq!(decode(&encoded(facts)), Ok(facts));
        }
    }
}
