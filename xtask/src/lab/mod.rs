//! The lab: two hosts with bonds and a switch between them, in a virtual machine or natively, for people and for tests.
//!
//! ```text
//! scenario files -> runs -> machines -> vm (kernel, initramfs) -> guest -> run -> network -> verdicts
//!                      \-> natively ------------------------------------> run -> network -> verdicts
//! ```
//!
//! Knows mpnc only as a program to start.

pub mod baseline;
pub mod bonded;
pub mod check;
pub mod classifier;
pub mod command;
pub mod cpio;
pub mod events;
pub mod flow;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod machines;
pub mod netns;
pub mod network;
pub mod payload;
pub mod probe;
pub mod record;
pub mod run;
pub mod runs;
pub mod scenario;
pub mod session;
pub mod stand_in;
pub mod topology;
pub mod units;
pub mod verdict;
pub mod vm;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use guest::Job;
pub use initramfs::Binaries;
pub use machines::Outcome;
pub use runs::{Choice, Run};
use session::Session;

/// A program that the lab runs, and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its file's name.
    pub name: &'static str,
    /// The package.
    pub package: &'static str,
    /// Whether a virtual machine is given this machine's own.
    pub in_guest: bool,
}

const fn host(name: &'static str, package: &'static str) -> Program {
    Program { name, package, in_guest: false }
}

const fn guest(name: &'static str, package: &'static str) -> Program {
    Program { name, package, in_guest: true }
}

/// All that the lab needs of this machine. busybox covers the rest in the guest.
pub const PROGRAMS: [Program; 15] = [
    host("qemu-system-x86_64", "qemu-system-x86"),
    host("busybox", "busybox-static"),
    host("depmod", "kmod"),
    host("modprobe", "kmod"),
    host("xz", "xz-utils"),
    host("strip", "binutils"),
    guest("bash", "bash"),
    guest("ip", "iproute2"),
    guest("tc", "iproute2"),
    guest("bridge", "iproute2"),
    guest("ss", "iproute2"),
    guest("nft", "nftables"),
    guest("iperf3", "iperf3"),
    guest("ethtool", "ethtool"),
    guest("setpriv", "util-linux"),
];

/// `cargo xtask lab`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LabArgs {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    open: Open,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run scenario files (names in tests/scenarios, or paths) and say what held.
    Run {
        /// Which ones.
        scenarios: Vec<PathBuf>,
        /// All in tests/scenarios.
        #[arg(long)]
        all: bool,
        /// Only those for this kernel; "native" for those that need no virtual machine.
        #[arg(long)]
        kernel: Option<String>,
        /// Only the runs whose name (file, matrix values, "on KERNEL") contains this.
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Open {
    /// The kernel of the virtual machine: 5.10, 6.1, 6.12 or 7.3.
    #[arg(long, default_value = "6.1")]
    kernel: String,
    /// No virtual machine: the stand-in for a bond, on this machine's kernel (needs root).
    #[arg(long)]
    native: bool,
    /// Links of each bond.
    #[arg(long, default_value_t = 4)]
    slaves: u32,
    /// The rate of each link, as tc writes it; several, separated by commas, for unlike links.
    #[arg(long, default_value = "50mbit", value_delimiter = ',')]
    rate: Vec<String>,
    /// Any other setting of a scenario file's [topology], as KEY=VALUE: stack=vlan, mode=balance-xor.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A command to run in host A; a shell if absent. $A and $B hold the hosts' addresses.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs `cargo xtask lab ...`; returns the exit code.
///
/// # Errors
/// When the lab cannot do its work; a scenario that fails is no error but code 1.
pub fn main(arguments: &LabArgs, binaries: &Binaries) -> Result<i32> {
    match &arguments.task {
        Some(Task::Run { scenarios, all, kernel, only }) => {
            let directory = scenario_directory();
            let named = |name: &PathBuf| {
                if name.exists() { name.clone() } else { directory.join(name).with_extension("toml") }
            };
            let paths = if *all { scenario::all(&directory)? } else { scenarios.iter().map(named).collect() };
            ensure!(!paths.is_empty(), "name scenarios, or --all");
            let choice = Choice { kernel: kernel.as_deref(), name: only.as_deref(), long: true };
            let outcomes = run_all(&runs::choose(&paths, choice)?, binaries)?;
            Ok(i32::from(!sum_up(&outcomes)))
        }
        None => open(&arguments.open, binaries),
    }
}

/// Prints how many runs passed, and those that did not; whether all passed, and there were any.
fn sum_up(outcomes: &[Outcome]) -> bool {
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| !outcome.passed).map(|outcome| outcome.name.as_str()).collect();
    println!("{} of {} runs passed", outcomes.len() - failed.len(), outcomes.len());
    for name in &failed {
        println!("failed: {name}");
    }
    failed.is_empty() && !outcomes.is_empty()
}

/// Runs, and prints what is found: first the native ones, one after the other, for they compare rates; then the
/// machines, many at once.
///
/// # Errors
/// When a kernel cannot be fetched. A scenario that fails is in the outcomes.
pub fn run_all(runs: &[Run], binaries: &Binaries) -> Result<Vec<Outcome>> {
    let mut outcomes = run_natively(runs, binaries);
    outcomes.extend(machines::run_all(machines::tasks(runs, binaries)?));
    Ok(outcomes)
}

/// Runs the native ones of these, one after the other.
pub fn run_natively(runs: &[Run], binaries: &Binaries) -> Vec<Outcome> {
    let native = runs.iter().filter(|run| run.series.is_none());
    let outcomes = native.map(|run| {
        let (mut lines, begun) = (Vec::new(), Instant::now());
        let passed = run::run(&run.case, binaries, &mut |line| {
            println!("{line}");
            lines.push(line.to_owned());
        });
        Outcome { name: run.name(), passed, lines, took: begun.elapsed() }
    });
    outcomes.collect()
}

/// Brings a network up for a person.
fn open(arguments: &Open, binaries: &Binaries) -> Result<i32> {
    let session = Session { topology: topology_table(arguments)?, command: arguments.command.clone() };
    if arguments.native {
        return session::run(&session, true, binaries);
    }
    println!("booting Linux {} and waiting for the bonds: about 20 s", arguments.kernel);
    if arguments.command.is_empty() {
        let kernel = kernel::fetch(kernel::series(&arguments.kernel)?)?;
        let image = machines::boot_image(&kernel, binaries, &Job { scenarios: Vec::new(), session: Some(session) })?;
        vm::interact(vm::Machine { kernel: &kernel, initramfs: image.path(), processors: 1 })?;
        return Ok(0);
    }
    machines::command(&arguments.kernel, session, binaries, |line| println!("{line}"))
}

fn topology_table(arguments: &Open) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    table.insert("slaves".into(), i64::from(arguments.slaves).into());
    match arguments.rate.as_slice() {
        [rate] => table.insert("rate".into(), rate.clone().into()),
        rates => table.insert("rates".into(), rates.to_vec().into()),
    };
    for setting in &arguments.set {
        let Some((key, value)) = setting.split_once('=') else { bail!("--set {setting}: want KEY=VALUE") };
        // What reads as a TOML value is one (a number, true, a list); all else is text.
        let value = format!("x = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut parsed| parsed.remove("x"))
            .unwrap_or_else(|| value.into());
        table.insert(key.to_owned(), value);
    }
    table.clone().try_into::<topology::Topology>().context("the topology")?.check()?;
    Ok(table)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

fn scenario_directory() -> PathBuf {
    root().join("tests/scenarios")
}

/// Asks again and again until the answer is yes.
///
/// # Errors
/// When the question fails, or the time is up.
fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !ready()? {
        ensure!(Instant::now() < deadline, "waited {} s in vain for {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
