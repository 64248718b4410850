//! `cargo xtask build-ebpf`: the kernel programs, from source, into `target/ebpf/mpnc.bpf.o`.
//!
//! Takes the first toolchain that is there: rustup's nightly with `rust-src` and `bpf-linker`, or Debian's own packages
//! (`rustc-web` with its sources, LLVM, and `bpf-linker` built into the tools folder). As root on Debian it fetches the
//! latter. Nothing else needs any of it: mpnc embeds the object when `MPNC_EBPF_OBJECT` names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::provision::{self, Source, Tool};
use crate::sh;

/// What mpnc's build script reads.
const OBJECT_VARIABLE: &str = "MPNC_EBPF_OBJECT";
/// The version that fits the LLVM below, and the newest for Rust 1.95.
const BPF_LINKER: &str = "0.13.0";
/// Where Debian puts the LLVM that its rustc was built with.
const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";
/// Instruction set of the programs. Not v3: with its 32-bit registers the compiler reuses stack slots in a way that
/// verifiers before Linux 6.8 take for corrupted pointers, unless the loader has `CAP_PERFMON` as well (seen with 5.10
/// and 6.1).
const CPU: &str = "v2";

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

/// Builds the object and prints its path on stdout.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let object = build(!args.no_install)?;
    println!("{}", object.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the object with the toolchain at hand; `install`: fetch one where there is none and that may be done.
///
/// # Errors
/// No toolchain (the message says how to get one), or the build failed.
fn build(install: bool) -> Result<PathBuf> {
    let toolchain = match present() {
        Some(toolchain) => toolchain,
        None => provide(install)?,
    };
    compile(&toolchain)
}

/// Lets every mpnc that this program builds from now on embed the object, where it can be had: with a toolchain that is
/// there or, with `install`, may be fetched. Where not, the reason goes to stderr. A variable that is set already
/// stands, also an empty one (without the object).
pub(crate) fn embed(install: bool) {
    if std::env::var_os(OBJECT_VARIABLE).is_some() {
        return;
    }
    match build(install) {
        Ok(object) => drop(sh::BUILD_ENV.set((OBJECT_VARIABLE, object))),
        Err(error) => eprintln!("xtask: mpnc is built without the eBPF object: {error:#}"),
    }
}

fn present() -> Option<Toolchain> {
    rustup().or_else(debian)
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

fn compile(toolchain: &Toolchain) -> Result<PathBuf> {
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

/// Byte order of the machine that runs the programs, which is this one.
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
    command.env("RUSTFLAGS", format!("-C linker={} -C target-cpu={CPU}", linker.display()));
    // The workspace's release profile is for user space.
    command.env("CARGO_PROFILE_RELEASE_LTO", "true").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    command.env("CARGO_PROFILE_RELEASE_PANIC", "abort").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
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
