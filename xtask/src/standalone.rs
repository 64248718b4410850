//! `cargo xtask static`: mpnc that needs nothing of the system it runs on but a kernel: for containers and rescue
//! systems whose C library is another or none. Prints its path.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::sh;

/// The C library within the program. Since glibc 2.34 it resolves names by /etc/hosts and DNS without loading anything.
const FLAGS: &str = "-C target-feature=+crt-static";

/// Builds it (release), in the same target folder, beside what is built for this system.
pub(crate) fn main() -> Result<ExitCode> {
    println!("{}", build()?.display());
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<PathBuf> {
    let host = host()?;
    let target = sh::target_dir()?;
    // With --target, or the flags would hold for build scripts and macros as well, which cannot be static.
    let mut build =
        sh::cargo(&["build", "--quiet", "--release", "--package", "mpnc", "--bin", "mpnc", "--target", &host]);
    build.arg("--target-dir").arg(&target).env("RUSTFLAGS", FLAGS).stdin(Stdio::null());
    sh::show(&build);
    sh::check(&mut build)?;
    Ok(target.join(host).join("release/mpnc"))
}

/// The triple of this machine, as rustc calls it.
fn host() -> Result<String> {
    let output = Command::new("rustc").args(["--version", "--verbose"]).output().context("starting rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("rustc does not say what machine this is: {said}"),
    }
}
