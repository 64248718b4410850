//! The lab's part inside the virtual machine: reads its job from the initramfs, runs it, and reports over the console.
//! Runs in no other place: it trusts that the machine is its own.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::initramfs::{Binaries, JOB};
use super::probe;
use super::scenario::Scenario;
use super::session::{self, Session};
use super::vm::MARK;

/// What the guest has to do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Job {
    /// Scenario files to run, in this order.
    pub scenarios: Vec<File>,
    /// Or a network to bring up and a command to run in it.
    pub session: Option<Session>,
}

/// A scenario, and which case of the file's matrix to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct File {
    /// The file's name, without extension.
    pub stem: String,
    /// Its text.
    pub text: String,
    /// The case's name.
    pub case: String,
}

/// What is asked of this program inside the lab; without a task, the virtual machine's job.
#[derive(Debug, clap::Args)]
pub struct GuestArgs {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, clap::Subcommand)]
enum Task {
    /// Take probes.
    Sink { port: u16 },
    /// Make probes.
    Dial { host: IpAddr, port: u16 },
}

/// Does the task.
///
/// # Errors
/// When it fails; for the job, when there is none or it cannot be read.
pub fn main(arguments: &GuestArgs) -> Result<()> {
    match arguments.task {
        Some(Task::Sink { port }) => probe::sink(port),
        Some(Task::Dial { host, port }) => probe::dial(host, port),
        None => job(),
    }
}

fn job() -> Result<()> {
    let job: Job = toml::from_str(
        &std::fs::read_to_string(JOB).with_context(|| format!("read {JOB}: is this the lab's guest?"))?,
    )?;
    let binaries = Binaries { mpnc: "/bin/mpnc".into(), xtask: "/bin/xtask".into() };
    for file in &job.scenarios {
        let cases = Scenario::parse(&file.stem, &file.text)?;
        let scenario = cases.iter().find(|case| case.name == file.case).context("the case of the job")?;
        super::run::run(scenario, &binaries, &mut |line| println!("{MARK}{line}"));
        // What a scenario left in memory must not weigh on the next.
        let _ = Command::new("sh").args(["-c", "echo 3 > /proc/sys/vm/drop_caches"]).status();
    }
    if let Some(session) = &job.session {
        println!("{MARK}begin");
        let code = session::run(session, false, &binaries)?;
        println!("{MARK}exit {code}");
    }
    Ok(())
}
