//! What a test needs of the system. Where it is missing that is said loudly, and counted as skipped by `cargo xtask test`, which installs
//! what it may; a program that is missing on a build machine (`CI=true`) is a failure, as nobody would read what was said.

use std::process::{Command, Stdio};
use std::thread;

/// Whether strace works here: it may be missing, or forbidden.
pub(crate) fn has_strace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        let what = "strace does not work here: install it, and in a container give it CAP_SYS_PTRACE";
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{what}");
        skipped(what);
    }
    works
}

/// Says why something is not shown here.
pub(crate) fn skipped(what: &str) {
    eprintln!("SKIP: {}: {what}", thread::current().name().unwrap_or("a test"));
}
