//! What the tasks need beside a Rust toolchain, and how each thing gets onto the machine. Fetches it where it
//! may (Debian and its kin as root; cargo's own tools anywhere), and otherwise says what is missing and how to
//! get it. Every command is shown before it runs. Does not know which task needs what beyond the lists below.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use xtask::lab::Program;

use crate::sh;

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A Debian package of this name (the names of other distributions are mostly the same).
    Debian(&'static str),
    /// A crate of crates.io at this version, built once into the tools folder.
    Crate { name: &'static str, version: &'static str },
}

/// A program that a task runs, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The file looked for in PATH, in the sbin folders and in the tools folder.
    pub(crate) program: &'static str,
    pub(crate) source: Source,
}

const fn deb(program: &'static str, package: &'static str) -> Tool {
    Tool { program, source: Source::Debian(package) }
}

/// The checker of licences, duplicate and foreign dependencies.
pub(crate) const CARGO_DENY: Tool =
    Tool { program: "cargo-deny", source: Source::Crate { name: "cargo-deny", version: "0.20.2" } };

/// The programs that mpnc is measured beside on loopback.
pub(crate) const RIVALS: &[Tool] =
    &[deb("nc.openbsd", "netcat-openbsd"), deb("socat", "socat"), deb("mbuffer", "mbuffer"), deb("iperf3", "iperf3")];

/// What the tests that run anywhere watch and break things with. Without, each test says what it could not show.
pub(crate) const ANYWHERE: &[Tool] = &[
    deb("strace", "strace"),
    deb("losetup", "mount"),
    deb("prlimit", "util-linux"),
    deb("tmux", "tmux"),
    deb("b3sum", "b3sum"),
    deb("ip", "iproute2"),
    deb("ethtool", "ethtool"),
];

/// Network namespaces with shaped links and a firewall: tier 2 of the tests.
pub(crate) const NAMESPACES: &[Tool] = &[
    deb("ip", "iproute2"),
    deb("tc", "iproute2"),
    deb("ss", "iproute2"),
    deb("nft", "nftables"),
    deb("iperf3", "iperf3"),
    deb("socat", "socat"),
    deb("tmux", "tmux"),
    deb("b3sum", "b3sum"),
];

/// Virtual machines with real bonds: tier 3 of the tests. The kernels are fetched by the lab itself.
pub(crate) const MACHINES: &[Tool] = &tools(xtask::lab::PROGRAMS);

const fn tools<const N: usize>(programs: [Program; N]) -> [Tool; N] {
    let mut tools = [deb("", ""); N];
    let mut at = 0;
    while at < N {
        tools[at] = deb(programs[at].name, programs[at].package);
        at += 1;
    }
    tools
}

/// Makes sure that every tool is there.
///
/// # Errors
/// Names what is missing and how to get it: when `install` is false, when this is no Debian or not root (for
/// packages), or when the installation itself failed.
pub(crate) fn ensure(tools: &[Tool], install: bool) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let (packages, crates) = split(&missing);
    let may_use_apt = sh::is_root() && is_debian();
    if !install || !(packages.is_empty() || may_use_apt) {
        bail!("{}", how_to_get(&missing));
    }
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    for (name, version) in crates {
        cargo_install(name, version)?;
    }
    let still: Vec<_> = missing.into_iter().filter(|tool| find(tool).is_none()).collect();
    if !still.is_empty() {
        bail!("installed, and still not found: {}", how_to_get(&still));
    }
    Ok(())
}

/// The tools that this machine lacks.
pub(crate) fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().filter(|tool| find(tool).is_none()).copied().collect()
}

/// The path of a tool's program, if it is there.
pub(crate) fn find(tool: &Tool) -> Option<PathBuf> {
    match tool.source {
        Source::Crate { version, .. } => {
            let path = tools_dir().join("bin").join(tool.program);
            let output = Command::new(&path).arg("--version").output().ok()?;
            String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == version).then_some(path)
        }
        Source::Debian(_) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            // An ordinary user's PATH on Debian lacks the sbin folders, where ip, tc and nft live.
            std::env::split_paths(&path)
                .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
                .map(|dir| dir.join(tool.program))
                .find(|file| file.is_file())
        }
    }
}

/// Where cargo's tools are built and kept between runs, outside of the repository.
pub(crate) fn tools_dir() -> PathBuf {
    cache_dir().join("tools")
}

/// `$XDG_CACHE_HOME/mpnc`, by default `~/.cache/mpnc`.
pub(crate) fn cache_dir() -> PathBuf {
    let home = || Path::new(&std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map_or_else(home, PathBuf::from).join("mpnc")
}

/// What to tell a person who has to fetch the tools by hand.
pub(crate) fn how_to_get(missing: &[Tool]) -> String {
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let (packages, crates) = split(missing);
    let mut lines = vec![format!("missing: {}", programs.join(", "))];
    if !packages.is_empty() {
        lines.push(format!("as root, on Debian: apt-get install --no-install-recommends {}", packages.join(" ")));
        if !is_debian() {
            lines.push("(this is no Debian: the packages have the same or similar names elsewhere)".into());
        }
    }
    lines.extend(crates.into_iter().map(|(name, version)| sh::line(&cargo_install_command(name, version))));
    lines.join(
        "
  ",
    )
}

/// Package names without repetition, and crates with their versions.
fn split(tools: &[Tool]) -> (Vec<&'static str>, Vec<(&'static str, &'static str)>) {
    let (mut packages, mut crates) = (Vec::new(), Vec::new());
    for tool in tools {
        match tool.source {
            Source::Debian(package) if !packages.contains(&package) => packages.push(package),
            Source::Debian(_) => {}
            Source::Crate { name, version } => crates.push((name, version)),
        }
    }
    (packages, crates)
}

fn is_debian() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text))
}

/// Whether os-release(5) says Debian or a descendant (Ubuntu has `ID_LIKE=debian`).
fn names_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .any(|value| value.trim_matches('"').split(' ').any(|id| id == "debian"))
}

fn apt_install(packages: &[&str]) -> Result<()> {
    // Another apt-get may be at work (unattended upgrades): wait for its lock instead of failing at once.
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(args);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(std::process::Stdio::null());
        // What apt-get says belongs to the log; stdout may be somebody's pipe.
        command.stdout(std::io::stderr());
        sh::show(&command);
        sh::check(&mut command)
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    apt(&["update"])?;
    apt(&install)
}

fn cargo_install(name: &str, version: &str) -> Result<()> {
    let mut command = cargo_install_command(name, version);
    command.stdin(std::process::Stdio::null());
    sh::show(&command);
    sh::check(&mut command)
}

fn cargo_install_command(name: &str, version: &str) -> Command {
    let mut command = Command::new("cargo");
    // --debug: the tools run for seconds and would take minutes more to optimise.
    command.args(["install", "--locked", "--debug", "--version", version, "--root"]).arg(tools_dir()).arg(name);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: Tool = deb("mpnc-no-such-program", "mpnc-no-such-package");

    #[test]
    fn what_is_there_is_found_and_needs_nothing() {
        assert!(find(&deb("sh", "dash")).is_some());
        ensure(&[deb("sh", "dash")], false).unwrap();
    }

    #[test]
    fn without_leave_to_install_the_remedy_is_named() {
        let error = ensure(&[ABSENT, deb("sh", "dash")], false).unwrap_err().to_string();
        assert!(error.contains("missing: mpnc-no-such-program"), "{error}");
        assert!(error.contains("apt-get install --no-install-recommends mpnc-no-such-package"), "{error}");
        assert!(!error.contains("dash"), "{error}");
    }

    #[test]
    fn a_package_with_several_programs_is_named_once() {
        let (packages, crates) = split(&[deb("ip", "iproute2"), deb("tc", "iproute2"), CARGO_DENY]);
        assert_eq!((packages, crates), (vec!["iproute2"], vec![("cargo-deny", "0.20.2")]));
    }

    #[test]
    fn debian_and_its_descendants_are_recognised() {
        assert!(names_debian("NAME=x\nID=debian\n"));
        assert!(names_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(names_debian("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nNAME=\"not debian\"\n"));
    }
}
