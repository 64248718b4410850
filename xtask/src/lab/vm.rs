//! Boots a kernel in QEMU and passes on what the guest says on its serial console. Knows nothing of topologies.
//!
//! Always software emulation: /dev/kvm is there on many build machines on which guests then hang. The guest's clock
//! counts its instructions, one nanosecond each, not the host's time: a busy host makes a run longer but changes no
//! rate, no ratio and no timeout inside. Several processors of a guest take turns on one of the host's.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::command;
use super::kernel::Kernel;

/// The guest marks the lines meant for the lab with this; all other lines are the kernel's and the tools'.
pub const MARK: &str = "@lab ";

/// What is booted.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its file system.
    pub initramfs: &'a Path,
    /// How many processors it has.
    pub processors: u32,
}

/// A line of the guest's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Meant for the lab, without the mark.
    Marked(&'a str),
    /// The kernel's or a program's.
    Other(&'a str),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It powered itself off.
    PoweredOff,
    /// QEMU itself failed, or was ended from outside.
    EmulatorFailed,
    /// Its kernel panicked.
    Panicked,
    /// The time limit passed.
    TimedOut,
}

/// Boots and runs to the end, calling `hear` with each line. Everything goes to the file `log`.
///
/// # Errors
/// When QEMU cannot be started or the log not written.
pub fn run(machine: Machine<'_>, log: &Path, limit: Duration, mut hear: impl FnMut(Line<'_>)) -> Result<End> {
    let mut log = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut guest = Guest::boot(machine, Clock::Instructions, Stdio::null(), Stdio::piped())?;
    let console = guest.0.stdout.take().context("QEMU's serial console")?;
    let (sender, lines) = mpsc::channel();
    // Ends by itself when QEMU does.
    std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(log, "{line}").context("write the guest's log")?;
                match line.find(MARK) {
                    Some(at) => hear(Line::Marked(&line[at + MARK.len()..])),
                    None => hear(Line::Other(&line)),
                }
                if line.contains("Kernel panic - not syncing") {
                    return Ok(End::Panicked);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = guest.0.wait().context("wait for QEMU")?;
                return Ok(if status.success() { End::PoweredOff } else { End::EmulatorFailed });
            }
            Err(RecvTimeoutError::Timeout) => return Ok(End::TimedOut),
        }
    }
}

/// Boots with this terminal as the guest's console and waits for its end.
///
/// # Errors
/// When QEMU cannot be started.
pub fn interact(machine: Machine<'_>) -> Result<()> {
    let mut guest = Guest::boot(machine, Clock::WithIdleTime, Stdio::inherit(), Stdio::inherit())?;
    guest.0.wait().context("wait for QEMU")?;
    Ok(())
}

/// What the guest's clock follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// Instructions only: time in which the guest idles is skipped.
    Instructions,
    /// The same, but idle time passes as outside: for a person.
    WithIdleTime,
}

/// A running QEMU; killed when dropped.
struct Guest(Child);

impl Guest {
    fn boot(machine: Machine<'_>, clock: Clock, input: Stdio, output: Stdio) -> Result<Self> {
        let qemu = command::find("qemu-system-x86_64", "qemu-system-x86")?;
        let mut command = with_parent_guard(&qemu);
        let sleep = if clock == Clock::Instructions { "off" } else { "on" };
        command.args(["-accel", "tcg,thread=single", "-icount", &format!("shift=0,sleep={sleep}"), "-rtc", "clock=vm"]);
        // cmpxchg16b corrupts the flags under QEMU 7.2, which crashes 6.12 in its slab allocator: the guest does
        // without.
        command.args(["-cpu", "max,-cx16", "-smp", &machine.processors.to_string(), "-m", "2048"]);
        command.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
        command.arg("-kernel").arg(&machine.kernel.image).arg("-initrd").arg(machine.initramfs);
        // The emulated processor has no faults to mitigate, and its random numbers are good enough for a test network.
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"]);
        let child = command.stdin(input).stdout(output).spawn();
        Ok(Self(child.with_context(|| format!("start {}", qemu.display()))?))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already; there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `setpriv` (util-linux) lets the kernel kill QEMU when this process is killed without a chance to clean up.
fn with_parent_guard(qemu: &PathBuf) -> Command {
    let Ok(setpriv) = command::find("setpriv", "util-linux") else {
        return Command::new(qemu);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(qemu);
    command
}
