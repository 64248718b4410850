//! `cargo xtask test`: every test of mpnc, in three tiers by what they need.
//!
//! 1. anywhere: unit, property and simulation tests, and the real binary over loopback (some of it under strace);
//! 2. root on Linux: network namespaces with shaped links: `tests/netns*.rs` (kept out of a plain `cargo test` by
//!    `test = false` in mpnc's manifest) and the scenarios that say `native = true`;
//! 3. QEMU: the other scenarios, with real bonds in virtual machines.
//!
//! What cannot run here, a tier or a test, is skipped loudly, with the remedy; on a build machine (`CI=true`) that is a
//! failure. Tests that need more than a plain `cargo test` may ask for (`#[ignore = "needs ..."]`) are run here.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::ops::AddAssign;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use xtask::lab;
use xtask::lab::scenario;

use crate::{kernels, provision, sh, skips};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Run this tier only (1: anywhere, 2: root and namespaces, 3: virtual machines)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=3))]
    tier: Option<u8>,
    /// Install nothing: say what is missing instead
    #[arg(long)]
    pub(crate) no_install: bool,
    /// Also the scenarios that are marked as long: hours, in emulated machines
    #[arg(long)]
    long: bool,
    /// Only the tests and scenarios whose name contains this
    filter: Option<String>,
}

/// How a note on something that did not run begins.
const SKIPPED: &str = "SKIPPED: ";

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
    /// What failed, what was skipped and why.
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
        let (tally, notes) = match run_tier(tier, args) {
            Ok(Ran::Tests(tally, notes)) => (tally, notes),
            Err(error) => (Tally { failed: 1, ..Tally::default() }, vec![format!("FAILED: {error:#}")]),
            Ok(Ran::Not(reason)) => {
                println!("SKIPPED: {reason}");
                (not_run(1, strict), vec![format!("{SKIPPED}{reason}")])
            }
        };
        reports.push(Report { tier, tally, notes, took: start.elapsed() });
    }
    let mut total = Tally::default();
    for report in &reports {
        total += report.tally;
    }
    print_table(&reports, strict);
    print_skips(&reports);
    if total == Tally::default() {
        println!(
            "nothing ran: {}",
            args.filter.as_ref().map_or_else(|| "no tests".into(), |f| format!("no test matches {f:?}"))
        );
        total.failed = 1;
    }
    total
}

/// What could not run at all: a failure where nobody reads the log. A single test that lacks something fails there by
/// itself (`tests/common/needs.rs`); one whose subject only another kernel or host can show is a skip everywhere.
pub(crate) fn not_run(count: u64, strict: bool) -> Tally {
    if strict { Tally { failed: count, ..Tally::default() } } else { Tally { skipped: count, ..Tally::default() } }
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
    for Report { tier, notes, .. } in reports {
        for note in notes.iter().filter(|note| !note.starts_with(SKIPPED)) {
            println!("tier {tier} {note}");
        }
    }
    if strict {
        println!("(CI is set: a tier that could not run counts as failed)");
    }
}

/// What nobody has seen working, last, where it is read.
fn print_skips(reports: &[Report]) {
    let skips = || reports.iter().flat_map(|report| report.notes.iter().filter_map(|note| note.strip_prefix(SKIPPED)));
    if skips().next().is_some() {
        println!("\nskipped, and so not shown:");
        skips().for_each(|skip| println!("  {skip}"));
        println!();
    }
}

/// Whether a tier ran, and with what result.
enum Ran {
    Tests(Tally, Vec<String>),
    Not(String),
}

fn run_tier(tier: u8, args: &Args) -> Result<Ran> {
    match tier {
        1 => anywhere(args),
        2 => namespaces(args),
        _ => machines(args),
    }
}

fn anywhere(args: &Args) -> Result<Ran> {
    // Most tests need none of it. Those that do are skipped, in their own words; on a build machine they fail.
    if let Err(reason) = provision::ensure(provision::ANYWHERE, !args.no_install) {
        println!("{reason:#}");
    }
    let (tally, notes) = cargo_test(&["test", "--workspace", "--no-fail-fast"], args.filter.as_deref(), &[])?;
    Ok(Ran::Tests(tally, notes))
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
    let (runs, left_out) = chosen(true, args)?;
    if !runs.is_empty() {
        let (t, n) = count_outcomes(&lab::run_natively(&runs, &sh::binaries()?));
        tally += t;
        notes.extend(n);
    }
    notes.extend(left_out);
    Ok(Ran::Tests(tally, notes))
}

fn machines(args: &Args) -> Result<Ran> {
    let filter = args.filter.as_deref();
    if let Err(reason) = provision::ensure(provision::MACHINES, !args.no_install) {
        return Ok(Ran::Not(format!("{reason:#}")));
    }
    let (runs, mut notes) = chosen(false, args)?;
    let ebpf = filter.is_none_or(|filter| "ebpf".contains(filter));
    if runs.is_empty() && !ebpf {
        return Ok(Ran::Tests(Tally::default(), notes));
    }
    let binaries = sh::binaries()?;
    let (mut tasks, mut tally) = (lab::machines::tasks(&runs, &binaries)?, Tally::default());
    if ebpf && kernels::can_run() {
        tasks.extend(kernels::tasks(args.long)?);
    } else if ebpf {
        let kernels = kernels::versions(args.long);
        tally += not_run(kernels.len() as u64, sh::is_ci());
        let on = kernels.join(", ");
        notes.push(format!("{SKIPPED}the tests of the kernel programs on Linux {on}: no eBPF object"));
    }
    let (ran, failures) = count_outcomes(&lab::machines::run_all(tasks));
    tally += ran;
    notes.extend(failures);
    Ok(Ran::Tests(tally, notes))
}

/// The runs of one kind whose name contains the filter, and a word on those left out.
fn chosen(native: bool, args: &Args) -> Result<(Vec<lab::Run>, Vec<String>)> {
    let files = scenario::all(&sh::root().join("tests/scenarios"))?;
    let kind = |long| -> Result<Vec<lab::Run>> {
        let choice = lab::Choice { kernel: None, name: args.filter.as_deref(), long };
        Ok(lab::runs::choose(&files, choice)?.into_iter().filter(|run| run.series.is_none() == native).collect())
    };
    let runs = kind(args.long)?;
    let left_out = kind(true)?.len() - runs.len();
    let note = (left_out > 0).then(|| format!("left out: {left_out} scenarios marked as long (--long runs them)"));
    Ok((runs, note.into_iter().collect()))
}

fn count_outcomes(outcomes: &[lab::Outcome]) -> (Tally, Vec<String>) {
    let failures: Vec<String> = outcomes
        .iter()
        .filter(|outcome| !outcome.passed)
        .map(|outcome| format!("FAILED: scenario {}", outcome.name))
        .collect();
    let failed = failures.len() as u64;
    let skips = outcomes.iter().flat_map(|outcome| {
        let found = outcome.lines.iter().filter_map(|line| skips::parse(line.trim()));
        found.map(|(test, reason)| format!("{SKIPPED}{}: {test}: {reason}", outcome.name))
    });
    let skips: Vec<String> = skips.collect();
    let passed = outcomes.len() as u64 - failed;
    (Tally { passed, failed, skipped: skips.len() as u64 }, [failures, skips].concat())
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
    let record = skips::Record::new()?;
    command.args(filter).args(["--", "--include-ignored"]).args(libtest).env(skips::VARIABLE, record.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if std::io::stderr().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always"); // cargo sees a pipe, the person a terminal
    }
    sh::show(&command);
    let mut child = command.spawn().context("starting cargo")?;
    let count = Mutex::new(Count::default());
    let relay = |pipe: Option<Box<dyn Read + Send>>, tell: fn(&str)| {
        for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).split(b'\n')) {
            let line = line.context("reading what the tests say")?;
            let line = String::from_utf8_lossy(&line);
            count.lock().unwrap_or_else(PoisonError::into_inner).line(&line);
            tell(&skipped_not_ok(&line, &record).unwrap_or_else(|| line.into_owned()));
        }
        anyhow::Ok(())
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (out, err) = thread::scope(|scope| {
        let err = scope.spawn(|| relay(stderr.map(|pipe| Box::new(pipe) as _), |line| eprintln!("{line}")));
        let out = relay(stdout.map(|pipe| Box::new(pipe) as _), |line| println!("{line}"));
        (out, err.join())
    });
    let status = child.wait().context("waiting for cargo")?;
    out?;
    err.map_err(|_| anyhow!("the thread that relays stderr panicked"))??;
    Ok(count.into_inner().unwrap_or_else(PoisonError::into_inner).finish(status.success(), &record.read()))
}

/// libtest's line for a test that skipped itself, as it should be. Its record is written before its line is.
fn skipped_not_ok(line: &str, record: &skips::Record) -> Option<String> {
    let test = line.strip_prefix("test ")?.strip_suffix(" ... ok")?;
    Some(format!("test {test} ... {SKIPPED}{}", record.read().get(test)?))
}

/// Counts from libtest's own lines. A test that skipped itself is in the record, and libtest counts it as passed.
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
            self.failures.push(format!("FAILED: {name}"));
        }
    }

    /// A run that failed without a failed test did not compile or did not live to its last line.
    fn finish(mut self, success: bool, skips: &BTreeMap<String, String>) -> (Tally, Vec<String>) {
        if !success && self.tally.failed == 0 {
            self.tally.failed = 1;
            self.failures.push("FAILED: cargo test itself: see above".into());
        }
        let skipped = skips.len() as u64;
        self.tally.passed = self.tally.passed.saturating_sub(skipped);
        self.tally.skipped += skipped;
        self.failures.extend(skips.iter().map(|(test, reason)| format!("{SKIPPED}{test}: {reason}")));
        (self.tally, self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &str, success: bool) -> (Tally, Vec<String>) {
        let mut count = Count::default();
        lines.lines().for_each(|line| count.line(line));
        count.finish(success, &BTreeMap::new())
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let said = "test a ... ok\ntest b::c ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 7 filtered out; finished in 1.50s\n";
        assert_eq!(count(said, false), (Tally { passed: 41, failed: 1, skipped: 2 }, vec!["FAILED: b::c".into()]));
    }

    #[test]
    fn a_run_that_dies_without_a_result_is_one_failure() {
        let said = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(count(said, false).0, Tally { passed: 3, failed: 1, skipped: 0 });
        assert_eq!(count(said, true).0, Tally { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn a_test_that_skips_itself_is_not_ok() {
        let record = skips::Record::new().unwrap();
        std::fs::write(record.path(), "SKIP: ebpf::steer: needs root\n").unwrap();
        let shown = |line| skipped_not_ok(line, &record);
        assert_eq!(shown("test ebpf::steer ... ok").as_deref(), Some("test ebpf::steer ... SKIPPED: needs root"));
        assert_eq!(shown("test ebpf::other ... ok"), None);
        assert_eq!(shown("test ebpf::steer ... FAILED"), None);
        let mut count = Count::default();
        count.line("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        let wanted = (Tally { passed: 2, failed: 0, skipped: 1 }, vec!["SKIPPED: ebpf::steer: needs root".to_owned()]);
        assert_eq!(count.finish(true, &record.read()), wanted);
    }

    #[test]
    fn a_skip_fails_where_nobody_reads_the_log() {
        assert_eq!(not_run(3, true), Tally { failed: 3, ..Tally::default() });
        assert_eq!(not_run(3, false), Tally { skipped: 3, ..Tally::default() });
    }
}
