//! The tests of the kernel programs (`tests/ebpf.rs`) on the lab's kernels: older verifiers, hooks that this machine's
//! kernel has outgrown, and real bonds. One result per kernel; what failed in it is in the output.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xtask::lab::machines::{self, Task};
use xtask::lab::session::Session;
use xtask::lab::{Binaries, Outcome};

use crate::{sh, skips};

/// The oldest that has all that mpnc uses of eBPF, Debian's stable one, the first with tcx, and the newest.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.3"];
/// How many of them are part of every run; `--long` adds the rest.
const SHORT: usize = 3;
/// Left out: millions of packets take minutes in emulation, and they run on this machine's kernel.
const TOO_LONG: &str = "bit_for_bit";
/// About how long one kernel takes.
const ESTIMATE: Duration = Duration::from_mins(2);

/// Without the eBPF object all of them would be skipped: then booting is in vain.
pub(crate) fn can_run() -> bool {
    std::env::var_os("MPNC_EBPF_OBJECT").map_or(cfg!(target_endian = "little"), |path| !path.is_empty())
}

/// The kernels of a run.
pub(crate) fn versions(long: bool) -> &'static [&'static str] {
    if long { &KERNELS } else { &KERNELS[..SHORT] }
}

/// One task for each kernel: boots it and runs the tests in it.
pub(crate) fn tasks(long: bool) -> Result<Vec<Task<'static>>> {
    // The lab runs "mpnc" in host A: here that is the test program.
    let binaries = Binaries { mpnc: executable()?, ..sh::binaries()? };
    let task = |kernel: &&'static str| {
        let (kernel, binaries) = (*kernel, binaries.clone());
        Task { estimate: ESTIMATE, work: Box::new(move || vec![run(kernel, &binaries)]) }
    };
    Ok(versions(long).iter().map(task).collect())
}

fn run(kernel: &str, binaries: &Binaries) -> Outcome {
    let name = format!("eBPF on Linux {kernel}");
    let (mut lines, begun) = (vec![format!("\n[{name}]")], Instant::now());
    // What a test cannot show on this kernel goes to where the rest of its output goes.
    let record = format!("{}=/proc/self/fd/2", skips::VARIABLE);
    let words = ["env", &record, "mpnc", "--include-ignored", "--test-threads=1", "--nocapture", "--skip", TOO_LONG];
    let command = words.map(String::from).to_vec();
    let session = Session { topology: toml::Table::new(), command };
    let code = machines::command(kernel, session, binaries, |line| lines.push(line.to_owned()));
    if let Err(error) = &code {
        lines.push(format!("  FAIL the lab: {error:#}"));
    }
    let outcome = Outcome { name, passed: matches!(code, Ok(0)), lines, took: begun.elapsed() };
    outcome.print();
    outcome
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
}
