//! What was typed, as clap parses it. Nothing here looks at the system; `job` works out what it means, and nothing else
//! sees it.

use super::units::{parse_rate, parse_size};
use crate::bond::PortPool;
use crate::bpf::EbpfMode;
use crate::steer::SteeringMode;
use crate::steer::workers::WorkerCount;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

const ABOUT: &str = "netcat over every link of a bond: many streams, one port, computed source ports";

const LONG_ABOUT: &str = "\
netcat over every link of a bond.

A bond (LACP, 802.3ad) keeps a TCP connection on one link, so nc moves one link's worth. mpnc opens one stream per \
slave of the sender's bond, all to one port of the receiver, from source ports computed so that each stream lands on \
its own slave. The receiver puts the data back in order. Without a bond it is a careful nc.

  mpnc -l 31337 > /dev/sdb            on the receiver: one port, one firewall rule
  mpnc newserver 31337 < /dev/sda     on the sender";

const USAGE: &str = "mpnc [OPTIONS] HOST PORT\n       mpnc -l [OPTIONS] [ADDR] PORT";

/// The command line.
#[derive(Debug, Clone, Parser)]
#[command(name = "mpnc", version, override_usage = USAGE, about = ABOUT, long_about = LONG_ABOUT)]
#[command(after_help = super::exit::TABLE, max_term_width = 100)]
pub(super) struct Args {
    /// Where to connect to, or listen on.
    #[arg(help = "Connecting: HOST PORT. Listening: [ADDR] PORT", value_name = "HOST \
     PORT", num_args = 1..=2, required_unless_present = "generate")]
    pub(super) target: Vec<String>,

    /// Listen for one session, and write what it sends to standard output
    #[arg(short, long)]
    pub(super) listen: bool,

    /// Send both ways at once, each direction with its own end; give it on both sides
    #[arg(short = '2', long, conflicts_with = "reverse")]
    pub(super) duplex: bool,

    /// The listener sends and the connector receives; give it on both sides
    #[arg(short = 'R', long)]
    pub(super) reverse: bool,

    /// Use IPv4 only
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub(super) ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6')]
    pub(super) ipv6: bool,

    /// Do not resolve names: HOST is an address
    #[arg(short = 'n', long)]
    pub(super) numeric: bool,

    /// Say what is done, on standard error; twice for every frame of the way (RUST_LOG has the last word)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Give up after so many seconds without a sign of life from the other side: to connect, to greet, within a
    /// session. A listener waits for its first connection however long it takes
    #[arg(short = 'w', long, value_name = "SECS", default_value_t = 30)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(super) timeout: u64,

    /// Connect from this local address
    #[arg(short, long, value_name = "ADDR", conflicts_with = "listen")]
    pub(super) source: Option<String>,

    /// Connect from source ports of this range [default: the unprivileged ports below the kernel's own range]
    #[arg(short = 'p', long, value_name = "LO-HI", value_parser = PortPool::from_str, conflicts_with = "listen")]
    pub(super) source_ports: Option<PortPool>,

    /// Read this file or block device instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,

    /// Write this file or block device instead of standard output; with -k, %n is the session's number and %a the
    /// peer's address
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Replace a file of -o that exists and is not empty
    #[arg(long)]
    pub(super) force: bool,

    /// Take the next session after the last, until a signal comes
    #[arg(short, long, requires = "listen")]
    pub(super) keep_open: bool,

    /// Run this command for each session: it reads what the session receives, and the session sends what it writes
    #[arg(short, long, value_name = "CMD", requires = "listen", conflicts_with_all = ["input", "output"])]
    pub(super) exec: Option<String>,

    /// Have a shell run the command of --exec
    #[arg(long, requires = "exec")]
    pub(super) sh: bool,

    /// Serve so many sessions at once [default: 1; 16 where each has its own command or output file]
    #[arg(long, value_name = "N", requires = "keep_open", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) sessions: Option<u16>,

    /// Open so many streams in all [default: one per slave of the bond]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "listen")]
    pub(super) streams: Option<u16>,

    /// Plan for so many slaves: for a bond that is out of sight (in a container, behind a hypervisor)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) slaves: Option<u16>,

    /// The bond's xmit_hash_policy, where it is out of sight or to be overridden
    #[arg(long, value_name = "NAME")]
    pub(super) policy: Option<String>,

    /// Do not look for a bond: one stream, unless --streams says otherwise
    #[arg(long, conflicts_with_all = ["slaves", "policy"])]
    pub(super) no_bond: bool,

    /// Show which stream would take which slave, and stop
    #[arg(long, conflicts_with = "listen")]
    pub(super) plan: bool,

    /// Check what stands between the two hosts and full speed, say the remedy of each finding, and stop; changes
    /// nothing. Give it on both sides to check both; against a plain listener, which is not disturbed, it checks this
    /// side
    #[arg(long, conflicts_with_all = ["duplex", "reverse", "input", "output", "exec"])]
    #[arg(conflicts_with_all = ["plan", "rate", "digest", "stats"])]
    pub(super) doctor: bool,

    /// Print the plan, the findings of the doctor (standard output), the summary and what failed (the last line on
    /// standard error) as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// Hold at most so many bytes on each side, with --duplex half of them for each direction
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_size)]
    pub(super) window: u64,

    /// Cut the input into blocks of so many bytes
    #[arg(long, value_name = "SIZE", default_value = "256K", value_parser = parse_size)]
    pub(super) block: u64,

    /// Share the streams out among so many event loops, each with a thread of its own; auto: one, and on hosts with 4
    /// processors and a bond of 10 Gbit/s or more as many as half the processors, the bond's streams, 8 allow. Each
    /// side has its own
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(super) workers: WorkerCount,

    /// What picks the loop of a new stream: auto, ebpf, cbpf (classic BPF, needs no privilege) or kernel (by chance)
    #[arg(long, value_name = "HOW", default_value = "auto", requires = "listen")]
    pub(super) steering: SteeringMode,

    /// Use kernel programs: auto (where allowed), on (or fail), off
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) ebpf: EbpfMode,

    /// Send each stream by its planned slave also where the bond's hash does not go by ports: with a program on the
    /// bond's egress, for this transfer (needs CAP_BPF and CAP_NET_ADMIN, Linux 6.6). On the side that sends. Queueing
    /// and captures on the bond itself do not see these streams: --place=force where there is such a thing
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    #[arg(conflicts_with_all = ["no_bond", "slaves", "policy", "doctor"])]
    pub(super) place: Option<Placing>,

    /// Send at most so much in a second, over all streams: bytes, with the suffixes of sizes (200M), or bits (200Mbit)
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(super) rate: Option<u64>,

    /// Show progress on standard error: bars on a terminal (with -v a line for each slave), elsewhere a line every 3
    /// seconds. SIGUSR1 asks for a line at any time
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) progress: When,

    /// Write a line of statistics to this file every second and at the end, as JSON (mpnc/stats.schema.json). '-' is
    /// standard output, where that has no data on it. If it fails, that is a warning
    #[arg(long, value_name = "FILE")]
    pub(super) stats: Option<PathBuf>,

    /// Print the BLAKE3 digest of what is sent and received on standard error, as b3sum does
    #[arg(long)]
    pub(super) digest: bool,

    /// Print the manual page or a shell's completions, and stop
    #[arg(long, value_name = "WHAT", exclusive = true)]
    pub(super) generate: Option<Generate>,
}

/// Whether streams are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Placing {
    /// Unless something would be bypassed.
    On,
    /// Whatever would be.
    Force,
}

/// When to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// Bars, if standard error is a terminal.
    Auto,
    /// Also where it is not: a line every 3 seconds.
    Always,
    /// Not at all.
    Never,
}

/// What can be made of the definition of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Generate {
    /// The manual page, in troff.
    Man,
    /// Completions for bash.
    Bash,
    /// Completions for zsh.
    Zsh,
    /// Completions for fish.
    Fish,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn nc_habits_parse() {
        let args = Args::try_parse_from(["mpnc", "-l", "31337"]).unwrap();
        assert!(args.listen);
        let args = Args::try_parse_from(["mpnc", "-4vw", "5", "host", "31337"]).unwrap();
        assert_eq!((args.ipv4, args.verbose, args.timeout), (true, 1, 5));
        assert!(Args::try_parse_from(["mpnc", "-4", "-6", "h", "1"]).is_err());
        assert!(Args::try_parse_from(["mpnc"]).is_err());
        assert!(Args::try_parse_from(["mpnc", "--generate", "man"]).is_ok());
        assert!(Args::try_parse_from(["mpnc", "--generate", "man", "h", "1"]).is_err());
        assert!(Args::try_parse_from(["mpnc", "a", "b", "c"]).is_err());
    }
}
