//! `cargo xtask bench observer`: what the observer costs. The same transfer between two namespaces, with nothing
//! attached, with the observer on both ends' devices by tcx, and by packet sockets. The observer is mpnc's own,
//! attached by `mpnc/examples/observe.rs`: in mpnc it goes on a bond's slaves, and this kernel may have no bonding.
//! Needs root.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xtask::lab::network::Network;
use xtask::lab::topology::{Place, Topology};

use super::measure;
use super::memory;
use super::report::{Column, Row, Table, float, median};
use crate::{feed, provision, sh};

/// One transfer may take this long; slower is a hang.
const PATIENCE: Duration = Duration::from_mins(5);
/// The receiver's port: the namespaces are ours alone.
const PORT: &str = "31337";
/// The unobserved row.
const REFERENCE: &str = "not observed";

/// A row, and what `observe` is told of the way to attach; `None`: it does not run.
const ROWS: &[(&str, Option<&str>)] =
    &[(REFERENCE, None), ("observed by tcx", Some("tcx")), ("observed by packet sockets", Some("socket"))];

/// Programs in softirqs are charged to nobody's process: so the whole machine's time stands beside that of the two.
const COLUMNS: &[Column] = &[
    Column { heading: "CPU s per GB of both ends", key: "cpu_seconds_per_gigabyte", decimals: 3, ratio: true },
    Column { heading: "of the whole machine", key: "machine_cpu_seconds_per_gigabyte", decimals: 3, ratio: true },
    Column { heading: "GB/s", key: "gigabytes_per_second", decimals: 2, ratio: true },
];

/// Arguments of `cargo xtask bench observer`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes to move per transfer
    #[arg(long, default_value = "4G", value_parser = feed::size)]
    bytes: u64,
    /// The rate of the link, as tc writes it
    #[arg(long, default_value = "40gbit")]
    rate: String,
    /// Rounds; the table has the medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print JSON on stdout instead of the table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    provision::ensure(provision::NAMESPACES, true)?;
    let bench = Bench {
        mpnc: sh::build_release()?,
        observe: build_observe()?,
        file: memory::random_file(args.bytes)?,
        gigabytes: float(args.bytes) / 1e9,
        network: Network::build(&Topology { slaves: 1, rate: args.rate.parse()?, ..Topology::default() }, true)?,
    };
    let mut samples: Vec<Vec<Vec<f64>>> = vec![Vec::new(); ROWS.len()];
    for round in 1..=args.rounds {
        for ((name, how), samples) in ROWS.iter().zip(&mut samples) {
            let sample = bench.sample(*how).with_context(|| format!("{name}, round {round}"))?;
            eprintln!("round {round}/{}: {name:<28} {}", args.rounds, COLUMNS[0].show_with_unit(sample[0]));
            samples.push(sample);
        }
    }
    let row = |((name, _), samples): (&(&str, _), &Vec<Vec<f64>>)| Row {
        name: (*name).into(),
        note: String::new(),
        figures: (0..COLUMNS.len()).map(|column| median(samples.iter().map(|s| s[column]).collect())).collect(),
    };
    let title = format!("{} bytes over one veth pair, medians of {} rounds", args.bytes, args.rounds);
    let rows = ROWS.iter().zip(&samples).map(row).collect();
    Table { title, reference: REFERENCE, columns: COLUMNS, rows }.print(args.json)?;
    Ok(ExitCode::SUCCESS)
}

fn build_observe() -> Result<PathBuf> {
    let target = sh::target_dir()?;
    let mut build = sh::cargo(&["build", "--quiet", "--release", "--package", "mpnc", "--example", "observe"]);
    build.arg("--target-dir").arg(&target).stdin(Stdio::null());
    sh::check(&mut build)?;
    Ok(target.join("release/examples/observe"))
}

struct Bench {
    mpnc: PathBuf,
    observe: PathBuf,
    file: File,
    gigabytes: f64,
    network: Network,
}

impl Bench {
    /// One transfer's figures, in the columns' order.
    fn sample(&self, how: Option<&str>) -> Result<Vec<f64>> {
        let mut observers = Vec::new();
        for (place, role, device) in [(Place::A, "connector", "a0"), (Place::B, "listener", "b0")] {
            if let Some(how) = how {
                observers.push(Watcher::start(
                    self.inside(place, &self.observe).env("MPNC_OBSERVE_BY", how).args([role, PORT, device]),
                )?);
            }
        }
        let mut receiver = self.inside(Place::B, &self.mpnc);
        receiver.args(["-q", "-l", "--ebpf", "off", PORT]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut sender = self.inside(Place::A, &self.mpnc);
        sender.args(["-q", "--ebpf", "off", "--streams", "4", Topology::default().address(Place::B), PORT]);
        sender.stdin(memory::reopen(&self.file)?).stdout(Stdio::null());
        let host = self.network.namespace(Place::B);
        let port = PORT.parse()?;
        let busy = machine_time()?;
        let sample = measure::pair(receiver, sender, || host.listens(port).unwrap_or(false), PATIENCE)?;
        let busy = machine_time()? - busy;
        for observer in observers {
            let saw = observer.end()?;
            ensure!(saw >= self.gigabytes * 1e9, "the observer saw only {saw} bytes: it was not in the way");
        }
        let cpu = (sample.sender.cpu + sample.receiver.cpu).as_secs_f64();
        Ok(vec![cpu / self.gigabytes, busy / self.gigabytes, self.gigabytes / sample.wall.as_secs_f64()])
    }

    fn inside(&self, place: Place, program: &Path) -> Command {
        self.network.namespace(place).command(program)
    }
}

/// Seconds of processor time that the whole machine has spent on anything (/proc/stat counts in hundredths).
fn machine_time() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let fields: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else {
        anyhow::bail!("/proc/stat has an unknown form")
    };
    Ok(float(user + nice + system + irq + softirq) / 100.0)
}

/// A running `observe`, killed when dropped.
struct Watcher {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watcher {
    /// Starts it, and waits until it is attached.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting observe")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        let mut watcher = Self { child, lines };
        watcher.line()?;
        Ok(watcher)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "observe has ended early: see its words above");
        Ok(line)
    }

    /// What it has counted a second later, when all that it will see is there.
    fn end(mut self) -> Result<f64> {
        std::thread::sleep(Duration::from_millis(1200));
        self.child.kill().context("ending observe")?;
        let mut last = String::new();
        for line in (&mut self.lines).lines() {
            last = line?;
        }
        last.split_whitespace()
            .nth(1)
            .and_then(|bytes| bytes.parse().ok())
            .with_context(|| format!("observe said `{last}`"))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
