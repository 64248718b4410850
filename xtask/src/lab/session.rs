//! A network for a person: brought up, a command or a shell in it, torn down. Natively or inside the virtual machine.

use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::initramfs::Binaries;
use super::network::Network;
use super::topology::{Place, Topology};

/// What to bring up and what to run in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Settings of the topology, as in a scenario file.
    pub topology: toml::Table,
    /// The command, in host A; empty for a shell.
    pub command: Vec<String>,
}

/// Words to start the shell with: `a`, `b` and `sw` run commands in the places.
const RC: &str = r#"
a() { ip netns exec "$NS_A" "$@"; }
b() { ip netns exec "$NS_B" "$@"; }
sw() { ip netns exec "$NS_SW" "$@"; }
PS1='lab host A> '
cat <<TEXT
This shell is in host A ($A); "b COMMAND" runs a command in host B ($B), "sw COMMAND" in the switch.
mpnc is in PATH: try  b mpnc -l 31337 > /dev/null &  and  head -c 100M /dev/zero | mpnc \$B 31337
TEXT
"#;

/// Brings the network up, runs the command in it, and returns its exit code.
///
/// # Errors
/// When the network cannot be built or the command not started.
pub fn run(session: &Session, native: bool, binaries: &Binaries) -> Result<i32> {
    let topology: Topology = session.topology.clone().try_into().context("the topology")?;
    let network = Network::build(&topology, native)?;
    let rc = std::env::temp_dir().join(format!("mpnc-lab-{}.rc", std::process::id()));
    std::fs::write(&rc, RC).with_context(|| format!("write {}", rc.display()))?;
    let host = network.namespace(Place::A);
    let mut command: Command = if let Some((program, arguments)) = session.command.split_first() {
        let mut command = host.command(program);
        command.args(arguments);
        command
    } else {
        let mut command = host.command("bash");
        command.arg("--rcfile").arg(&rc);
        command
    };
    let directory = binaries.mpnc.parent().map(std::path::Path::to_path_buf).into_iter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("PATH", std::env::join_paths(directory.chain(std::env::split_paths(&path)))?);
    for (place, address, namespace) in [(Place::A, "A", "NS_A"), (Place::B, "B", "NS_B"), (Place::Sw, "SW", "NS_SW")] {
        command.env(address, topology.address(place)).env(namespace, network.namespace(place).name());
    }
    let status = command.status().context("start the command in host A");
    std::fs::remove_file(&rc).with_context(|| format!("remove {}", rc.display()))?;
    Ok(status?.code().unwrap_or(1))
}
