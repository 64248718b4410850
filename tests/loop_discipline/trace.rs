//! What a thread did while it ran an event loop, by what strace wrote of it, and which of that may block or touches
//! what the loop must not.
//!
//! A loop runs from a thread's first wait for events to its last. What is allowed there is listed; all else is a
//! finding.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// No single call may take longer, the wait for events excepted. It is far above what a busy machine does to a call
/// that does not wait: what is found is a lock that somebody holds over a blocking call, or a socket that blocks.
const LONGEST: f64 = 1.5;
/// How strace is asked: a file for each thread, what each descriptor is, when, and how long.
pub(crate) const STRACE: [&str; 8] = ["strace", "-D", "-ff", "-yy", "-ttt", "-T", "-s", "0"];

/// Calls that end at once and touch nothing outside of the process.
const INNER: &[&str] = &[
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "exit",
    "futex",
    "get_mempolicy",
    "getcpu",
    "getpid",
    "getrandom",
    "gettid",
    "gettimeofday",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "prctl",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
];
/// Waiting for events, and saying for which.
const EVENTS: &[&str] = &["epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2"];
/// What may be done with the descriptors of the loop.
const ON_SOCKETS: &[&str] = &[
    "accept4",
    "bind",
    "close",
    "connect",
    "fcntl",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ioctl",
    "listen",
    "read",
    "readv",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "write",
    "writev",
];
/// The descriptors of the loop: connections, what wakes it, what tells it of signals.
const OBJECTS: &[&str] =
    &["TCP:", "TCPv6:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[signalfd]", "UNIX-STREAM:"];

/// What malloc(3) of glibc reads.
const ALLOCATORS: &str = "/proc/sys/vm/overcommit_memory";

/// One call of one thread.
#[derive(Debug, PartialEq)]
struct Call<'a> {
    name: &'a str,
    args: &'a str,
    /// What the descriptor is that it is about; empty without one.
    object: &'a str,
    /// Seconds.
    took: f64,
}

impl<'a> Call<'a> {
    /// "1764280412.136 read(3<pipe:[5]>, ""..., 10) = 10 <0.000003>"; none for a signal, an end, or half a line.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, line) = line.split_once(' ')?;
        let (name, rest) = line.split_once('(')?;
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let object = if number.len() < rest.len() { number.strip_prefix('<').unwrap_or_default() } else { "" };
        let took = line.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>')?.parse().ok()).unwrap_or(0.0);
        Some(Self { name, args: rest, object, took })
    }

    fn waits_for_events(&self) -> bool {
        self.name.starts_with("epoll_") && self.name.contains("wait")
    }

    fn is_about(&self, path: &str) -> bool {
        self.object.starts_with(path) || self.name == "openat" && self.args.contains(path)
    }

    fn is_allowed(&self) -> bool {
        match self.name {
            name if INNER.contains(&name) || EVENTS.contains(&name) => true,
            // A question, not a wait.
            "poll" => self.args.rsplit_once(" = ").is_some_and(|(asked, _)| asked.trim_end().ends_with(", 0)")),
            "ppoll" => self.args.contains("{tv_sec=0, tv_nsec=0}"),
            // Whether a number is taken, whatever it is of.
            "fcntl" if self.args.contains(", F_GETFD)") => true,
            // The allocator's, in its own time: it asks whether it may give memory back.
            "openat" | "read" | "close" if self.is_about(ALLOCATORS) => true,
            "socket" => self.args.contains("SOCK_STREAM") && self.args.contains("SOCK_NONBLOCK"),
            // Of a thread, not of a process.
            "clone" | "clone3" => self.args.contains("CLONE_THREAD"),
            name if ON_SOCKETS.contains(&name) => OBJECTS.iter().any(|object| self.object.starts_with(object)),
            _ => false,
        }
    }

    /// In a few words, the same for all calls of a kind.
    fn finding(&self) -> Option<String> {
        if !self.is_allowed() {
            // A file by its name, a pipe or a socket by its kind.
            let object = self.object.split(['>', '[']).next().unwrap_or_default();
            let path = self.args.split('"').nth(1).filter(|_| self.name.starts_with("open")).unwrap_or_default();
            return Some(format!("{} {object}{path}", self.name).trim_end().to_owned());
        }
        let late = self.took > LONGEST && !self.waits_for_events();
        late.then(|| format!("{} took longer than {LONGEST} s", self.name))
    }
}

/// What one thread did in its event loop that it must not; nothing if it ran none.
pub(crate) fn findings(trace: &str) -> BTreeSet<String> {
    let calls: Vec<_> = trace.lines().filter_map(Call::parse).collect();
    let first = calls.iter().position(Call::waits_for_events);
    let last = calls.iter().rposition(Call::waits_for_events);
    let (Some(first), Some(last)) = (first, last) else { return BTreeSet::new() };
    calls[first..=last].iter().filter_map(Call::finding).collect()
}

/// How many times a thread waited for events.
fn waits(trace: &str) -> usize {
    trace.lines().filter_map(Call::parse).filter(Call::waits_for_events).count()
}

/// Reads what strace wrote to `prefix`.* once all of it is there. A trace without an event loop shows nothing, and
/// fails.
#[track_caller]
pub(crate) fn findings_of(prefix: &Path) -> BTreeSet<String> {
    let traces = complete(prefix);
    assert!(traces.iter().map(|trace| waits(trace)).sum::<usize>() > 1, "no event loop in {}", prefix.display());
    traces.iter().flat_map(|trace| findings(trace)).collect()
}

fn complete(prefix: &Path) -> Vec<String> {
    let started = Instant::now();
    let stem = format!("{}.", prefix.file_name().and_then(|name| name.to_str()).unwrap());
    loop {
        let files = fs::read_dir(prefix.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
        let ours = files.filter(|file| file.file_name().to_str().is_some_and(|name| name.starts_with(&stem)));
        let traces: Vec<_> =
            ours.map(|file| String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned()).collect();
        let ended = |trace: &String| trace.lines().last().is_some_and(|line| line.contains(" +++ "));
        if !traces.is_empty() && traces.iter().all(ended) {
            return traces;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "strace never ended: {}", prefix.display());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_loop_that_waits_for_sockets_alone_has_nothing_to_answer_for() {
    let trace = "\
        1.0 openat(AT_FDCWD</>, \"/etc/hosts\", O_RDONLY) = 3</etc/hosts> <0.1>\n\
        1.1 epoll_wait(8<anon_inode:[eventpoll]>, [], 256, 200) = 0 <9.2>\n\
        1.2 --- SIGUSR1 {si_signo=SIGUSR1} ---\n\
        1.3 recvfrom(12<TCPv6:[[::1]:1->[::1]:2]>, \"\"..., 24, 0, NULL, NULL) = 24 <0.000004>\n\
        1.4 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 4<TCP:[5]> <0.000004>\n\
        1.5 write(9<anon_inode:[eventfd]>, \"\"..., 8) = 8 <0.000004>\n\
        1.6 clone3({flags=CLONE_VM|CLONE_THREAD}) = 77 <0.1>\n\
        1.7 epoll_wait(8<anon_inode:[eventpoll]>, [], 256, 200) = 0 <9.2>\n\
        1.7 poll([{fd=3<TCP:[5]>, events=POLLIN}], 1, 0)  = 0 (Timeout) <0.000007>\n\
        1.7 fcntl(3</tmp/out>, F_GETFD) = 0x1 (flags FD_CLOEXEC) <0.000007>\n\
        1.7 fcntl(9, F_GETFD) = -1 EBADF (Bad file descriptor) <0.000007>\n\
        1.7 openat(AT_FDCWD</>, \"/proc/sys/vm/overcommit_memory\", O_RDONLY) = \
        3</proc/sys/vm/overcommit_memory> <0.1>\n\
        1.7 epoll_wait(8<anon_inode:[eventpoll]>, [], 256, 200) = 0 <9.2>\n\
        1.8 fsync(4</out>) = 0 <2.000000>\n\
        1.9 +++ exited with 0 +++\n";
    assert_eq!(findings(trace), BTreeSet::new());
}

#[test]
fn what_blocks_or_touches_what_the_loop_must_not_is_found() {
    let wait = "1.1 epoll_wait(8<anon_inode:[eventpoll]>, [], 256, 200) = 0 <0.2>\n";
    for (call, finding) in [
        ("openat(AT_FDCWD</>, \"/sys/x\", O_RDONLY) = 3</sys/x> <0.1>", "openat /sys/x"),
        ("write(2<pipe:[7]>, \"\"..., 4) = 4 <0.1>", "write pipe:"),
        ("read(4</out>, \"\"..., 4) = 4 <0.1>", "read /out"),
        ("fdatasync(4</out>) = 0 <0.1>", "fdatasync /out"),
        ("wait4(7, NULL, 0, NULL) = 7 <0.1>", "wait4"),
        ("vfork() = 7 <0.1>", "vfork"),
        ("clone3({flags=CLONE_VM|CLONE_VFORK}) = 7 <0.1>", "clone3"),
        ("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NETLINK_ROUTE) = 3<NETLINK:[ROUTE:1]> <0.1>", "socket"),
        ("socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0) = 3<TCP:[5]> <0.1>", "socket"),
        ("sendto(3<NETLINK:[ROUTE:1]>, [], 32, 0, NULL, 0) = 32 <0.1>", "sendto NETLINK:"),
        ("ioctl(2</dev/pts/0<char 136:0>>, TCGETS, 0x7ff) = 0 <0.1>", "ioctl /dev/pts/0<char 136:0"),
        ("poll([{fd=3<pipe:[5]>, events=POLLIN}], 1, 20) = 0 (Timeout) <0.02>", "poll"),
        ("fcntl(1<pipe:[5]>, F_SETFL, O_NONBLOCK) = 0 <0.02>", "fcntl pipe:"),
        ("futex(0x7f, FUTEX_WAIT_PRIVATE, 2, NULL) = 0 <3.1>", "futex took longer than 1.5 s"),
        ("recvfrom(3<TCP:[5]>, \"\"..., 24, 0, NULL, NULL) = 24 <3.1>", "recvfrom took longer than 1.5 s"),
    ] {
        let found = findings(&format!("{wait}1.2 {call}\n{wait}"));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [finding]);
    }
}
