//! What was typed, worked out once: what there is to do, with which ends, over which streams, and what is seen of it.
//!
//! Every mistake that can be known without asking the system is found here, before anything is opened. Must not ask the
//! system: addresses, the way and the ends are looked at by whoever is handed the part that is about them. Nothing
//! after this sees [`Args`].

use super::args::{Args, Generate, Placing, When};
use crate::bond::{Policy, PortPool, policy_named, policy_names};
use crate::bpf::EbpfMode;
use crate::discover::Overrides;
use crate::engine::{CommandLine, Place, Wanted};
use crate::error::Error;
use crate::steer::SteeringMode;
use crate::steer::workers::WorkerCount;
use crate::wire::{BLOCK_RANGE, Directions};
use std::path::Path;
use std::time::Duration;

/// What there is to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Print what packagers install.
    Generate(Generate),
    /// Show the plan, for so many bytes a second at most, and carry nothing.
    Plan(Calling, Option<u64>),
    /// Examine this host and the way, with the other side's doctor if there is one; a silent one is waited for so long.
    Examine(Calling, Duration),
    /// Wait for the other side's doctor.
    AwaitDoctor(Listening, Duration),
    /// Serve sessions, so many at once if that was asked for.
    Listen(Listening, Option<usize>, Transfer),
    /// Be one side of one session.
    Connect(Calling, Transfer),
}

impl Job {
    /// What the command line asks for.
    ///
    /// # Errors
    /// [`Error::Usage`]: it cannot be carried out, whatever the system says.
    pub(super) fn of(args: &Args) -> Result<Self, Error> {
        if let Some(what) = args.generate {
            return Ok(Self::Generate(what));
        }
        let numbers = Numbers::of(args)?;
        if args.listen {
            let listening = Listening::of(args)?;
            return if args.doctor {
                Ok(Self::AwaitDoctor(listening, numbers.timeout))
            } else {
                Ok(Self::Listen(listening, args.sessions.map(usize::from), Transfer::of(args, numbers)?))
            };
        }
        let calling = Calling::of(args)?;
        match (args.plan, args.doctor) {
            (true, _) => Ok(Self::Plan(calling, numbers.rate)),
            (_, true) => Ok(Self::Examine(calling, numbers.timeout)),
            _ => Ok(Self::Connect(calling, Transfer::of(args, numbers)?)),
        }
    }
}

/// What is said and shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    pub(super) quiet: bool,
    /// How often -v was given.
    pub(super) verbose: u8,
    pub(super) json: bool,
    pub(super) progress: When,
}

impl Show {
    pub(super) fn of(args: &Args) -> Self {
        Self { quiet: args.quiet, verbose: args.verbose, json: args.json, progress: args.progress }
    }
}

// --- where the other side is -----------------------------------------------------------------------------------------

/// How a name becomes an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) family: Family,
    /// They are not looked up: each must be an address.
    pub(super) numeric: bool,
}

/// Which addresses will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    Ipv4,
    Ipv6,
}

impl Names {
    fn of(args: &Args) -> Self {
        let family = match (args.ipv4, args.ipv6) {
            (true, _) => Family::Ipv4,
            (_, true) => Family::Ipv6,
            _ => Family::Any,
        };
        Self { family, numeric: args.numeric }
    }
}

/// Where a listener listens, as typed.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) names: Names,
    /// Every address of this host, if none was given.
    pub(super) host: Option<String>,
    pub(super) port: String,
}

/// Where a connector connects to, and from, as typed.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) names: Names,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) source: Option<String>,
}

/// A listener's port, and what stands behind it.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) at: Local,
    pub(super) workers: WorkerCount,
    pub(super) steering: SteeringMode,
    pub(super) ebpf: EbpfMode,
    /// Whether there is a session after the first.
    pub(super) keep: bool,
}

impl Listening {
    fn of(args: &Args) -> Result<Self, Error> {
        let (host, port) = match args.target.as_slice() {
            [port] => (None, port.clone()),
            [host, port] => (Some(host.clone()), port.clone()),
            _ => return Err(Error::Usage("a listener takes [ADDR] PORT".into())),
        };
        Ok(Self {
            at: Local { names: Names::of(args), host, port },
            workers: workers(args),
            steering: args.steering,
            ebpf: args.ebpf,
            keep: args.keep_open,
        })
    }
}

/// Whom a connector calls, and over which streams.
#[derive(Debug)]
pub(super) struct Calling {
    pub(super) to: Remote,
    pub(super) plan: PlanRequest,
    pub(super) workers: WorkerCount,
}

impl Calling {
    fn of(args: &Args) -> Result<Self, Error> {
        let [host, port] = args.target.as_slice() else {
            return Err(Error::Usage("expected HOST PORT (or -l [ADDR] PORT to listen)".into()));
        };
        let source = args.source.clone();
        let to = Remote { names: Names::of(args), host: host.clone(), port: port.clone(), source };
        Ok(Self { to, plan: PlanRequest::of(args)?, workers: workers(args) })
    }

    /// Whether streams may go between other addresses than the ones given: not where a person has chosen some.
    pub(super) fn may_use_others(&self) -> bool {
        self.to.names.family == Family::Any && self.to.source.is_none()
    }
}

fn workers(args: &Args) -> WorkerCount {
    // A doctor has one session at a time, and hardly anything to do for it.
    if args.doctor { WorkerCount::Stated(1) } else { args.workers }
}

/// What a person wants of the plan.
#[derive(Debug, Clone)]
pub(super) struct PlanRequest {
    /// Streams in all; otherwise as the way has it.
    pub(super) streams: Option<u16>,
    /// Source ports; otherwise those of the system's pool.
    pub(super) ports: Option<PortPool>,
    /// What is known better than it can be seen.
    pub(super) overrides: Overrides,
}

impl PlanRequest {
    fn of(args: &Args) -> Result<Self, Error> {
        let policy = args.policy.as_deref().map(parse_policy).transpose()?;
        Ok(Self {
            streams: args.streams,
            ports: args.source_ports.clone(),
            overrides: Overrides { slaves: args.slaves, policy, no_bond: args.no_bond, place: args.place.is_some() },
        })
    }

    /// Whether a person has said how many streams there are to be.
    pub(super) fn is_stated(&self) -> bool {
        self.streams.is_some() || self.overrides.no_bond
    }
}

fn parse_policy(name: &str) -> Result<Policy, Error> {
    policy_named(name).ok_or_else(|| {
        let known: Vec<&str> = policy_names().collect();
        Error::Usage(format!("'{name}' is no xmit_hash_policy: give one of {}", known.join(", ")))
    })
}

// --- what is carried -------------------------------------------------------------------------------------------------

/// What one side does of two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) sends: bool,
    pub(super) receives: bool,
}

impl Moves {
    /// The part of one side in a session.
    fn of(directions: Directions, listens: bool) -> Self {
        let (connector, listener) = (directions.connector_sends(), directions.listener_sends());
        let (sends, receives) = if listens { (listener, connector) } else { (connector, listener) };
        Self { sends, receives }
    }

    /// Which of a side's ends are files that have a name.
    pub(super) fn named(ends: &Wanted) -> Self {
        let named = |end: &Option<Place>| matches!(end, Some(Place::Path(_)));
        Self { sends: named(&ends.input), receives: named(&ends.output) }
    }
}

/// What is carried, between which ends, and how.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) directions: Directions,
    /// This side's part in them.
    pub(super) moves: Moves,
    pub(super) numbers: Numbers,
    pub(super) digest: bool,
    /// This side's ends.
    pub(super) ends: Wanted,
    /// Whether kernel programs may be used.
    pub(super) ebpf: EbpfMode,
    /// Whether one places streams on the bond's slaves.
    pub(super) place: Option<Placing>,
    /// Where statistics go.
    pub(super) stats: Option<Place>,
}

impl Transfer {
    fn of(args: &Args, numbers: Numbers) -> Result<Self, Error> {
        let directions = directions(args);
        let moves = Moves::of(directions, args.listen);
        let ends = ends(args, moves)?;
        if args.place.is_some() && !moves.sends {
            return Err(Error::Usage("this side only receives: --place belongs to the side that sends".into()));
        }
        if args.place.is_some() && args.ebpf == EbpfMode::Off {
            return Err(Error::Usage("--place needs a kernel program, and --ebpf off forbids them".into()));
        }
        let stats = args.stats.as_deref().map(|path| Place::of(Some(path), STDOUT));
        let taken = ends.output == Some(Place::Standard);
        if stats == Some(Place::Standard) && taken {
            let text = "--stats -: standard output is for what is received: name a file, or use -o";
            return Err(Error::Usage(text.into()));
        }
        Ok(Self { directions, moves, numbers, digest: args.digest, ends, ebpf: args.ebpf, place: args.place, stats })
    }
}

const STDIN: &str = "/dev/stdin";
const STDOUT: &str = "/dev/stdout";

/// Of whatever is no check of the way.
fn directions(args: &Args) -> Directions {
    match (args.duplex, args.reverse) {
        (true, _) => Directions::Both,
        (false, true) => Directions::Receive,
        (false, false) => Directions::Send,
    }
}

fn ends(args: &Args, moves: Moves) -> Result<Wanted, Error> {
    let place = |wanted: bool, path: Option<&Path>, standard| wanted.then(|| Place::of(path, standard));
    if args.input.is_some() && !moves.sends {
        return Err(Error::Usage("this side only receives: -i belongs to the side that sends".into()));
    }
    if args.output.is_some() && !moves.receives {
        return Err(Error::Usage("this side only sends: -o belongs to the side that receives".into()));
    }
    Ok(Wanted {
        input: place(moves.sends, args.input.as_deref(), STDIN),
        output: place(moves.receives, args.output.as_deref(), STDOUT),
        command: args.exec.as_deref().map(|line| CommandLine::parse(line, args.sh)).transpose()?,
        force: args.force,
        keep: args.keep_open,
        patience: Duration::from_secs(args.timeout),
    })
}

/// How much, how fast, how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Bytes held at most.
    pub(super) window: u64,
    /// Bytes of a block of the input.
    pub(super) block: u32,
    /// Most bytes that are sent in a second.
    pub(super) rate: Option<u64>,
    /// How long a silent peer is waited for.
    pub(super) timeout: Duration,
}

impl Numbers {
    fn of(args: &Args) -> Result<Self, Error> {
        let block = u32::try_from(args.block).ok().filter(|block| BLOCK_RANGE.contains(block));
        let range = format!("from {} to {} bytes", BLOCK_RANGE.start(), BLOCK_RANGE.end());
        let block = block.ok_or_else(|| Error::Usage(format!("--block must be {range}")))?;
        let least = u64::from(block) * 4;
        if args.window < least || args.window > 1 << 40 {
            return Err(Error::Usage(format!("--window must be from four blocks ({least} bytes) to 1 TiB")));
        }
        if args.rate.is_some() && !Moves::of(directions(args), args.listen).sends {
            return Err(Error::Usage("this side only receives: --rate belongs to the side that sends".into()));
        }
        let block = args.rate.map_or(block, |rate| smooth(block, rate));
        Ok(Self { window: args.window, block, rate: args.rate, timeout: Duration::from_secs(args.timeout) })
    }
}

/// At a low rate smaller blocks: so many a second that none of them is seen in the rate of a moment.
fn smooth(block: u32, rate: u64) -> u32 {
    const A_SECOND: u64 = 50;
    let finest = u32::try_from(rate / A_SECOND).unwrap_or(u32::MAX);
    block.min(finest.max(*BLOCK_RANGE.start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn job(line: &str) -> Result<Job, Error> {
        Job::of(&Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")))
    }

    fn transfer(line: &str) -> Transfer {
        match job(line).unwrap() {
            Job::Listen(_, _, transfer) | Job::Connect(_, transfer) => transfer,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn each_action_has_its_job() {
        assert!(matches!(job("mpnc --generate man").unwrap(), Job::Generate(Generate::Man)));
        assert!(matches!(job("mpnc --plan h 1").unwrap(), Job::Plan(_, None)));
        assert!(matches!(job("mpnc --doctor -w 5 h 1").unwrap(), Job::Examine(_, wait) if wait.as_secs() == 5));
        let one = WorkerCount::Stated(1);
        assert!(matches!(job("mpnc --doctor -l --workers 4 1").unwrap(), Job::AwaitDoctor(l, _) if l.workers == one));
        assert!(matches!(job("mpnc -l -k --sessions 3 1").unwrap(), Job::Listen(l, Some(3), _) if l.keep));
        assert!(matches!(job("mpnc h 1").unwrap(), Job::Connect(c, _) if c.workers == WorkerCount::Auto));
        assert!(matches!(job("mpnc --doctor --workers 4 h 1").unwrap(), Job::Examine(c, _) if c.workers == one));
    }

    #[test]
    fn each_side_has_its_part_and_the_ends_for_it() {
        for (line, sends, receives) in [
            ("mpnc h 1", true, false),
            ("mpnc -l 1", false, true),
            ("mpnc -R h 1", false, true),
            ("mpnc -l -R 1", true, false),
            ("mpnc -2 h 1", true, true),
            ("mpnc -l -2 1", true, true),
        ] {
            let Transfer { moves, ends, .. } = transfer(line);
            assert_eq!(moves, Moves { sends, receives }, "{line}");
            assert_eq!((ends.input.is_some(), ends.output.is_some()), (sends, receives), "{line}");
        }
        let Transfer { ends, stats, .. } = transfer("mpnc -2 -i /dev/stdin -o x --stats /dev/stdout h 1");
        assert_eq!((&ends.input, &stats), (&Some(Place::Standard), &Some(Place::Standard)));
        assert_eq!(Moves::named(&ends), Moves { sends: false, receives: true });
    }

    /// The host does not exist, the port is another's, the file is not there: none of it is looked at first.
    #[test]
    fn mistakes_are_found_before_the_system_is_asked() {
        for (line, word) in [
            ("mpnc h", "HOST PORT"),
            ("mpnc -l -i /nowhere 1", "only receives: -i"),
            ("mpnc -o /nowhere/x h 1", "only sends: -o"),
            ("mpnc -l --rate 1M 1", "only receives: --rate"),
            ("mpnc -l --place 1", "only receives: --place"),
            ("mpnc --place=force --ebpf off h 1", "--ebpf off forbids"),
            ("mpnc -l --stats - 1", "--stats -: standard output"),
            ("mpnc --policy layer5 h 1", "'layer5' is no xmit_hash_policy: give one of layer2"),
            ("mpnc --block 1K h 1", "--block must be from 4096"),
            ("mpnc --window 1000K h 1", "--window must be from four blocks (1048576 bytes)"),
            ("mpnc -l -e 'open 1", "--exec: ''open' is no command"),
        ] {
            match job(line) {
                Err(Error::Usage(text)) => assert!(text.contains(word), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_low_rate_has_small_blocks() {
        assert_eq!(transfer("mpnc --rate 1M h 1").numbers.block, 20_971);
        assert_eq!(transfer("mpnc --rate 1 h 1").numbers.block, *BLOCK_RANGE.start());
        assert_eq!(transfer("mpnc --rate 1G h 1").numbers.block, 256 << 10);
    }
}
