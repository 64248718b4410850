//! What the virtual machine boots into: busybox, a shell, the network tools with their libraries, kernel modules, mpnc
//! and this program, which acts for the lab inside. Knows nothing of QEMU or of scenarios' content.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use super::kernel::Kernel;
use super::{PROGRAMS, Program, command};

/// Modules that a topology may need. Those that a series lacks or has built in are left out.
const MODULES: &[&str] = &[
    "bonding",
    "veth",
    "bridge",
    "br_netfilter",
    "8021q",
    "macvlan",
    "dummy",
    "vrf",
    "ipv6",
    "sch_tbf",
    "sch_netem",
    "sch_htb",
    "sch_prio",
    "sch_ingress",
    "sch_fq",
    "sch_fq_codel",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "cls_flower",
    "act_gact",
    "act_mirred",
    "act_bpf",
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_counter",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_reject_inet",
    "nft_limit",
    "nft_numgen",
    "tls",
    "ah4",
    "xfrm_user",
    "failover",
    "net_failover",
];

/// Where the guest finds its instructions.
pub const JOB: &str = "/job.toml";

/// The first program of the guest. busybox's shell prefers its own applets (`ip`!) to files: so it only mounts, loads
/// and hands over.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /applets /var/tmp
/bin/busybox --install -s /applets
export PATH=/bin:/applets HOME=/tmp TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
for module in /modules/*; do insmod "$module" || echo "lab: $module was not loaded"; done
ip link set lo up
setsid -c xtask guest
poweroff -f
"#;

/// The programs that a guest gets from this source tree.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The program under test.
    pub mpnc: PathBuf,
    /// This program: the lab's hand inside the guest.
    pub xtask: PathBuf,
}

/// The archive to boot `kernel` with, in memory. `job` is what [`JOB`] will hold.
///
/// # Errors
/// When a program or a library is missing on this machine (names the package), or a file cannot be read.
pub fn build(kernel: &Kernel, binaries: &Binaries, job: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["/proc", "/sys", "/dev", "/tmp", "/run", "/var", "/etc"] {
        archive.directory(directory)?;
    }
    archive.link("/var/run", "/run")?;
    archive.file("/init", INIT.as_bytes())?;
    archive.file(JOB, job.as_bytes())?;
    archive.file("/etc/passwd", b"root:x:0:0:root:/tmp:/bin/bash\nnobody:x:65534:65534:nobody:/tmp:/bin/bash\n")?;
    archive.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.file("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;

    // nft asks for protocols by name.
    archive.file("/etc/protocols", b"icmp 1\ntcp 6\nudp 17\nipv6-icmp 58\n")?;

    archive.copy("/bin/busybox", &command::find("busybox", "busybox-static")?)?;
    archive.link("/bin/sh", "bash")?;
    for Program { name, package, .. } in PROGRAMS.into_iter().filter(|program| program.in_guest) {
        program(&mut archive, &format!("/bin/{name}"), &command::find(name, package)?)?;
    }
    program(&mut archive, "/bin/mpnc", &binaries.mpnc)?;
    program(&mut archive, "/bin/xtask", &binaries.xtask)?;
    modules(&mut archive, kernel)?;
    archive.finish()
}

/// Adds a program, without its debugging symbols where `strip` can take them off, and the libraries that it names.
fn program(archive: &mut Archive, path: &str, from: &Path) -> Result<()> {
    archive.file(path, &stripped(from)?)?;
    // ldd fails on a static program: then there is nothing to add.
    let listed = command::capture(Command::new("ldd").arg(from)).unwrap_or_default();
    for line in listed.lines() {
        // "libm.so.6 => /lib/.../libm.so.6 (0x...)" or, for the loader, "/lib64/ld-linux-x86-64.so.2 (0x...)".
        let file = line.rsplit("=> ").next().unwrap_or_default().trim().split(' ').next().unwrap_or_default();
        ensure!(!line.contains("not found"), "{} lacks a library: {}", from.display(), line.trim());
        if file.starts_with('/') {
            archive.copy(file, Path::new(file))?;
        }
    }
    Ok(())
}

fn stripped(from: &Path) -> Result<Vec<u8>> {
    let copy = tempfile::NamedTempFile::new().context("make a file for a stripped program")?;
    let done = command::capture(Command::new("strip").arg("-o").arg(copy.path()).arg(from)).is_ok();
    fs::read(if done { copy.path() } else { from }).with_context(|| format!("read {}", from.display()))
}

/// Adds the wanted modules and what they depend on, named so that their order is the order of loading.
fn modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let mut names = Vec::new();
    for file in kernel.load_order(MODULES)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default().to_owned();
        archive.file(&format!("/modules/{:03}-{name}.ko", names.len()), &unpacked(&file)?)?;
        names.push(name);
    }
    ensure!(names.iter().any(|name| name == "bonding"), "no bonding module under {}", kernel.modules.display());
    Ok(())
}

fn unpacked(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|e| e != "xz") {
        return fs::read(file).with_context(|| format!("read {}", file.display()));
    }
    let output = Command::new("xz").arg("-dc").arg(file).output().context("start xz (package xz-utils)")?;
    ensure!(output.status.success(), "xz cannot unpack {}", file.display());
    Ok(output.stdout)
}
