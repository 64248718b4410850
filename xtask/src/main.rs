//! Build, test and lab tasks of mpnc.

use xtask::lab;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
enum Task {
    /// Bring up bonds and a switch in a virtual machine (or their stand-in natively): for a shell, a command, scenario files.
    Lab(lab::LabArgs),
    /// The lab's own part inside the virtual machine.
    #[command(hide = true)]
    Guest(lab::guest::GuestArgs),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Lab(arguments) => binaries().and_then(|binaries| lab::main(&arguments, &binaries)),
        Task::Guest(arguments) => lab::guest::main(&arguments).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// This program, and mpnc as built for release.
fn binaries() -> anyhow::Result<lab::Binaries> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "mpnc"])
        .current_dir(&root)
        .status()?;
    anyhow::ensure!(built.success(), "mpnc does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(lab::Binaries { mpnc: target.join("release/mpnc").canonicalize()?, xtask: std::env::current_exe()? })
}
