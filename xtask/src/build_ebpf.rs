//! `cargo xtask build-ebpf`: the kernel programs, from source, into `target/ebpf/mpnc.bpf.o`; held against the object
//! that the repository keeps (`kept.rs`), or kept in its place.
//!
//! Takes the toolchain of the kept object's recipe if it is there, or else the first that is: rustup's nightly with
//! `rust-src` and `bpf-linker`, or Debian's own packages (`rustc-web` with its sources, LLVM, and `bpf-linker` built
//! into the tools folder). As root on Debian it fetches the latter. Only who changes the programs needs any of it, and
//! the build machine that checks them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::kept::{self, Recipe};
use crate::provision::{self, Source, Tool};
use crate::{programs, sh};

/// The version that fits the LLVM below, and the newest for Rust 1.95.
const BPF_LINKER: &str = "0.13.0";
/// Where Debian puts the LLVM that its rustc was built with.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// Flags of the compiler. The instruction set is not v3: with its 32-bit registers the compiler reuses stack slots in a
/// way that verifiers before Linux 6.8 take for corrupted pointers, unless the loader has `CAP_PERFMON` as well (seen
/// with 5.10 and 6.1).
pub(crate) const FLAGS: &str = "-C target-cpu=v2";
/// The release profile of the programs, in cargo's variables: the workspace's own is for user space. Without debug
/// information nothing in the object tells where it was built.
const PROFILE: [(&str, &str); 4] = [("LTO", "true"), ("DEBUG", "false"), ("PANIC", "abort"), ("CODEGEN_UNITS", "1")];

const fn deb(program: &'static str, package: &'static str) -> Tool {
    Tool { program, source: Source::Debian(package) }
}

/// Debian's toolchain, each package by a file that it brings.
const DEBIAN: &[Tool] = &[
    deb("/usr/bin/rustc", "rustc-web"),
    deb("/usr/bin/cargo", "cargo-web"),
    deb("/usr/lib/rustlib/src/rust/library/Cargo.lock", "rust-web-src"),
    deb("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
    deb("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev"),
    deb("/usr/include/zstd.h", "libzstd-dev"),
];

/// Arguments of `cargo xtask build-ebpf`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Keep the object: put it and its recipe into the repository, where mpnc's build finds them
    #[arg(long)]
    keep: bool,
    /// Fail unless the kept object is what the sources give
    #[arg(long, conflicts_with = "keep")]
    check: bool,
    /// Install nothing: say what is missing instead
    #[arg(long)]
    no_install: bool,
}

/// A toolchain that can build for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Toolchain {
    /// `rustup run nightly`, with the linker at this path.
    Rustup { linker: PathBuf },
    /// `/usr/bin/cargo`, with the linker at this path.
    Debian { linker: PathBuf },
}

/// Builds the object; prints its path on stdout, keeps it, or checks the kept one.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let install = !args.no_install;
    if args.check {
        check(install)?;
    } else if args.keep {
        keep(install)?;
    } else {
        println!("{}", build(&toolchain(install)?)?.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// One line on stderr where mpnc is about to be built with another object than its sources give.
pub(crate) fn warn_if_stale() {
    if let Err(error) = kept::current(&sh::root(), FLAGS) {
        eprintln!("xtask: {error:#}");
    }
}

fn keep(install: bool) -> Result<()> {
    let (root, toolchain) = (sh::root(), toolchain(install)?);
    let bytes = read(&build(&toolchain)?)?;
    let recipe = Recipe::of(&root, &bytes, toolchain.describe()?, FLAGS.to_owned())?;
    recipe.keep(&root, &bytes)?;
    eprintln!("kept {} ({} bytes, {})", kept::object(&root).display(), bytes.len(), recipe.toolchain);
    Ok(())
}

/// Proves that the kept object is what the sources give: byte for byte with the recipe's toolchain, instruction for
/// instruction with another.
///
/// # Errors
/// It is not, or could not be built.
pub(crate) fn check(install: bool) -> Result<()> {
    let (kept, recipe) = kept::current(&sh::root(), FLAGS)?;
    let toolchain = toolchain(install)?;
    let (described, built) = (toolchain.describe()?, read(&build(&toolchain)?)?);
    let is_same = described == recipe.toolchain;
    let found = if kept == built { Vec::new() } else { programs::differences(&kept, &built)? };
    if kept == built || (!is_same && found.is_empty()) {
        let how = if kept == built { "byte for byte" } else { "instruction for instruction" };
        eprintln!("the kept object is what the sources give, {how} ({described})");
        return Ok(());
    }
    let mut reasons = found;
    if reasons.is_empty() {
        reasons.push("the instructions are the same, other bytes of the file are not".to_owned());
    }
    if !is_same {
        // Compilers may differ in what they make of one source: then this proves nothing, and must not pass.
        reasons.push(format!(
            "the recipe's toolchain is another ({}, here {described}): it may be the compiler's doing; check with that \
             one, or keep what this one makes: `{}`",
            recipe.toolchain,
            kept::REMEDY
        ));
    }
    bail!("the kept object is not what the sources give:\n  {}", reasons.join("\n  "))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The toolchain at hand; `install`: fetch one where there is none and that may be done.
///
/// # Errors
/// None is there; the message says how to get one.
fn toolchain(install: bool) -> Result<Toolchain> {
    let wanted = Recipe::read(&sh::root()).map(|recipe| recipe.toolchain).ok();
    let present = [rustup(), debian()];
    let is_wanted = |toolchain: &&Toolchain| toolchain.describe().ok() == wanted;
    match present.iter().flatten().find(is_wanted).or_else(|| present.iter().flatten().next()) {
        Some(toolchain) => Ok(toolchain.clone()),
        None => provide(install),
    }
}

fn rustup() -> Option<Toolchain> {
    let linker = find_in_path("bpf-linker").or_else(own_linker)?;
    let mut ask = Command::new("rustup");
    ask.args(["run", "nightly", "rustc", "--print", "sysroot"]).stderr(Stdio::null());
    let output = ask.output().ok().filter(|output| output.status.success())?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
    source.is_file().then_some(Toolchain::Rustup { linker })
}

fn debian() -> Option<Toolchain> {
    let linker = own_linker()?;
    DEBIAN.iter().all(|tool| Path::new(tool.program).is_file()).then_some(Toolchain::Debian { linker })
}

/// The linker of the tools folder, if it is of the right version.
fn own_linker() -> Option<PathBuf> {
    let path = provision::tools_dir().join("bin/bpf-linker");
    let output = Command::new(&path).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    version.split_whitespace().any(|word| word == BPF_LINKER).then_some(path)
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Debian's packages, then the linker against their LLVM.
fn provide(install: bool) -> Result<Toolchain> {
    if let Err(error) = provision::ensure(DEBIAN, install) {
        bail!(
            "no toolchain for eBPF. With rustup:\n  rustup toolchain install nightly --component rust-src\n  cargo \
             install bpf-linker\n{error:#}"
        );
    }
    if own_linker().is_none() {
        if !install {
            bail!("bpf-linker is missing: {}", sh::line(&linker_install()));
        }
        let mut command = linker_install();
        show_with_environment(&command);
        sh::check(&mut command)?;
    }
    debian().context("Debian's eBPF toolchain was installed and is still not complete")
}

/// Builds the linker with this program's own cargo: Debian's would do, but need not be newest.
fn linker_install() -> Command {
    let mut command = sh::cargo(&["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    command.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(provision::tools_dir());
    command.env("LLVM_PREFIX", DEBIAN_LLVM).env("LLVM_SYS_221_PREFIX", DEBIAN_LLVM);
    command.env("PATH", prepend(&[Path::new(DEBIAN_LLVM).join("bin")]));
    command.stdin(Stdio::null());
    command
}

impl Toolchain {
    /// Both compilers by version: the object's instructions are the work of the linker's LLVM.
    fn describe(&self) -> Result<String> {
        let (mut rustc, linker, llvm) = match self {
            Self::Rustup { linker } => {
                let mut rustc = Command::new("rustup");
                rustc.args(["run", "nightly", "rustc"]);
                (rustc, linker, "rustc's".to_owned())
            }
            Self::Debian { linker } => {
                let mut config = Command::new(Path::new(DEBIAN_LLVM).join("bin/llvm-config"));
                (Command::new("/usr/bin/rustc"), linker, said(config.arg("--version"))?)
            }
        };
        let rustc = said(rustc.env_remove("RUSTUP_TOOLCHAIN").args(["--version", "--verbose"]))?;
        let field = |name: &str| rustc.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
        let compiler = format!("{}, LLVM {}", rustc.lines().next().unwrap_or("?"), field("LLVM version:"));
        Ok(format!("{compiler}; {}, LLVM {llvm}", said(Command::new(linker).arg("--version"))?))
    }
}

/// What a program says on stdout.
fn said(command: &mut Command) -> Result<String> {
    let shown = sh::line(command);
    let output = command.stderr(Stdio::null()).output().with_context(|| format!("starting `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    let target = sh::target_dir()?;
    // A folder of its own: another compiler and other flags would throw the host's artefacts away.
    let build_dir = target.join("ebpf-build");
    let mut command = cargo_of(toolchain);
    command.args(["build", "--quiet", "--locked", "--release", "--package", "mpnc-ebpf", "--bin", "mpnc-bpf"]);
    command.args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"]).arg(&build_dir);
    command.current_dir(sh::root()).stdin(Stdio::null()).stdout(std::io::stderr());
    show_with_environment(&command);
    sh::check(&mut command)?;

    let built = build_dir.join(TARGET).join("release/mpnc-bpf");
    let object = target.join("ebpf/mpnc.bpf.o");
    fs::create_dir_all(target.join("ebpf")).context("making the folder of the object")?;
    replace_if_changed(&built, &object)?;
    Ok(object)
}

/// Byte order of the machine that runs the programs, which is this one; the kept object is little-endian.
const TARGET: &str = if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

fn cargo_of(toolchain: &Toolchain) -> Command {
    let (mut command, linker) = match toolchain {
        Toolchain::Rustup { linker } => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]);
            (command, linker)
        }
        Toolchain::Debian { linker } => {
            let mut command = Command::new("/usr/bin/cargo");
            // Debian's rustc is stable; rustup's proxies must not come before it.
            command.env("RUSTC_BOOTSTRAP", "1").env("PATH", "/usr/bin:/bin");
            (command, linker)
        }
    };
    // Whatever cargo runs this task has told its children which toolchain they are: not these.
    for variable in ["RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC", "CARGO", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command.env("RUSTFLAGS", format!("-C linker={} {FLAGS}", linker.display()));
    command.envs(PROFILE.map(|(name, value)| (format!("CARGO_PROFILE_RELEASE_{name}"), value)));
    command
}

/// Leaves the time of an unchanged object alone, so that mpnc is not rebuilt for it.
fn replace_if_changed(built: &Path, object: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::write(object, new).with_context(|| format!("writing {}", object.display()))
}

/// Here the environment is half of the command.
fn show_with_environment(command: &Command) {
    let set =
        command.get_envs().filter_map(|(name, value)| Some(format!("{}='{}' ", name.display(), value?.display())));
    eprintln!("$ {}{}", set.collect::<String>(), sh::line(command));
}

/// PATH with these folders first.
fn prepend(dirs: &[PathBuf]) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = dirs.iter().cloned().chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the command sets a variable to; empty for one that it removes, `None` for one that it inherits.
    fn variable<'a>(command: &'a Command, name: &str) -> Option<&'a str> {
        let (_, value) = command.get_envs().find(|(key, _)| *key == name)?;
        value.map_or(Some(""), |v| v.to_str())
    }

    #[test]
    fn debians_cargo_sees_nothing_of_rustup() {
        let command = cargo_of(&Toolchain::Debian { linker: "/tools/bin/bpf-linker".into() });
        assert_eq!(command.get_program(), "/usr/bin/cargo");
        assert_eq!(variable(&command, "PATH"), Some("/usr/bin:/bin"));
        assert_eq!(variable(&command, "RUSTUP_TOOLCHAIN"), Some(""));
        assert_eq!(variable(&command, "RUSTC_BOOTSTRAP"), Some("1"));
        let flags = variable(&command, "RUSTFLAGS").unwrap();
        assert!(flags.contains("linker=/tools/bin/bpf-linker") && flags.contains("target-cpu=v2"), "{flags}");
    }

    #[test]
    fn rustups_nightly_needs_no_bootstrap() {
        let command = cargo_of(&Toolchain::Rustup { linker: "bpf-linker".into() });
        assert_eq!(sh::line(&command), "rustup run nightly cargo");
        assert_eq!(variable(&command, "RUSTC_BOOTSTRAP"), None);
    }

    #[test]
    fn an_unchanged_object_keeps_its_time() {
        let dir = std::env::temp_dir().join(format!("mpnc-build-ebpf-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (built, object) = (dir.join("built"), dir.join("object"));
        fs::write(&built, "one").unwrap();
        replace_if_changed(&built, &object).unwrap();
        let time = || fs::metadata(&object).unwrap().modified().unwrap();
        let first = time();
        std::thread::sleep(std::time::Duration::from_millis(20));
        replace_if_changed(&built, &object).unwrap();
        assert_eq!(time(), first);
        fs::write(&built, "two").unwrap();
        replace_if_changed(&built, &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
