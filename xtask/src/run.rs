//! `cargo xtask run`: mpnc with the given arguments, or, without any, a demonstration that needs no second host:
//! random data through both ends over one port of loopback, and the proof that what came out is what went in.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::feed::{self, Prbs};
use crate::sh;

/// Bytes that the demonstration moves: long enough to see, short enough to wait for.
const DEMO_BYTES: u64 = 1 << 30;
/// Streams of the demonstration. Loopback is no bond, so the number is stated.
const DEMO_STREAMS: &str = "4";
/// Which random data: the same in every run.
const DEMO_SEED: u64 = 2;
/// How long the receiver may live on after the sender has ended: more than mpnc itself waits for a vanished peer,
/// and an end to waiting for one that never came.
const AFTER_SENDER: Duration = Duration::from_secs(45);
/// A demonstration that takes longer than this hangs.
const DEMO_PATIENCE: Duration = Duration::from_mins(5);

/// Arguments of `cargo xtask run`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// What mpnc gets; nothing: the demonstration
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<std::ffi::OsString>,
}

/// Runs mpnc in this process's place, or the demonstration.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    if args.args.is_empty() {
        return demonstrate();
    }
    let mpnc = sh::build_release()?;
    // exec: signals, terminal and exit code are mpnc's own.
    Err(anyhow!(Command::new(&mpnc).args(&args.args).exec()).context(format!("starting {}", mpnc.display())))
}

fn demonstrate() -> Result<ExitCode> {
    println!("building mpnc (release) ...");
    let mpnc = sh::build_release()?;
    let port = feed::free_port()?.to_string();

    let mut receiver = Command::new(&mpnc);
    receiver.args(["-l", "127.0.0.1", &port]);
    let mut sender = Command::new(&mpnc);
    sender.args(["--streams", DEMO_STREAMS, "127.0.0.1", &port]);

    println!("\n{} MiB of random data over loopback, all streams to port {port}:", DEMO_BYTES >> 20);
    println!("  receiver: {} | sha256sum", sh::line(&receiver));
    println!("  sender:   random-data | tee >(sha256sum) | {}\n", sh::line(&sender));
    let outcome = transfer(receiver, sender, &port)?;

    println!("\n  into the sender:       {:>11} bytes, sha256 {}", DEMO_BYTES, outcome.sent);
    println!("  out of the receiver:   {:>11} bytes, sha256 {}", outcome.received_bytes, outcome.received);
    println!("  exit codes: receiver {}, sender {}; {}", outcome.receiver, outcome.sender, sh::pretty(outcome.took));
    let good = outcome.is_good();
    println!(
        "\n{}",
        if good { "identical: every byte arrived, in order" } else { "FAILED: what came out is not what went in" }
    );
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was seen of one transfer.
struct Outcome {
    sent: String,
    received: String,
    received_bytes: u64,
    sender: String,
    receiver: String,
    took: Duration,
}

impl Outcome {
    fn is_good(&self) -> bool {
        (self.received_bytes, &self.received) == (DEMO_BYTES, &self.sent) && self.sender == "0" && self.receiver == "0"
    }
}

/// Runs both ends, feeds one, drains the other. Ends in bounded time: after the patience both are killed, which
/// closes their pipes and so ends the threads here.
fn transfer(mut receiver: Command, mut sender: Command, port: &str) -> Result<Outcome> {
    let piped = |command: &mut Command, stdin: Stdio, stdout: Stdio| {
        let shown = sh::line(command);
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{shown}`"))
    };
    let mut receiver = Guard(piped(&mut receiver, Stdio::null(), Stdio::piped())?, Instant::now());
    let mut output = receiver.0.stdout.take().context("the receiver has no stdout")?;
    let receiver_says = relay("receiver", receiver.0.stderr.take());
    let number: u16 = port.parse()?;
    feed::wait_listening(|| feed::listens_on(number), || matches!(receiver.0.try_wait(), Ok(None)))?;

    let start = Instant::now();
    let mut sender = Guard(piped(&mut sender, Stdio::piped(), Stdio::null())?, start);
    let mut input = sender.0.stdin.take().context("the sender has no stdin")?;
    let sender_says = relay("sender  ", sender.0.stderr.take());

    let drain = thread::spawn(move || feed::digest(&mut output));
    let pump = thread::spawn(move || Prbs::new(DEMO_SEED).write_to(&mut input, DEMO_BYTES));
    let deadline = start + DEMO_PATIENCE;
    let sender_code = sender.wait(deadline)?;
    let receiver_code = receiver.wait(deadline.min(Instant::now() + AFTER_SENDER))?;
    let took = start.elapsed();

    let joined = |what| move |_| anyhow!("the thread that {what} panicked");
    let (received_bytes, received) =
        drain.join().map_err(joined("reads the output"))?.context("reading the receiver's output")?;
    // A sender that ended early closed the pipe: its exit code and its words say why, this side only notes it.
    let sent = pump.join().map_err(joined("makes the input"))?.unwrap_or_else(|e| format!("(incomplete: {e})"));
    for says in [receiver_says, sender_says] {
        says.join().map_err(joined("relays stderr"))?;
    }
    Ok(Outcome { sent, received, received_bytes, sender: sender_code, receiver: receiver_code, took })
}

/// Shows what one end says, line by line, with its name in front.
fn relay(name: &'static str, pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok)) {
            println!("  {name} | {line}");
        }
    })
}

/// A child and its start; it does not outlive this program's interest in it, on no path.
struct Guard(Child, Instant);

impl Guard {
    /// The exit code in words, once the child has ended; killed at the deadline.
    fn wait(&mut self, deadline: Instant) -> Result<String> {
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().context("waiting for mpnc")? {
                return Ok(status.code().map_or_else(|| status.to_string(), |code| code.to_string()));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.0.kill().context("killing mpnc at the deadline")?;
        Ok(format!("(still running after {}: killed)", sh::pretty(self.1.elapsed())))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails only where the child has ended already, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(received: &str, bytes: u64, code: &str) -> Outcome {
        Outcome {
            sent: "aa".into(),
            received: received.into(),
            received_bytes: bytes,
            sender: "0".into(),
            receiver: code.into(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn only_equal_output_and_two_zero_exits_are_good() {
        assert!(outcome("aa", DEMO_BYTES, "0").is_good());
        assert!(!outcome("ab", DEMO_BYTES, "0").is_good());
        assert!(!outcome("aa", DEMO_BYTES - 1, "0").is_good());
        assert!(!outcome("aa", DEMO_BYTES, "1").is_good());
    }

    #[test]
    fn a_receiver_that_does_not_come_up_is_an_error() {
        let port = feed::free_port().unwrap().to_string();
        let error = transfer(Command::new("false"), Command::new("false"), &port).err().unwrap();
        assert!(error.to_string().contains("ended before it listened"), "{error:#}");
    }

    #[test]
    fn a_guard_leaves_no_child() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let proc = format!("/proc/{}", child.id());
        assert!(std::path::Path::new(&proc).exists());
        drop(Guard(child, Instant::now()));
        assert!(!std::path::Path::new(&proc).exists());
    }
}
