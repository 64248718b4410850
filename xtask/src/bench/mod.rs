//! `cargo xtask bench`: mpnc beside other programs, on this machine, in one sitting. Absolute figures belong to
//! the machine; what can be compared are the ratios within one table.

mod bond;
mod loopback;
mod measure;
mod memory;
mod observer;
mod report;
mod rival;
mod sitting;

use std::process::ExitCode;

use anyhow::Result;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// A file in memory to /dev/null over loopback: what the program itself costs
    Loopback(loopback::Args),
    /// The same over several shaped links with a bond's hash before them: how much of them is filled (needs root)
    Bond(bond::Args),
    /// What the eBPF observer costs, by either way to attach it (needs root)
    Observer(observer::Args),
}

/// Runs the benchmark that was asked for.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Loopback(args) => loopback::main(args),
        What::Bond(args) => bond::main(args),
        What::Observer(args) => observer::main(args),
    }
}
