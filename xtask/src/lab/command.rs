//! Running the system's tools, with errors that show the command and what it said.
//! Knows nothing of what the tools are used for.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `program` with the words of `line` and returns its standard output.
/// The words are split at white space: for arguments that may contain any, use [`capture`].
///
/// # Errors
/// When the program cannot be started, or exits in failure: with what it wrote to stderr.
pub fn run(program: &str, line: &str) -> Result<String> {
    capture(Command::new(program).args(line.split_whitespace()))
}

/// Runs a prepared command to its end and returns its standard output.
///
/// # Errors
/// As [`run`].
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where a program lies: in PATH, or in the directories of administration that an ordinary user's PATH lacks.
///
/// # Errors
/// When it is nowhere; says which Debian package has it.
pub fn find(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let candidates = std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program));
    candidates
        .into_iter()
        .find(|file| file.is_file())
        .with_context(|| format!("no program `{program}` here: install the package {package}"))
}

/// A path as an argument inside a whitespace-split line is unsafe; this gives `key=path` as one argument.
pub fn assign(key: &str, path: &Path) -> std::ffi::OsString {
    let mut word = OsStr::new(key).to_os_string();
    word.push("=");
    word.push(path);
    word
}
