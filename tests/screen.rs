//! What goes to people, and that nothing waits for them: standard error that is stuck, strangers without number, a
//! terminal with something else on it, statistics that cannot be written, and how the end is told to shells and
//! machines.

mod common;
#[path = "screen/ends.rs"]
mod ends;
#[path = "common/needs.rs"]
mod needs;
#[path = "common/skip.rs"]
mod skip;
#[path = "common/strace.rs"]
mod strace;
#[path = "screen/strangers.rs"]
mod strangers;
#[path = "screen/terminal.rs"]
mod terminal;
#[path = "common/tmux.rs"]
mod tmux;

use common::data::{Digest, Noise, pour};
use common::process::Side;
use std::io::{self, PipeReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const MPNC: &str = env!("CARGO_BIN_EXE_mpnc");
/// It only bounds a hang.
const LIMIT: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(10);

/// A port that nobody has now. Another program may take it before mpnc does; then mpnc says so and the test fails, it
/// never lies.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// mpnc, with signals as a terminal would start it; its ends are closed unless the caller says otherwise.
fn mpnc(args: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM,PIPE,TSTP", MPNC]).args(args).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// A pipe of the least size that is full: whoever writes to it waits until somebody reads.
fn full_pipe() -> (PipeReader, Stdio) {
    const SIZE: usize = 4096;
    let (reader, mut writer) = io::pipe().unwrap();
    assert_eq!(rustix::pipe::fcntl_setpipe_size(&writer, SIZE).unwrap(), SIZE);
    writer.write_all(&[b'.'; SIZE]).unwrap();
    (reader, writer.into())
}

/// Waits until somebody listens.
fn wait_for_port(port: &str) {
    let started = Instant::now();
    while TcpStream::connect(format!("127.0.0.1:{port}")).is_err() {
        assert!(started.elapsed() < LIMIT, "nobody listens on {port}");
        thread::sleep(LOOK);
    }
}

/// A stranger, until it is shown out.
fn ask(port: &str) {
    let mut stranger = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stranger.set_read_timeout(Some(LIMIT)).unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    match stranger.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the listener is deaf"),
        _ => {}
    }
}

/// A child that is killed if the test fails.
struct Guarded(Child);

impl Guarded {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < LIMIT, "it does not end");
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // A shell with a process group of its own takes what it has started with it.
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// --- standard error that is stuck ------------------------------------------------------------------------------------

const MB: u64 = 1_000_000;

#[test]
fn nobody_who_reads_what_is_said_is_waited_for() {
    let port = free_port();
    let [(_unread, at_receiver), (_unread_too, at_sender)] = [full_pipe(), full_pipe()];
    let mut receiver = Guarded::start(mpnc(&["-v", "-k", "-l", &port]).stdout(Stdio::piped()).stderr(at_receiver));
    let mut output = receiver.0.stdout.take().unwrap();
    wait_for_port(&port);
    let mut sender = mpnc(&["-v", "--streams", "3", "127.0.0.1", &port]);
    let mut sender = Guarded::start(sender.stdin(Stdio::piped()).stderr(at_sender));
    let mut input = sender.0.stdin.take().unwrap();
    // In mid-transfer.
    input.write_all(&[7; 1000]).unwrap();
    output.read_exact(&mut [0; 1000]).unwrap();
    for _ in 0..20 {
        ask(&port);
    }
    for side in [&sender, &receiver] {
        side.signal("USR1");
    }
    pour(Noise::new(20 * MB), input);
    assert_eq!(Digest::of(output.by_ref().take(20 * MB)), Digest::of_noise(20 * MB));
    assert_eq!(sender.end().code(), Some(0));
    receiver.signal("TERM");
    receiver.end();
}

#[test]
fn what_was_lost_is_counted_when_somebody_reads_again() {
    let port = free_port();
    let (mut reader, stderr) = full_pipe();
    let mut listener = Guarded::start(mpnc(&["-vv", "-k", "-l", &port]).stderr(stderr));
    wait_for_port(&port);
    // More than the queue holds.
    for _ in 0..3000 {
        ask(&port);
    }
    let words = thread::spawn(move || {
        let mut words = String::new();
        reader.read_to_string(&mut words).unwrap();
        words
    });
    listener.signal("TERM");
    listener.end();
    let words = words.join().unwrap();
    assert!(words.contains(" lines were lost here: standard error took no more\n"), "{words}");
    assert!(words.ends_with("mpnc: interrupted by SIGTERM\n"), "{words}");
}

#[test]
fn the_last_line_is_never_lost() {
    let nobody = free_port();
    for _ in 0..200 {
        let output = mpnc(&["127.0.0.1", &nobody]).output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{words}");
        assert!(words.starts_with("mpnc: cannot connect to ") && words.ends_with('\n'), "{words:?}");
    }
}

/// Whoever shares standard error with us may have made it non-blocking (ssh and node do).
#[test]
fn a_line_is_whole_where_standard_error_does_not_block() {
    let (mut reader, writer) = io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let mut full = writer.try_clone().unwrap();
    full.write_all(&[b'.'; 4096]).unwrap();
    drop(full);
    let mut child = Guarded::start(mpnc(&["127.0.0.1", &free_port()]).stderr(writer));
    // It meets a full pipe.
    thread::sleep(Duration::from_millis(200));
    let mut words = String::new();
    reader.read_to_string(&mut words).unwrap();
    assert_eq!(child.end().code(), Some(3));
    assert!(words.trim_start_matches('.').starts_with("mpnc: cannot connect to ") && words.ends_with('\n'), "{words}");
}

#[test]
fn nobody_on_the_other_end_of_standard_error_is_no_failure() {
    let (mut receiver, port) = Side::receiver(&[]);
    let output = receiver.drain();
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut sender = mpnc(&["-vv", "--progress", "always", "-i", "/bin/sh", "127.0.0.1", &port.to_string()]);
    assert_eq!(Guarded::start(sender.stderr(writer)).end().code(), Some(0));
    receiver.end().with_code(0);
    assert_eq!(output.join().unwrap(), Digest::of(std::fs::File::open("/bin/sh").unwrap()));
}
