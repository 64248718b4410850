//! The lab: two hosts with bonds and a switch between them, in a virtual machine or natively, for people and for tests.
//!
//! ```text
//! scenario files -> run_scenarios -> vm (kernel, initramfs) -> guest -> run -> network -> verdicts
//!                               \-> natively ------------------------> run -> network -> verdicts
//! ```
//!
//! Knows mpnc only as a program to start.

pub mod baseline;
pub mod bonded;
pub mod classifier;
pub mod command;
pub mod cpio;
pub mod events;
pub mod flow;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod netns;
pub mod network;
pub mod payload;
pub mod probe;
pub mod record;
pub mod run;
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

use guest::{File, Job};
pub use initramfs::Binaries;
use scenario::Scenario;
use session::Session;

/// Debian packages without which the lab cannot work.
pub fn packages() -> &'static [&'static str] {
    &[
        "qemu-system-x86",
        "busybox-static",
        "iproute2",
        "iperf3",
        "nftables",
        "bash",
        "xz-utils",
        "binutils",
        "ethtool",
        "util-linux",
    ]
}

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
    },
}

#[derive(Debug, Args)]
struct Open {
    /// The kernel of the virtual machine: 5.10, 6.1 or 6.12.
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

/// How long a command given to `cargo xtask lab` may take in the virtual machine.
const COMMAND_LIMIT: Duration = Duration::from_hours(1);

/// How the runs of a list of scenarios ended.
#[derive(Debug, Default)]
pub struct Report {
    /// One for each scenario, case and kernel.
    pub outcomes: Vec<Outcome>,
}

/// How one run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Scenario, case and kernel.
    pub name: String,
    /// All expectations held.
    pub passed: bool,
    /// What was told on the way.
    pub lines: Vec<String>,
}

impl Report {
    /// Whether every run passed, and there was one.
    pub fn passed(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|outcome| outcome.passed)
    }
}

/// Runs `cargo xtask lab ...`; returns the exit code.
///
/// # Errors
/// When the lab cannot do its work; a scenario that fails is no error but code 1.
pub fn main(arguments: &LabArgs, binaries: &Binaries) -> Result<i32> {
    match &arguments.task {
        Some(Task::Run { scenarios, all, kernel }) => {
            let directory = scenario_directory();
            let named = |name: &PathBuf| {
                if name.exists() { name.clone() } else { directory.join(name).with_extension("toml") }
            };
            let paths = if *all { scenario::all(&directory)? } else { scenarios.iter().map(named).collect() };
            ensure!(!paths.is_empty(), "name scenarios, or --all");
            let report = run_selected(&paths, binaries, kernel.as_deref())?;
            let failed: Vec<&str> =
                report.outcomes.iter().filter(|outcome| !outcome.passed).map(|outcome| outcome.name.as_str()).collect();
            println!("{} of {} runs passed", report.outcomes.len() - failed.len(), report.outcomes.len());
            for name in &failed {
                println!("failed: {name}");
            }
            Ok(i32::from(!report.passed()))
        }
        None => open(&arguments.open, binaries),
    }
}

/// Runs scenario files, each on every kernel that it names, and prints what is found. One boot of a kernel serves many scenarios.
///
/// # Errors
/// When a file is malformed, a kernel cannot be fetched, a tool is missing. A scenario that fails is in the report.
pub fn run_scenarios(paths: &[PathBuf], binaries: &Binaries) -> Result<Report> {
    run_selected(paths, binaries, None)
}

/// As [`run_scenarios`], but only on one kernel, or with "native" only the native ones.
///
/// # Errors
/// As [`run_scenarios`].
pub fn run_selected(paths: &[PathBuf], binaries: &Binaries, only: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    let mut loaded = Vec::new();
    for path in paths {
        for case in Scenario::load(path)? {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            loaded.push((File { stem, text, case: case.name.clone() }, case));
        }
    }
    for (_, case) in loaded.iter().filter(|(_, case)| case.native && only.is_none_or(|only| only == "native")) {
        let mut lines = Vec::new();
        let passed = run::run(case, binaries, &mut |line| {
            println!("{line}");
            lines.push(line.to_owned());
        });
        report.outcomes.push(Outcome { name: case.name.clone(), passed, lines });
    }
    for series in kernel::SERIES {
        let wanted = |case: &Scenario| {
            case.kernels.iter().any(|name| name == series.version) && only.is_none_or(|only| only == series.version)
        };
        let batch: Vec<(File, Duration)> =
            loaded.iter().filter(|(_, case)| wanted(case)).map(|(file, case)| (file.clone(), case.limit())).collect();
        if !batch.is_empty() {
            run_in_vm(series, batch, binaries, &mut report)?;
        }
    }
    for (_, case) in &loaded {
        case.kernels.iter().try_for_each(|version| kernel::series(version).map(drop))?;
    }
    Ok(report)
}

/// Runs a batch on one kernel. A guest that dies fails the scenario that it was at; another guest takes up the rest.
fn run_in_vm(
    series: kernel::Series,
    mut batch: Vec<(File, Duration)>,
    binaries: &Binaries,
    report: &mut Report,
) -> Result<()> {
    let kernel = kernel::fetch(series)?;
    while !batch.is_empty() {
        // The scenarios' own limits are on the guest's clock; this one, on the host's, is for a guest that hangs.
        let limit = (Duration::from_mins(1) + batch.iter().map(|(_, limit)| *limit).sum::<Duration>()) * 10;
        let job = Job { scenarios: batch.iter().map(|(file, _)| file.clone()).collect(), session: None };
        let image = boot_image(&kernel, binaries, &job)?;
        let log = log_file(series.version)?;
        println!(
            "kernel {}: {} runs in one virtual machine (console in {})",
            series.version,
            batch.len(),
            log.display()
        );
        let (mut lines, mut done) = (Vec::new(), 0);
        let end = vm::run(&kernel, image.path(), &log, limit, |line| {
            let vm::Line::Marked(line) = line else { return };
            println!("{line}");
            lines.push(line.to_owned());
            let verdict =
                line.strip_prefix("scenario ").and_then(|rest| rest.strip_prefix(batch.get(done)?.0.case.as_str()));
            if let Some(verdict @ (": PASS" | ": FAIL")) = verdict {
                let name = format!("{} on {}", batch[done].0.case, series.version);
                report.outcomes.push(Outcome { name, passed: verdict == ": PASS", lines: std::mem::take(&mut lines) });
                done += 1;
            }
        })?;
        if let Some((file, _)) = batch.get(done) {
            println!("  FAIL the virtual machine ended early: {end:?}, see {}", log.display());
            report.outcomes.push(Outcome {
                name: format!("{} on {}", file.case, series.version),
                passed: false,
                lines,
            });
            done += 1;
        }
        batch.drain(..done);
    }
    Ok(())
}

/// Brings a network up for a person.
fn open(arguments: &Open, binaries: &Binaries) -> Result<i32> {
    let session = Session { topology: topology_table(arguments)?, command: arguments.command.clone() };
    if arguments.native {
        return session::run(&session, true, binaries);
    }
    let kernel = kernel::fetch(kernel::series(&arguments.kernel)?)?;
    let image = boot_image(&kernel, binaries, &Job { scenarios: Vec::new(), session: Some(session) })?;
    println!("booting Linux {} and waiting for the bonds: about 20 s", arguments.kernel);
    if arguments.command.is_empty() {
        vm::interact(&kernel, image.path())?;
        return Ok(0);
    }
    let (mut begun, mut code) = (false, None);
    let end = vm::run(&kernel, image.path(), &log_file(&arguments.kernel)?, COMMAND_LIMIT, |line| match line {
        vm::Line::Marked("begin") => begun = true,
        vm::Line::Marked(line) => code = line.strip_prefix("exit ").and_then(|code| code.parse().ok()),
        vm::Line::Other(line) if begun && code.is_none() => println!("{line}"),
        vm::Line::Other(_) => {}
    })?;
    code.with_context(|| format!("the virtual machine ended before the command did: {end:?}"))
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

fn boot_image(kernel: &kernel::Kernel, binaries: &Binaries, job: &Job) -> Result<tempfile::NamedTempFile> {
    let image = tempfile::NamedTempFile::new().context("make a file for the initramfs")?;
    std::fs::write(image.path(), initramfs::build(kernel, binaries, &toml::to_string(job)?)?)?;
    Ok(image)
}

fn log_file(name: &str) -> Result<PathBuf> {
    let directory = root().join("target/lab");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory.join(format!("{name}-{}.log", std::process::id())))
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
