//! What the path manager finds worth saying, and how it reads.

use crate::bond::{Mode, PlanError, PortPool, Severity};
use std::fmt;
use std::net::IpAddr;

/// See the module documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each reads as the sentence that it becomes below")]
pub enum Finding {
    /// The way out is another now.
    WayChanged { slaves: usize, streams: u16 },
    /// So is this host's address on it.
    SourceChanged { source: IpAddr },
    /// There is no plan for what is wanted now.
    NoPlan(PlanError),
    /// The peer tells of its bond.
    PeerBond { slaves: usize, streams: u16 },
    /// The peer's switch sends everything over one link of its bond.
    Ungrouped(Mode),
    /// A NAT on the way rewrites source ports.
    PortsTranslated { port: u16, seen: u16 },
    /// A NAT on the way rewrites this host's address, which the plan goes by.
    AddressTranslated { source: IpAddr, seen: IpAddr },
    /// Streams leave by other slaves than computed.
    Astray,
    /// A search begins.
    Measuring { slaves: usize },
    /// Where a stream leaves.
    Leaves { stream: u32, slave: Option<String> },
    /// A search has found what it wanted.
    Measured { streams: u16, slaves: usize },
    /// A search has ended without a stream on these slaves.
    Missed { missed: Vec<String>, slaves: usize },
    /// A search could not tell where streams leave.
    Unmeasurable { streams: u16, slaves: usize },
    /// More streams are opened to see where they arrive.
    Probing { streams: usize, arrivals: Vec<u16> },
    /// All streams arrive on one slave, whatever their ports.
    ArriveOnOne { slave: u16, slaves: u16, told: u16, here: bool, at: IpAddr },
    /// Streams arrive unevenly, and other ports did no better.
    ArriveUnevenly { arrivals: Vec<u16>, told: u16, here: bool },
    /// Too little was told of where streams arrive.
    ArrivalsUntold { tries: u16, told: u16 },
    /// Streams arrive as evenly as they can.
    ArriveEvenly { arrivals: Vec<u16> },
    /// The planned source ports get no answer: others are tried.
    SparePorts { tried: String, ports: PortPool },
    /// Those got one.
    SpareAnswered { tried: String, ports: PortPool },
    /// The peer has no room for all streams.
    Crowded,
    /// Nothing moves on any stream: another is opened.
    Stuck,
}

/// Which source ports got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each reads as the sentence that it becomes below")]
pub enum Unanswered {
    Planned { asked: String, ports: PortPool },
    Both { tried: String, ports: PortPool },
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Both { tried, ports } => {
                write!(f, "neither source ports {tried} nor the kernel's own range {ports} got an answer")
            }
            Self::Planned { asked, ports } => write!(
                f,
                "source ports {asked} got no answer; if a filter lets in answers to the kernel's own range alone, \
                 `-p {}` gets through",
                ports.widest()
            ),
        }
    }
}

impl Finding {
    /// How much it matters to a person.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::SourceChanged { .. }
            | Self::NoPlan(_)
            | Self::Ungrouped(_)
            | Self::PortsTranslated { .. }
            | Self::Astray
            | Self::Missed { .. }
            | Self::Unmeasurable { .. }
            | Self::ArriveOnOne { .. }
            | Self::ArriveUnevenly { .. }
            | Self::SpareAnswered { .. }
            | Self::Crowded => Severity::Uncertain,
            _ => Severity::Info,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WayChanged { slaves, streams } => {
                write!(f, "the way has changed: {slaves} usable slaves, {streams} streams")
            }
            Self::SourceChanged { source } => {
                write!(f, "this host's address towards the peer is {source} now: going on from there")
            }
            Self::NoPlan(error) => write!(f, "cannot plan anew, so the streams stay as they are: {error}"),
            Self::PeerBond { slaves, streams } => {
                write!(f, "the peer's bond has {slaves} usable slaves now: {streams} streams")
            }
            Self::Ungrouped(mode) => write!(
                f,
                "the receiver's bond is in mode {}: all of this arrives over one of its links; 802.3ad would use them \
                 all",
                mode.name()
            ),
            Self::PortsTranslated { port, seen } => write!(
                f,
                "the peer sees source port {port} as {seen}: a NAT rewrites ports, so what was computed from them may \
                 not hold"
            ),
            Self::AddressTranslated { source, seen } => write!(
                f,
                "the peer sees {source} as {seen}: a NAT rewrites the address, before the bond if it is this host's \
                 own; the ports are made even for both addresses"
            ),
            Self::Astray => f.write_str("streams leave by other slaves than their ports say: measuring instead"),
            Self::Measuring { slaves } => write!(f, "measuring by which of {slaves} slaves each stream leaves"),
            Self::Leaves { stream, slave } => {
                write!(f, "stream {stream} leaves by {}", slave.as_deref().unwrap_or("no slave in sight"))
            }
            Self::Measured { streams, slaves } => write!(f, "measured: {streams} streams, even over {slaves} slaves"),
            Self::Missed { missed, slaves } => write!(
                f,
                "no source port that was tried leads to {}: {} of {slaves} slaves are used, the bond does not hash on \
                 ports",
                missed.join(", "),
                slaves - missed.len()
            ),
            Self::Unmeasurable { streams, slaves } => write!(
                f,
                "the slaves' counters do not tell by which slave each stream leaves: {streams} streams share {slaves} \
                 slaves by chance"
            ),
            Self::Stuck => f.write_str("nothing moves on any stream, though the peer is there: opening another"),
            Self::Crowded => f.write_str("the peer has no room for more streams; the others carry on"),
            Self::SparePorts { .. } | Self::SpareAnswered { .. } => self.of_ports(f),
            _ => self.of_arrivals(f),
        }
    }
}

impl Finding {
    fn of_arrivals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |here: &bool| if *here { "this host's" } else { "the receiver's" };
        match self {
            Self::Probing { streams, arrivals } => {
                write!(f, "the streams arrive unevenly ({arrivals:?}): trying {streams} other ports")
            }
            Self::ArriveOnOne { slave, slaves, told, here, at } => write!(
                f,
                "every stream arrives on slave {slave} of {} {slaves}, whatever its port ({told} tried): the switch \
                 does not hash on ports; ask the network team for a port-based hash towards {} (src-dst-port, \
                 layer3+4)",
                whose(here),
                if *here { "this host".to_owned() } else { at.to_string() }
            ),
            Self::ArriveUnevenly { arrivals, told, here } => write!(
                f,
                "the streams arrive unevenly on {} slaves ({arrivals:?}) and {told} other ports did no better; a slow \
                 slave takes less, so this costs at most the difference",
                whose(here)
            ),
            Self::ArrivalsUntold { tries, told } => {
                write!(f, "of {tries} streams tried, it could be told of {told} where they arrive: too few to judge by")
            }
            Self::ArriveEvenly { arrivals } => write!(f, "the streams arrive evenly ({arrivals:?})"),
            _ => Ok(()),
        }
    }

    fn of_ports(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SparePorts { tried, ports } => {
                write!(f, "no answer to source ports {tried}: trying the kernel's own range, {ports}")
            }
            Self::SpareAnswered { tried, ports } => write!(
                f,
                "no answer to source ports {tried}, but to {ports}: if that is so each time, a filter on the way drops \
                 answers to the others, and `-p {}` goes there at once",
                ports.widest()
            ),
            _ => Ok(()),
        }
    }
}
