//! What a command inherits, and that it does not outlive mpnc: settled in the child between fork(2) and execve(2).
//!
//! It gets three descriptors, default signals, an empty mask, and a process group of its own, so that all of a pipeline
//! can be signalled. When the thread that started it is gone, and with it mpnc, the kernel kills it (the command
//! itself; what it has started is not reached). Must not know what the command is for.
#![expect(unsafe_code, reason = "what happens between fork and exec has no safe form")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Prepares a command in this way. It must be started by a thread that lives for as long as the command: the kernel
/// takes the end of that thread for its parent's death (prctl(2), `PR_SET_PDEATHSIG`).
pub fn isolate(command: &mut Command) {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: the closure allocates nothing, takes no lock, and makes only calls that are safe after fork
    // (signal-safety(7)).
    unsafe { command.pre_exec(move || before_exec(parent)) };
}

fn before_exec(parent: u32) -> io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getppid cannot fail.
    if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
        // mpnc was gone before the kernel was asked.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    default_signals();
    close_others();
    Ok(())
}

/// What is caught falls back to its default by itself; what is ignored would stay so (execve(2)).
fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: no handler is installed; SIGKILL, SIGSTOP and the C library's own are refused, which is as well.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Everything but the standard files closes on execve(2): also what mpnc itself has inherited.
fn close_others() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: close_range (Linux 5.9; this flag 5.11) takes numbers and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) } == 0;
    for fd in 3..if done { 3 } else { OLDER_KERNELS } {
        // SAFETY: F_SETFD takes a number; a descriptor that is not open answers EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Descriptors that are looked at one by one where the kernel cannot do it at once.
const OLDER_KERNELS: libc::c_int = 4096;

/// Two signals as mpnc needs them, however it was started. A write beyond `ulimit -f` fails with EFBIG, which has
/// words, instead of killing the process (setrlimit(2), `RLIMIT_FSIZE`). And commands wait to be asked how they ended:
/// with SIGCHLD ignored, which execve(2) hands on, the kernel would throw that away (wait(2), notes).
pub fn settle_signals() {
    // SAFETY: no handler is installed.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_command_has_three_descriptors_default_signals_and_a_group_of_its_own() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: F_SETFD on an open descriptor takes a number; this one is to be inherited.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "ls -l /proc/$$/fd | grep -c 'null$'; grep SigIgn /proc/$$/status; cut -d' ' -f1,5 /proc/$$/stat",
        ]);
        command.stdin(std::process::Stdio::piped());
        isolate(&mut command);
        let out = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some("0"), "{out}");
        let ignored = lines.next().and_then(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
        // Signals 32 and 33 are the C library's, which lets nobody change them.
        assert_eq!(ignored.map(|set| set & !(0b11 << 31)), Some(0), "{out}");
        let (pid, group) = lines.next().and_then(|line| line.split_once(' ')).unwrap();
        assert_eq!(pid, group);
    }
}
