//! `cargo xtask test`: every test of mpnc, in three tiers by what they need.
//!
//! 1. anywhere: unit, property and simulation tests, and the real binary over loopback;
//! 2. root on Linux: network namespaces with shaped links: `tests/netns*.rs` (kept out of a plain `cargo test` by
//!    `test = false` in mpnc's manifest) and the scenarios that say `native = true`;
//! 3. QEMU: the other scenarios, with real bonds in virtual machines.
//!
//! A tier that cannot run here is skipped loudly, with the remedy; on a build machine (`CI=true`) that is a failure.

use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use xtask::lab;
use xtask::lab::scenario::{self, Scenario};

use crate::{kernels, provision, sh};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run this tier only (1: anywhere, 2: root and namespaces, 3: virtual machines)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    tier: Option<u8>,
    /// Install nothing: say what is missing instead
    #[arg(long)]
    no_install: bool,
    /// Also the scenarios that are marked as long: hours, in emulated machines
    #[arg(long)]
    long: bool,
    /// Only the tests and scenarios whose name contains this
    filter: Option<String>,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What became of one tier.
struct Report {
    tier: u8,
    tally: Tally,
    /// Whether it could run here.
    ran: bool,
    /// What failed, or why the tier was skipped and what to do about it.
    notes: Vec<String>,
    took: Duration,
}

/// Runs the tests; the last line printed is `N passed, N failed, N skipped`.
pub(crate) fn main(args: &Args) -> ExitCode {
    let tally = run(args);
    println!("{tally}");
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the tests and prints the table of tiers.
pub(crate) fn run(args: &Args) -> Tally {
    let strict = sh::is_ci();
    let mut reports = Vec::new();
    for tier in (1..=3).filter(|tier| args.tier.is_none_or(|wanted| wanted == *tier)) {
        println!("\n== tier {tier}: {}", subject(tier));
        let start = Instant::now();
        let (ran, tally, notes) = match run_tier(tier, args) {
            Ok(Ran::Tests(tally, notes)) => (true, tally, notes),
            Err(error) => (true, Tally { failed: 1, ..Tally::default() }, vec![format!("{error:#}")]),
            Ok(Ran::Not(reason)) => {
                println!("SKIPPED: {reason}");
                (false, skip(strict), vec![reason])
            }
        };
        reports.push(Report { tier, tally, ran, notes, took: start.elapsed() });
    }
    let mut total = Tally::default();
    for report in &reports {
        total += report.tally;
    }
    print_table(&reports, strict);
    if total == Tally::default() {
        println!(
            "nothing ran: {}",
            args.filter.as_ref().map_or_else(|| "no tests".into(), |f| format!("no test matches {f:?}"))
        );
        total.failed = 1;
    }
    total
}

/// A skip counts as a failure where nobody reads the log.
fn skip(strict: bool) -> Tally {
    Tally { failed: u64::from(strict), skipped: u64::from(!strict), ..Tally::default() }
}

fn subject(tier: u8) -> &'static str {
    match tier {
        1 => "anywhere",
        2 => "root: network namespaces",
        _ => "virtual machines: real bonds",
    }
}

fn print_table(reports: &[Report], strict: bool) {
    println!("\ntier  {:<30} passed  failed  skipped  time", "subject");
    for Report { tier, tally, took, .. } in reports {
        let Tally { passed, failed, skipped } = tally;
        println!("{tier:>4}  {:<30} {passed:>6}  {failed:>6}  {skipped:>7}  {}", subject(*tier), sh::pretty(*took));
    }
    for Report { tier, ran, notes, .. } in reports {
        let word = match (ran, strict) {
            (true, _) => "FAILED",
            (false, false) => "SKIPPED",
            (false, true) => "SKIPPED, a failure on a build machine",
        };
        for note in notes {
            println!("tier {tier} {word}: {note}");
        }
    }
}

/// Whether a tier ran, and with what result.
enum Ran {
    Tests(Tally, Vec<String>),
    Not(String),
}

fn run_tier(tier: u8, args: &Args) -> Result<Ran> {
    let filter = args.filter.as_deref();
    match tier {
        1 => cargo_test(&["test", "--workspace", "--no-fail-fast"], filter, &[])
            .map(|(tally, notes)| Ran::Tests(tally, notes)),
        2 => namespaces(args),
        _ => machines(args),
    }
}

fn namespaces(args: &Args) -> Result<Ran> {
    let filter = args.filter.as_deref();
    if let Err(reason) = may_make_namespaces().and_then(|()| provision::ensure(provision::NAMESPACES, !args.no_install))
    {
        return Ok(Ran::Not(format!("{reason:#}")));
    }
    let (mut tally, mut notes) = (Tally::default(), Vec::new());
    for target in targets("netns")? {
        // One at a time: they compare rates, and two at once would share the processors.
        let (t, n) = cargo_test(&["test", "--package", "mpnc", "--test", &target], filter, &["--test-threads=1"])?;
        tally += t;
        notes.extend(n);
    }
    let (t, n) = run_scenarios(true, args)?;
    tally += t;
    notes.extend(n);
    Ok(Ran::Tests(tally, notes))
}

fn machines(args: &Args) -> Result<Ran> {
    let filter = args.filter.as_deref();
    if let Err(reason) = provision::ensure(provision::MACHINES, !args.no_install) {
        return Ok(Ran::Not(format!("{reason:#}")));
    }
    let (mut tally, mut notes) = run_scenarios(false, args)?;
    let (t, n) = kernels::run(filter)?;
    tally += t;
    notes.extend(n);
    Ok(Ran::Tests(tally, notes))
}

/// Runs the scenario files of one kind whose name contains the filter.
fn run_scenarios(native: bool, args: &Args) -> Result<(Tally, Vec<String>)> {
    let filter = args.filter.as_deref();
    let directory = sh::root().join("tests/scenarios");
    let mut files = Vec::new();
    for file in scenario::all(&directory)? {
        let named = file.file_stem().is_some_and(|stem| filter.is_none_or(|f| stem.to_string_lossy().contains(f)));
        if named && Scenario::load(&file)?.iter().any(|case| case.native == native && (args.long || !case.long)) {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Ok((Tally::default(), Vec::new()));
    }
    let report = lab::run_scenarios(&files, &sh::binaries()?)?;
    let failures: Vec<_> =
        report.outcomes.iter().filter(|o| !o.passed).map(|o| format!("scenario {}", o.name)).collect();
    let failed = failures.len() as u64;
    Ok((Tally { passed: report.outcomes.len() as u64 - failed, failed, skipped: 0 }, failures))
}

/// Tries what the tests will do, because root in a container may be refused it as well.
fn may_make_namespaces() -> Result<()> {
    if !sh::is_root() {
        anyhow::bail!("needs root to make network namespaces: run it as root (or with sudo)");
    }
    let output = Command::new("unshare").args(["--net", "true"]).output().context("starting unshare (util-linux)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!(
            "this machine refuses network namespaces ({}): in a container, give it CAP_SYS_ADMIN",
            said.trim()
        );
    }
    Ok(())
}

/// The integration tests whose file name starts with the prefix.
pub(crate) fn targets(prefix: &str) -> Result<Vec<String>> {
    let dir = sh::root().join("tests");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut targets: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(".rs")?.to_owned()))
        .filter(|name| name.starts_with(prefix))
        .collect();
    targets.sort();
    Ok(targets)
}

/// Runs `cargo test`, passes its output on, and counts.
fn cargo_test(args: &[&str], filter: Option<&str>, libtest: &[&str]) -> Result<(Tally, Vec<String>)> {
    let mut command = sh::cargo(args);
    command.args(filter).arg("--").args(libtest);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    sh::show(&command);
    let mut child = command.spawn().context("starting cargo")?;
    let mut count = Count::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading what the tests say")?;
            println!("{line}");
            count.line(&line);
        }
    }
    let status = child.wait().context("waiting for cargo")?;
    Ok(count.finish(status.success()))
}

/// Counts from libtest's own lines.
#[derive(Default)]
struct Count {
    tally: Tally,
    failures: Vec<String>,
}

impl Count {
    fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            // "FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.10s"
            let number = |word: &str| {
                let part = rest.split(['.', ';']).find_map(|part| part.trim().strip_suffix(word));
                part.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            self.tally += Tally { passed: number("passed"), failed: number("failed"), skipped: number("ignored") };
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
    }

    /// A run that failed without a failed test did not compile or did not live to its last line.
    fn finish(mut self, success: bool) -> (Tally, Vec<String>) {
        if !success && self.tally.failed == 0 {
            self.tally.failed = 1;
            self.failures.push("cargo test itself failed: see above".into());
        }
        (self.tally, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &str, success: bool) -> (Tally, Vec<String>) {
        let mut count = Count::default();
        lines.lines().for_each(|line| count.line(line));
        count.finish(success)
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let said = "test a ... ok\ntest b::c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 7 filtered out; finished in 1.50s\n";
        assert_eq!(count(said, false), (Tally { passed: 41, failed: 1, skipped: 2 }, vec!["b::c".into()]));
    }

    #[test]
    fn a_run_that_dies_without_a_result_is_one_failure() {
        let said = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(count(said, false).0, Tally { passed: 3, failed: 1, skipped: 0 });
        assert_eq!(count(said, true).0, Tally { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn a_skip_fails_where_nobody_reads_the_log() {
        assert_eq!(skip(true), Tally { failed: 1, ..Tally::default() });
        assert_eq!(skip(false), Tally { skipped: 1, ..Tally::default() });
    }
}
