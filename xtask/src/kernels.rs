//! The tests of the kernel programs (`tests/ebpf.rs`) on the lab's kernels: older verifiers, hooks that this machine's kernel
//! has outgrown, and real bonds. One result per kernel; what failed in it is in the output.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use xtask::lab::{self, Binaries, LabArgs};

use crate::sh;
use crate::test::{Tally, not_run};

/// The oldest that has all that mpnc uses of eBPF, Debian's stable one, and the first with tcx.
const KERNELS: &[&str] = &["5.10", "6.1", "6.12"];
/// Left out: millions of packets take minutes in emulation, and they run on this machine's kernel.
const TOO_LONG: &str = "bit_for_bit";

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    lab: LabArgs,
}

/// Boots each kernel and runs the tests in it. Without the eBPF object they would all be skipped: then nothing is booted.
pub(crate) fn run(filter: Option<&str>) -> Result<(Tally, Vec<String>)> {
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    if filter.is_some_and(|filter| !"ebpf".contains(filter)) {
        return Ok((tally, failures));
    }
    if sh::BUILD_ENV.get().is_none() && std::env::var_os("MPNC_EBPF_OBJECT").is_none_or(|path| path.is_empty()) {
        tally += not_run(KERNELS.len() as u64, sh::is_ci());
        let note = format!("SKIPPED: the tests of the kernel programs on Linux {}: no eBPF object", KERNELS.join(", "));
        return Ok((tally, vec![note]));
    }
    // The lab runs "mpnc" in host A: here that is the test program.
    let binaries = Binaries { mpnc: executable()?, ..sh::binaries()? };
    for kernel in KERNELS {
        println!("\neBPF on Linux {kernel}");
        let tests = ["mpnc", "--test-threads=1", "--nocapture", "--skip", TOO_LONG];
        let line = Line::try_parse_from(["lab", "--kernel", kernel, "--"].into_iter().chain(tests))?;
        if lab::main(&line.lab, &binaries)? == 0 {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            failures.push(format!("FAILED: eBPF on Linux {kernel}"));
        }
    }
    Ok((tally, failures))
}

/// Builds the test program and says where it is.
fn executable() -> Result<PathBuf> {
    let mut build =
        sh::cargo(&["test", "--package", "mpnc", "--test", "ebpf", "--no-run", "--quiet", "--message-format=json"]);
    build.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = build.output().context("starting cargo")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    find_executable(&messages).context("cargo built no test named ebpf: see above")
}

/// The program in cargo's messages.
fn find_executable(messages: &str) -> Option<PathBuf> {
    let mut paths = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message.pointer("/target/name")?.as_str()? == "ebpf";
        is_test.then(|| message.get("executable")?.as_str().map(PathBuf::from)).flatten()
    });
    paths.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"mpnc"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"mpnc"},"executable":"/t/mpnc"}
            {"reason":"compiler-artifact","target":{"name":"ebpf"},"executable":"/t/ebpf-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(find_executable(messages), Some("/t/ebpf-1".into()));
        assert_eq!(find_executable("no json"), None);
    }

    #[test]
    fn the_labs_line_is_understood() {
        assert!(Line::try_parse_from(["lab", "--kernel", KERNELS[0], "--", "mpnc", "--nocapture"]).is_ok());
    }
}
