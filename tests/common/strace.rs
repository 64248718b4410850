//! strace, by which tests watch the calls of mpnc and make them fail.

use super::needs;
use std::process::{Command, Stdio};

/// Whether strace works here: it may be missing, or forbidden. If not, the running test is skipped and has to return.
#[track_caller]
pub(crate) fn is_there() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let works = traced.is_ok_and(|status| status.success());
    if !works {
        needs::missing("strace does not work: install it, and in a container give it CAP_SYS_PTRACE");
    }
    works
}
