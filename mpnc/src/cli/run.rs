//! From the command line to the exit code: resolve, plan, transfer, sum up.

use super::address;
use super::args::Args;
use super::doctor;
use super::exit::Exit;
use super::failure;
use super::generate;
use super::observed::{Observed, give_up_privileges};
use super::plan;
use super::prepare::{self, Target, WaysBack};
use super::screen::{self, AboveBars, print, say};
use super::service;
use super::summary::{self, Group, Moved, Subject};
use super::terminal;
use super::watch::Watches;
use crate::bpf::privilege::Capability;
use crate::engine::{
    self, Attempt, BondTowards, CommandLine, Connect, Ends, OnSession, Open, Options, Place, Wanted, Workers,
};
use crate::error::Error;
use crate::observe::arrivals::Sight;
use crate::sys::child::settle_signals;
use crate::wire::BLOCK_RANGE;
use clap::Parser;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Runs mpnc as the command line says.
#[must_use]
pub fn run() -> Exit {
    let args = match parsed() {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    failure::end_on_panic(args.json);
    terminal::look(&args);
    start_log(&args);
    settle_signals();
    let exit = carry_out(&args).unwrap_or_else(|error| {
        say(&failure::text(args.json, None, &error));
        Exit::of(&error)
    });
    screen::settle();
    exit
}

/// The command line, or what to end with: its help, or what is wrong with it, has been printed then.
fn parsed() -> Result<Args, Exit> {
    Args::try_parse().map_err(|error| {
        let exit = if error.use_stderr() { misunderstood(&error) } else { helped(&error) };
        screen::settle();
        exit
    })
}

/// People are told by the error itself. Whether a machine asks cannot be known from what could not be understood.
fn misunderstood(error: &clap::Error) -> Exit {
    let _ = error.print();
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        let text = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        say(&failure::text(true, None, &Error::Usage(text.to_owned())));
    }
    Exit::Usage
}

fn helped(help: &clap::Error) -> Exit {
    match screen::printable().and_then(|()| help.print().map_err(screen::unprinted)) {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(&failure::text(false, None, &error));
            Exit::of(&error)
        }
    }
}

fn start_log(args: &Args) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "trace",
    };
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    if args.verbose < 2 && std::env::var_os("RUST_LOG").is_none() {
        builder.format(|out, record| writeln!(out, "mpnc: {}", record.args()));
    }
    builder.target(env_logger::Target::Pipe(Box::new(AboveBars)));
    builder.init();
}

fn carry_out(args: &Args) -> Result<Exit, Error> {
    if let Some(what) = args.generate {
        return done(print(&generate::text(what)?));
    }
    let (window, block) = sizes(args)?;
    if args.listen {
        let addr = address::listen_address(args)?;
        return if args.doctor { doctor::listen(args, addr) } else { done(listen(args, addr, window, block)) };
    }
    let targets = address::targets(args)?;
    if args.plan {
        return done(show_plan(args, targets[0]));
    }
    if args.doctor { doctor::connect(args, &targets) } else { done(connect(args, &targets, window, block)) }
}

fn done(outcome: Result<(), Error>) -> Result<Exit, Error> {
    outcome.map(|()| Exit::Success)
}

fn show_plan(args: &Args, addr: SocketAddr) -> Result<(), Error> {
    let target = Target::look(args, addr)?;
    let plan = if args.json {
        plan::render_json(&target.view, &target.plan)
    } else {
        plan::render_text(&target.view, &target.plan)
    };
    print(&plan)
}

fn sizes(args: &Args) -> Result<(u64, u32), Error> {
    let block = u32::try_from(args.block).ok().filter(|block| BLOCK_RANGE.contains(block));
    let range = format!("from {} to {} bytes", BLOCK_RANGE.start(), BLOCK_RANGE.end());
    let block = block.ok_or_else(|| Error::Usage(format!("--block must be {range}")))?;
    if args.window < u64::from(block) * 4 || args.window > 1 << 40 {
        let least = u64::from(block) * 4;
        return Err(Error::Usage(format!("--window must be from four blocks ({least} bytes) to 1 TiB")));
    }
    match args.rate {
        Some(_) if !args.sends() => {
            Err(Error::Usage("this side only receives: --rate belongs to the side that sends".into()))
        }
        Some(rate) => Ok((args.window, smooth(block, rate))),
        None => Ok((args.window, block)),
    }
}

/// At a low rate smaller blocks: so many a second that none of them is seen in the rate of a moment.
fn smooth(block: u32, rate: u64) -> u32 {
    const A_SECOND: u64 = 50;
    let finest = u32::try_from(rate / A_SECOND).unwrap_or(u32::MAX);
    block.min(finest.max(*BLOCK_RANGE.start()))
}

// --- the ends of the session -------------------------------------------------------------------------------------------------------

/// What this side needs, checked. A listener that only receives never touches standard input: in the background that would stop it.
pub(super) fn ends(args: &Args) -> Result<Arc<Ends>, Error> {
    if args.input.is_some() && !args.sends() {
        return Err(Error::Usage("this side only receives: -i belongs to the side that sends".into()));
    }
    if args.output.is_some() && !args.receives() {
        return Err(Error::Usage("this side only sends: -o belongs to the side that receives".into()));
    }
    let command = args.exec.as_deref().map(|line| CommandLine::parse(line, args.sh)).transpose()?;
    let wanted = Wanted {
        input: args.sends().then(|| Place::of(args.input.as_deref(), "/dev/stdin")),
        output: args.receives().then(|| Place::of(args.output.as_deref(), "/dev/stdout")),
        command,
        force: args.force,
        keep: args.keep_open,
        patience: Duration::from_secs(args.timeout),
    };
    Ends::check(wanted).map(Arc::new)
}

/// Opens them for a session.
pub(super) fn open(ends: Arc<Ends>) -> Open {
    Arc::new(move |caller, hub| ends.open(caller, hub.halt()))
}

/// What is still to be opened, or ended, when privileges are given up.
fn needed_later(args: &Args) -> Vec<Capability> {
    let opens = args.output.is_some() || args.input.is_some() || args.exec.is_some();
    let files = opens.then_some(Capability::CAP_DAC_OVERRIDE);
    // A command may have become another user.
    files.into_iter().chain(args.exec.as_ref().map(|_| Capability::CAP_KILL)).collect()
}

// --- one side and the other --------------------------------------------------------------------------------------------------------

fn options(
    args: &Args,
    (window, block): (u64, u32),
    bond: BondTowards,
    observed: &Observed,
    on_session: OnSession,
) -> Options {
    Options {
        directions: args.directions(),
        window,
        block,
        rate: args.rate,
        digest: args.digest,
        timeout: Duration::from_secs(args.timeout),
        bond,
        on_session,
        sight: args.receives().then(|| Arc::new(Sight::new(observed.observer()))),
    }
}

fn listen(args: &Args, addr: SocketAddr, window: u64, block: u32) -> Result<(), Error> {
    // The port first: who has it is the more likely mistake.
    let workers = Workers { count: usize::from(args.workers), steering: args.steering, ebpf: args.ebpf };
    let bound = engine::bind(addr, workers)?;
    for error in bound.steering.fallbacks() {
        log::info!("{error}");
    }
    let group = Arc::new(Group { workers: bound.workers(), active: bound.steering });
    log::info!("{group}");
    let ends = ends(args)?;
    let observed = Arc::new(Observed::of_host(args, bound.addr.port())?);
    // Before others learn that they can connect, or interrupt.
    let interrupts = engine::Interrupts::catch()?;
    // A port that the kernel chose must be told, or nobody could connect.
    let level = if addr.port() == 0 { log::Level::Warn } else { log::Level::Info };
    log::log!(level, "listening on {}", bound.addr);
    let watches = Watches::new(args)?;
    let (ending, keep) = (Arc::clone(&watches), args.keep_open);
    let on_end = move || if keep { ending.finish_one() } else { ending.finish() };
    let told = Subject { observed: Arc::clone(&observed), group: Some(group) };
    let (service, outcome) = service::service(args, ends, told, on_end);
    let ways = Arc::new(WaysBack::default());
    let (watch, followed) = (watches.on_session(), Arc::clone(&ways));
    let on_session: OnSession = Arc::new(move |hub, peer| {
        followed.follow_bond(hub, peer.ip());
        watch(hub, peer);
    });
    let options = options(args, (window, block), ways.bonds(), &observed, on_session);
    give_up_privileges(&needed_later(args), args.exec.is_some());
    let served = engine::listen(bound.sockets, interrupts, options, service);
    watches.finish();
    // What became of the only session says more than the signal that ended it.
    let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    outcome.map_or(served, Err)
}

fn connect(args: &Args, targets: &[SocketAddr], window: u64, block: u32) -> Result<(), Error> {
    let open = open(ends(args)?);
    let watches = Watches::new(args)?;
    let mut failures = Failures { left: targets.len(), errors: Vec::new() };
    for addr in targets {
        let target = match Target::look(args, *addr) {
            Ok(target) => target,
            Err(error @ Error::Unreachable { .. }) => {
                failures.add(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        target.say_notes();
        let facts = prepare::facts(&target.view);
        let bond: BondTowards = Arc::new(move |_| facts);
        let observed = Arc::new(Observed::of_path(args, &target.view)?);
        if failures.left == 1 {
            // This is the last address to try. Source ports below 1024 may still be asked for.
            give_up_privileges(&[&needed_later(args)[..], &[Capability::CAP_NET_BIND_SERVICE]].concat(), false);
        }
        let leaving = observed.leaving();
        let way = target.way(args, &leaving);
        let follow = target.follow(args, leaving);
        let stated = args.streams.is_some() || args.no_bond;
        let (planner, plan, spare) = (target.planner, target.plan, target.spare);
        let how = Connect { target: *addr, way, planner, plan, stated, spare, follow };
        let on_session = watches.on_session();
        let options = options(args, (window, block), bond, &observed, on_session);
        match engine::connect(how, options, Arc::clone(&open))? {
            Attempt::Session(outcome) => {
                watches.finish();
                report(args, &outcome?, &Subject { observed, group: None });
                return Ok(());
            }
            Attempt::Failed(error @ Error::Interrupted { .. }) => return Err(error),
            Attempt::Failed(error) => failures.add(error),
        }
    }
    Err(failures.last())
}

/// What became of the addresses of one name.
struct Failures {
    /// Addresses not tried yet.
    left: usize,
    errors: Vec<Error>,
}

impl Failures {
    fn add(&mut self, error: Error) {
        self.left -= 1;
        if self.left > 0 {
            log::info!("{error}; trying the next address");
        }
        self.errors.push(error);
    }

    /// The error to end with. Nobody could know from it that there were other addresses, so they are told first.
    fn last(mut self) -> Error {
        let last = self.errors.pop();
        if !log::log_enabled!(log::Level::Info) {
            self.errors.iter().for_each(|earlier| log::warn!("{earlier}"));
        }
        last.unwrap_or_else(|| Error::Bug("no address to connect to".into()))
    }
}

pub(super) fn report(args: &Args, report: &engine::Report, subject: &Subject) {
    let files = Moved { sends: args.input.is_some(), receives: args.output.is_some() };
    let digests = summary::digests(report, files);
    let both = digests.len() > 1 && !args.quiet;
    for (line, digest) in digests.iter().zip(&report.digests) {
        if both {
            say(if digest.sent {
                "mpnc: the digest of what was sent:"
            } else {
                "mpnc: the digest of what was received:"
            });
        }
        say(line);
    }
    if !args.quiet {
        let moved = Moved { sends: args.sends(), receives: args.receives() };
        for line in summary::streams(report, moved, subject) {
            log::info!("{line}");
        }
        say(&if args.json { summary::json(report, moved, subject) } else { summary::text(report, moved, subject) });
    }
}
