//! mpnc's build, test and lab tasks, one file each: `cargo xtask help`.
//!
//! Everything a person or a build machine does to this repository has one command here, and fetches what it
//! needs by itself where it may (`provision.rs`). This file only parses and dispatches.

mod bench;
mod build_ebpf;
mod ci;
mod feed;
mod kept;
mod kernels;
mod programs;
mod provision;
mod run;
mod sh;
mod skips;
mod soak;
mod standalone;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::lab;

/// Build, test and measure mpnc.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Without arguments, a demonstration on loopback; with arguments, mpnc (release build) with them
    Run(run::Args),
    /// Run the tests, tier by tier: anywhere, as root in network namespaces, in virtual machines
    Test(test::Args),
    /// Everything that must hold before a merge: formatting, lints, tidy, documentation, licences, tests
    Ci,
    /// Run simulated transfers with new seeds, for as long as asked; a failure names its seed
    Soak(soak::Args),
    /// Check the rules that no compiler checks: layers, circles, unsafe, headers, lengths
    Tidy(tidy::Args),
    /// Measure mpnc beside other programs
    Bench(bench::Args),
    /// Build the kernel programs afresh; print the object's path, keep it, or check the kept one
    BuildEbpf(build_ebpf::Args),
    /// Build mpnc so that it needs nothing of the system it runs on (containers), and print its path
    Static,
    /// Bring up bonds and a switch, in a virtual machine or natively, for a shell, a command or scenario files
    Lab(lab::LabArgs),
    /// The lab's own part inside the virtual machine
    #[command(hide = true)]
    Guest(lab::guest::GuestArgs),
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    if matches!(task, Task::Run(_) | Task::Test(_) | Task::Bench(_) | Task::Static | Task::Lab(_)) {
        build_ebpf::warn_if_stale();
    }
    let result = match task {
        Task::Run(args) => run::main(&args),
        Task::Test(args) => Ok(test::main(&args)),
        Task::Ci => Ok(ci::main()),
        Task::Soak(args) => soak::main(&args),
        Task::Tidy(args) => tidy::main(&args),
        Task::Bench(args) => bench::main(&args),
        Task::Static => standalone::main(),
        Task::BuildEbpf(args) => build_ebpf::main(&args),
        Task::Lab(args) => lab(&args),
        Task::Guest(args) => lab::guest::main(&args).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The lab, with what it needs on the machine.
fn lab(args: &lab::LabArgs) -> anyhow::Result<ExitCode> {
    provision::ensure(provision::MACHINES, true)?;
    let code = lab::main(args, &sh::binaries()?)?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
