//! Commands as a person would type them: shown, run and judged. Knows where the repository and its build output
//! are; knows nothing of any task.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// The workspace's top folder.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for whatever it runs; the compiled-in value serves a binary started by hand.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's output folder: two above this program, so that `CARGO_TARGET_DIR` and configuration files are obeyed
/// without being read again.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("finding this program's own path")?;
    me.ancestors().nth(2).map(Path::to_path_buf).context("this program has no target folder above it")
}

/// The cargo that runs this program, in the workspace's top folder.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Builds mpnc as users get it and says where it is. Cargo talks on stderr; stdin and stdout stay untouched.
pub(crate) fn build_release() -> Result<PathBuf> {
    let target = target_dir()?;
    let mut build = cargo(&["build", "--quiet", "--release", "--package", "mpnc", "--bin", "mpnc"]);
    build.arg("--target-dir").arg(&target).stdin(Stdio::null());
    check(&mut build)?;
    Ok(target.join("release/mpnc"))
}

/// What the lab puts on its hosts: mpnc as users get it, and this program.
pub(crate) fn binaries() -> Result<xtask::lab::Binaries> {
    let xtask = std::env::current_exe().context("finding this program's own path")?;
    Ok(xtask::lab::Binaries { mpnc: build_release()?, xtask })
}

/// The command line as it could be typed, with quotes where a shell needs them.
pub(crate) fn line(command: &Command) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let program = Path::new(command.get_program());
    // The cargo that started us is an absolute path deep in a toolchain: show the name that a person types.
    let program = if program.file_name() == Some(OsStr::new("cargo")) { Path::new("cargo") } else { program };
    std::iter::once(quoted(program.as_os_str())).chain(command.get_args().map(quoted)).collect::<Vec<_>>().join(" ")
}

/// Shows the command on stderr, in the form `$ cargo build`.
pub(crate) fn show(command: &Command) {
    eprintln!("$ {}", line(command));
}

/// Runs a command to its end; an unsuccessful one is an error that names it.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let shown = line(command);
    let status = command.status().with_context(|| format!("starting `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Whether the person at the keyboard is nobody but a build machine, where a skip must not pass for a success.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true" || v == "1")
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`.
pub(crate) fn pretty(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        secs @ 10..120 => format!("{secs} s"),
        secs => format!("{} min {:02} s", secs / 60, secs % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_can_be_pasted_into_a_shell() {
        let mut command = Command::new("/opt/toolchain/bin/cargo");
        command.args(["test", "it's two words", ""]);
        assert_eq!(line(&command), r"cargo test 'it'\''s two words' ''");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(pretty(Duration::from_millis(440)), "0.4 s");
        assert_eq!(pretty(Duration::from_secs(59)), "59 s");
        assert_eq!(pretty(Duration::from_secs(185)), "3 min 05 s");
    }
}
