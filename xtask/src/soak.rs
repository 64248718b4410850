//! `cargo xtask soak`: the simulated transfers with new seeds for as long as asked, or one seed again. What a run is
//! and must hold is in `mpnc/src/transfer/sim` and `mpnc/src/paths/sim`; this only chooses seeds.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::sh;

/// Seeds between two looks at the clock.
const ROUND: u64 = 20_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to run on
    #[arg(long, default_value_t = 10, value_name = "N")]
    minutes: u64,
    /// Run this seed alone: what a failure prints
    #[arg(long, conflicts_with = "minutes")]
    seed: Option<u64>,
}

/// Runs until the time is up or a seed fails.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if let Some(seed) = args.seed {
        return simulate(&[("MPNC_SIM_SEED", seed)]);
    }
    let (begin, mut seeds) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_mins(args.minutes) {
        // The standard library's hasher is seeded at random.
        let base = RandomState::new().build_hasher().finish();
        let code = simulate(&[("MPNC_SIM_BASE", base), ("MPNC_SIM_RUNS", ROUND)])?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        seeds += ROUND;
        println!("soak: {seeds} seeds with and {seeds} without faults, {}: no failure", sh::pretty(begin.elapsed()));
    }
    Ok(ExitCode::SUCCESS)
}

fn simulate(settings: &[(&str, u64)]) -> Result<ExitCode> {
    let mut test = sh::cargo(&["test", "--quiet", "--package", "mpnc", "--lib", "transfer::sim::seeds"]);
    test.envs(settings.iter().map(|(name, value)| (name, value.to_string()))).env("RUST_BACKTRACE", "0");
    sh::show(&test);
    let status = test.status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
