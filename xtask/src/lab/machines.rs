//! Work for virtual machines, as much at once as there are processors. A guest takes one of them and has a clock of its
//! own, so neighbours make it slower and change nothing that it sees. Scenarios share boots; each one's lines are
//! printed when it ends.

use std::io::Write;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::guest::Job;
use super::initramfs::{self, Binaries};
use super::kernel::{self, Kernel};
use super::runs::Run;
use super::session::Session;
use super::vm;

/// A command given to a guest may take this long, on the host's clock.
const COMMAND_LIMIT: Duration = Duration::from_hours(1);
/// A boot costs some seconds: batches are not cut shorter than this.
const SHORTEST_BATCH: Duration = Duration::from_mins(1);
/// Batches for each processor: enough that the last ones to end, end close together.
const BATCHES_EACH: u32 = 4;

/// How one run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Scenario, case and kernel.
    pub name: String,
    /// All expectations held.
    pub passed: bool,
    /// What was told on the way.
    pub lines: Vec<String>,
    /// On the host's clock.
    pub took: Duration,
}

impl Outcome {
    /// Prints its lines in one piece: others may end at the same time.
    pub fn print(&self) {
        let text = format!("{}\n  took {} s\n", self.lines.join("\n"), self.took.as_secs());
        // A reader that is gone will not miss them.
        let _ = std::io::stdout().lock().write_all(text.as_bytes());
    }
}

/// Something for one guest after the other.
pub struct Task<'a> {
    /// About how long it takes.
    pub estimate: Duration,
    /// Does it.
    pub work: Box<dyn FnOnce() -> Vec<Outcome> + Send + 'a>,
}

/// Does all of it, the longest first.
pub fn run_all(mut tasks: Vec<Task<'_>>) -> Vec<Outcome> {
    tasks.sort_by_key(|task| task.estimate);
    let workers = processors().min(tasks.len());
    let queue = Mutex::new(tasks);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let work = || std::iter::from_fn(next).flat_map(|task| (task.work)()).collect::<Vec<Outcome>>();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The runs of scenarios as tasks: batches of one kernel each.
///
/// # Errors
/// When a kernel cannot be fetched.
pub fn tasks<'a>(runs: &[Run], binaries: &'a Binaries) -> Result<Vec<Task<'a>>> {
    let whole: Duration = runs.iter().map(|run| run.case.estimate()).sum();
    let share = whole / (u32::try_from(processors()).unwrap_or(1) * BATCHES_EACH);
    let mut tasks = Vec::new();
    for series in kernel::SERIES {
        let of_kernel: Vec<&Run> = runs.iter().filter(|run| run.series == Some(series)).collect();
        if of_kernel.is_empty() {
            continue;
        }
        // Here, not in the tasks: two of them would fetch it twice.
        kernel::fetch(series)?;
        for batch in batches(&of_kernel, share.max(SHORTEST_BATCH)) {
            let estimate = batch.iter().map(|run| run.case.estimate()).sum();
            tasks.push(Task { estimate, work: Box::new(move || run_batch(series, batch, binaries)) });
        }
    }
    Ok(tasks)
}

/// Cuts a list into runs of about the same length, each for one kind of machine.
fn batches(runs: &[&Run], length: Duration) -> Vec<Vec<Run>> {
    let mut batches: Vec<(Duration, Vec<Run>)> = Vec::new();
    for run in runs {
        let estimate = run.case.estimate();
        let fits = |(taken, batch): &&mut (Duration, Vec<Run>)| {
            *taken + estimate <= length && batch[0].case.processors == run.case.processors
        };
        match batches.last_mut().filter(fits) {
            Some((taken, batch)) => {
                *taken += estimate;
                batch.push((*run).clone());
            }
            None => batches.push((estimate, vec![(*run).clone()])),
        }
    }
    batches.into_iter().map(|(_, batch)| batch).collect()
}

/// A guest that dies fails the scenario that it was at; another guest takes up the rest.
fn run_batch(series: kernel::Series, mut batch: Vec<Run>, binaries: &Binaries) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    while !batch.is_empty() {
        let done = boot(series, &batch, binaries).unwrap_or_else(|error| {
            vec![finish(&batch[0], vec![format!("  FAIL the lab: {error:#}")], false, Duration::ZERO)]
        });
        batch.drain(..done.len());
        outcomes.extend(done);
    }
    outcomes
}

/// One guest: what became of the runs that it got to, at least of the first.
fn boot(series: kernel::Series, batch: &[Run], binaries: &Binaries) -> Result<Vec<Outcome>> {
    let kernel = kernel::fetch(series)?;
    // The scenarios' own limits are on the guest's clock; this one, on the host's, is for a guest that hangs.
    let limit = (Duration::from_mins(1) + batch.iter().map(|run| run.case.limit()).sum::<Duration>()) * 10;
    let job = Job { scenarios: batch.iter().map(|run| run.file.clone()).collect(), session: None };
    let image = boot_image(&kernel, binaries, &job)?;
    let log = log_file(series.version)?;
    let (mut outcomes, mut lines, mut begun) = (Vec::<Outcome>::new(), Vec::new(), Instant::now());
    let machine = vm::Machine { kernel: &kernel, initramfs: image.path(), processors: batch[0].case.processors };
    let end = vm::run(machine, &log, limit, |line| {
        let vm::Line::Marked(line) = line else { return };
        lines.push(line.to_owned());
        let Some(run) = batch.get(outcomes.len()) else { return };
        let verdict = line.strip_prefix("scenario ").and_then(|rest| rest.strip_prefix(run.case.name.as_str()));
        if let Some(verdict @ (": PASS" | ": FAIL")) = verdict {
            outcomes.push(finish(run, std::mem::take(&mut lines), verdict == ": PASS", begun.elapsed()));
            begun = Instant::now();
        }
    })?;
    if let Some(run) = batch.get(outcomes.len()) {
        lines.push(format!("  FAIL the virtual machine ended early: {end:?}, see {}", log.display()));
        outcomes.push(finish(run, lines, false, begun.elapsed()));
    }
    Ok(outcomes)
}

fn finish(run: &Run, mut lines: Vec<String>, passed: bool, took: Duration) -> Outcome {
    let name = run.name();
    lines.insert(0, format!("\n[{name}]"));
    let outcome = Outcome { name, passed, lines, took };
    outcome.print();
    outcome
}

/// Runs the session's command in a guest and tells `hear` each line that it says; returns its exit code.
///
/// # Errors
/// When the guest does not boot, or ends before the command does.
pub fn command(kernel: &str, session: Session, binaries: &Binaries, mut hear: impl FnMut(&str)) -> Result<i32> {
    let kernel = kernel::fetch(kernel::series(kernel)?)?;
    let log = log_file(kernel.series.version)?;
    let image = boot_image(&kernel, binaries, &Job { scenarios: Vec::new(), session: Some(session) })?;
    let (mut begun, mut code) = (false, None);
    let machine = vm::Machine { kernel: &kernel, initramfs: image.path(), processors: 1 };
    let end = vm::run(machine, &log, COMMAND_LIMIT, |line| match line {
        vm::Line::Marked("begin") => begun = true,
        vm::Line::Marked(line) => code = line.strip_prefix("exit ").and_then(|code| code.parse().ok()),
        vm::Line::Other(line) if begun && code.is_none() => hear(line),
        vm::Line::Other(_) => {}
    })?;
    code.with_context(|| format!("the virtual machine ended before the command did: {end:?}, see {}", log.display()))
}

/// What a guest boots into, for this job.
///
/// # Errors
/// When a part of it is missing, or the file cannot be written.
pub fn boot_image(kernel: &Kernel, binaries: &Binaries, job: &Job) -> Result<tempfile::NamedTempFile> {
    let image = tempfile::NamedTempFile::new().context("make a file for the initramfs")?;
    std::fs::write(image.path(), initramfs::build(kernel, binaries, &toml::to_string(job)?)?)?;
    Ok(image)
}

/// A new file for a guest's console.
fn log_file(version: &str) -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    let directory = super::root().join("target/lab");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Ok(directory.join(format!("{version}-{}-{number}.log", std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once() {
        let outcome = |i: u32| Outcome { name: i.to_string(), passed: true, lines: Vec::new(), took: Duration::ZERO };
        let task =
            |i: u32| Task { estimate: Duration::from_secs(u64::from(i % 3)), work: Box::new(move || vec![outcome(i)]) };
        let mut done: Vec<u32> =
            run_all((0..20).map(task).collect()).iter().map(|outcome| outcome.name.parse().unwrap()).collect();
        done.sort_unstable();
        assert_eq!(done, (0..20).collect::<Vec<u32>>());
        assert!(run_all(Vec::new()).is_empty());
    }
}
