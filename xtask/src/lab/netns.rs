//! Network namespaces that vanish with their owner, and commands inside them.
//! Knows nothing of bonds; touches no namespace that it did not make.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::command;

/// All names begin with this, then the maker's process id.
const PREFIX: &str = "mpnc-";
/// Where iproute2 keeps named namespaces.
const NAMES: &str = "/run/netns";

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Sleeps inside: through its /proc entry the namespace's counters and sysfs are read without starting a program.
    holder: Child,
}

impl Namespace {
    /// Makes a namespace with its loopback up. `suffix` tells apart those of one process.
    ///
    /// # Errors
    /// Without the right to make namespaces (root), or when `ip` fails.
    pub fn new(suffix: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{suffix}", std::process::id());
        command::run("ip", &format!("netns add {name}")).context("make a network namespace (root is needed)")?;
        let holder = Command::new("ip")
            .args(["netns", "exec", &name, "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start a process inside the namespace");
        let holder = match holder {
            Ok(holder) => holder,
            Err(error) => {
                command::run("ip", &format!("netns del {name}"))?;
                return Err(error);
            }
        };
        let namespace = Self { name, holder };
        namespace.ip("link set lo up")?;
        namespace.await_holder()?;
        Ok(namespace)
    }

    /// The name by which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// With what `ip` says.
    pub fn ip(&self, line: &str) -> Result<String> {
        command::run("ip", &format!("-n {} {line}", self.name))
    }

    /// Runs `tc` inside.
    ///
    /// # Errors
    /// With what `tc` says.
    pub fn tc(&self, line: &str) -> Result<String> {
        command::run("tc", &format!("-n {} {line}", self.name))
    }

    /// A command that will run inside. `ip netns exec` becomes the program, so that the child's process id is the
    /// program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a line of shell inside.
    ///
    /// # Errors
    /// When it fails, with what it wrote to stderr.
    pub fn shell(&self, line: &str) -> Result<String> {
        command::capture(self.command("sh").args(["-c", line]))
    }

    /// A file below `/proc/net` as seen inside.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn proc_net(&self, file: &str) -> Result<String> {
        let path = PathBuf::from(format!("/proc/{}/net/{file}", self.holder.id()));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }

    /// A file below `/sys/class/net` as seen inside, without surrounding white space.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sys_net(&self, file: &str) -> Result<String> {
        let path = PathBuf::from(format!("/proc/{}/root/sys/class/net/{file}", self.holder.id()));
        Ok(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().to_owned())
    }

    /// Whether something inside listens on a TCP port, of either family.
    ///
    /// # Errors
    /// When the socket tables cannot be read.
    pub fn listens(&self, port: u16) -> Result<bool> {
        Ok(self.sockets(LISTEN)?.any(|(local, _)| local == port))
    }

    /// How many TCP connections inside are established towards a port of the peer.
    ///
    /// # Errors
    /// When the socket tables cannot be read.
    pub fn connections_to(&self, port: u16) -> Result<usize> {
        Ok(self.sockets(ESTABLISHED)?.filter(|(_, remote)| *remote == port).count())
    }

    /// Local and remote port of every TCP socket in a state.
    fn sockets(&self, state: &'static str) -> Result<impl Iterator<Item = (u16, u16)> + use<>> {
        let mut text = self.proc_net("tcp")?;
        // A kernel without IPv6 has no such file.
        text += &self.proc_net("tcp6").unwrap_or_default();
        let sockets: Vec<_> = text.lines().filter_map(|line| socket(line, state)).collect();
        Ok(sockets.into_iter())
    }

    /// Waits until the holder is inside: `ip netns exec` takes a moment to get there.
    fn await_holder(&self) -> Result<()> {
        let own = fs::read_link("/proc/self/ns/net")?;
        super::wait_for("the namespace's holder", std::time::Duration::from_secs(10), || {
            let entered = fs::read_link(format!("/proc/{}/ns/net", self.holder.id())).is_ok_and(|ns| ns != own);
            // The command line changes when the program is in place: by then its own sysfs is mounted too.
            let program = fs::read(format!("/proc/{}/cmdline", self.holder.id())).unwrap_or_default();
            Ok(entered && program.starts_with(b"sleep"))
        })
    }
}

/// Socket states of /proc/net/tcp (`include/net/tcp_states.h`).
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// Local and remote port from a line of /proc/net/tcp, if the socket is in `state`.
fn socket(line: &str, state: &str) -> Option<(u16, u16)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, found, ..] = words.as_slice() else {
        return None;
    };
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    (*found == state).then_some((port(local)?, port(remote)?))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Whatever a failed run has left inside must not keep the namespace alive.
        for id in command::run("ip", &format!("netns pids {}", self.name)).unwrap_or_default().split_whitespace() {
            let _ = command::run("kill", &format!("-KILL {id}"));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Err(error) = command::run("ip", &format!("netns del {}", self.name)) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Removes namespaces whose maker is gone: a killed run could not clean up.
///
/// # Errors
/// When `ip` fails.
pub fn remove_stale() -> Result<()> {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).and_then(|(id, _)| id.parse::<u32>().ok());
        if maker.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            for id in command::run("ip", &format!("netns pids {name}"))?.split_whitespace() {
                // It may end by itself in between.
                let _ = command::run("kill", &format!("-KILL {id}"));
            }
            command::run("ip", &format!("netns del {name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_tables_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(socket(line, LISTEN), Some((8080, 0)));
        assert_eq!(socket(line, ESTABLISHED), None);
        assert_eq!(socket("  sl  local_address rem_address   st", LISTEN), None);
    }
}
