//! `cargo xtask ci`: everything that must hold before a merge, in one command, the same here and on a build
//! machine. Runs every step even after one failed, so that one run shows all there is to mend.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::test::Tally;
use crate::{build_ebpf, provision, sh, test, tidy};

/// One step: its name, and what it does.
type Step = (&'static str, fn() -> Result<Tally>);

const STEPS: &[Step] = &[
    ("format", || command(&mut sh::cargo(&["fmt", "--all", "--check"]))),
    ("clippy", clippy),
    ("tidy", tidy),
    ("ebpf", ebpf),
    ("doc", doc),
    ("deny", deny),
    ("test", || Ok(test::run(&test::Args::default()))),
];

/// Runs the steps; the last lines are a table of them and `N passed, N failed, N skipped`, tests and steps together.
pub(crate) fn main() -> ExitCode {
    let mut total = Tally::default();
    let mut table = Vec::new();
    for (name, step) in STEPS {
        println!("\n==== {name}");
        let start = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { failed: 1, ..Tally::default() }
        });
        total += tally;
        table.push((name, tally, start.elapsed()));
    }
    println!("\nstep      result   time");
    for (name, tally, took) in &table {
        println!("{name:<8}  {:<7}  {}", if tally.failed == 0 { "ok" } else { "FAILED" }, sh::pretty(*took));
    }
    println!("total              {}\n", sh::pretty(table.iter().map(|row| row.2).sum::<Duration>()));
    println!("{total}");
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A step that is one command.
fn command(command: &mut Command) -> Result<Tally> {
    sh::show(command);
    sh::check(command)?;
    Ok(PASSED)
}

const PASSED: Tally = Tally { passed: 1, failed: 0, skipped: 0 };

fn clippy() -> Result<Tally> {
    command(&mut sh::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // --all-targets leaves out what a plain `cargo test` leaves out: the tests that need root.
    for target in test::targets("netns")? {
        command(&mut sh::cargo(&["clippy", "--package", "mpnc", "--test", &target, "--", "-D", "warnings"]))?;
    }
    Ok(PASSED)
}

fn tidy() -> Result<Tally> {
    if tidy::main(&tidy::Args::default())? != ExitCode::SUCCESS {
        bail!("findings above");
    }
    Ok(PASSED)
}

/// The one step that needs a BPF toolchain.
fn ebpf() -> Result<Tally> {
    build_ebpf::check(true)?;
    Ok(PASSED)
}

fn doc() -> Result<Tally> {
    let mut doc = sh::cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    command(&mut doc)
}

fn deny() -> Result<Tally> {
    provision::ensure(&[provision::CARGO_DENY], true)?;
    let program = provision::find(&provision::CARGO_DENY).unwrap_or_else(|| "cargo-deny".into());
    let mut deny = Command::new(program);
    // Warnings about duplicates in the tree below us are for a person who updates dependencies, not for the log.
    deny.args(["--log-level", "error", "check", "licenses", "bans", "sources"]).current_dir(sh::root());
    command(&mut deny)
}
