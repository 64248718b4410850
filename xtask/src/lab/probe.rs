//! Which slave carries a connection: predicted by the shared hash and seen in the slaves' counters, one source port at
//! a time. The two helpers at the end run inside the namespaces, as children.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mpnc_ebpf::flow::Flow;
use mpnc_ebpf::hash::{ByteOrder, Era, layer34};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

use super::initramfs::Binaries;
use super::netns::Namespace;
use super::network::Network;
use super::record::deltas;
use super::topology::{Place, Topology};

/// The port that the probes go to.
const PORT: u16 = 31338;
/// Bytes for each probe: enough to stand out from LACP's and neighbour discovery's few.
const BURST: usize = 16 << 10;

/// The `[probe]` table of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Probe {
    /// How many source ports, drawn at random.
    pub ports: usize,
    /// Seed of the draw.
    #[serde(default)]
    pub seed: u64,
}

/// Opens a connection from each port, sends a burst, and compares the slave that carried it with the predicted one.
///
/// # Errors
/// When a helper fails.
pub fn check(
    network: &Network,
    topology: &Topology,
    probe: &Probe,
    binaries: &Binaries,
    tell: &mut dyn FnMut(&str),
) -> Result<bool> {
    let mut sink = Helper::start(network.namespace(Place::B), binaries, &["sink", &PORT.to_string()])?;
    super::wait_for("the probes' far end", Duration::from_secs(20), || network.namespace(Place::B).listens(PORT))?;
    let host = topology.address(Place::B);
    let mut dial = Helper::start(network.namespace(Place::A), binaries, &["dial", host, &PORT.to_string()])?;

    let usable = topology.usable();
    let source: IpAddr = topology.address(Place::A).parse()?;
    let (mut right, mut used) = (0, vec![0_usize; topology.slaves]);
    let mut wrong = Vec::new();
    let mut random = fastrand::Rng::with_seed(probe.seed);
    for port in std::iter::repeat_with(|| random.u16(1024..32768)) {
        if right + wrong.len() == probe.ports {
            break;
        }
        let before = network.counters(Place::A)?;
        if !dial.probe(port)? {
            // The port was in use or is still in TIME_WAIT from an equal draw.
            continue;
        }
        let carried = deltas(&before, &network.counters(Place::A)?);
        let seen = (0..carried.len()).max_by_key(|slave| carried[*slave].0).context("a network has links")?;
        ensure!(carried[seen].0 >= BURST as u64, "a probe from port {port} was not seen on any slave: {carried:?}");
        let flow = Flow::new(source, host.parse()?, port, PORT).context("addresses of one family")?;
        let hash = layer34(Era::V5_18, ByteOrder::NATIVE, &flow);
        let predicted = usable[hash as usize % usable.len()];
        used[seen] += 1;
        if seen == predicted { right += 1 } else { wrong.push((port, predicted + 1, seen + 1)) }
    }
    dial.stop()?;
    sink.child.kill()?;
    sink.stop()?;
    let verdict = if wrong.is_empty() { "PASS" } else { "FAIL" };
    tell(&format!(
        "  {verdict} predicted slave = observed slave: {right} of {} ports; ports per slave {used:?}",
        probe.ports
    ));
    for (port, predicted, seen) in wrong.iter().take(10) {
        tell(&format!("       port {port}: predicted slave {predicted}, observed {seen}"));
    }
    Ok(wrong.is_empty())
}

/// A child in a namespace that takes lines and answers them.
struct Helper {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Helper {
    fn start(namespace: &Namespace, binaries: &Binaries, arguments: &[&str]) -> Result<Self> {
        let mut command = namespace.command(&binaries.xtask);
        command.arg("guest").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a probe's helper")?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("a piped stdout")?);
        Ok(Self { child, questions, answers })
    }

    /// True when a connection from the port carried the burst, false when the port is taken.
    fn probe(&mut self, port: u16) -> Result<bool> {
        writeln!(self.questions.as_mut().context("an open helper")?, "{port}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim() {
            "done" => Ok(true),
            "taken" => Ok(false),
            other => bail!("the probe from port {port} failed: \"{other}\""),
        }
    }

    fn stop(&mut self) -> Result<()> {
        self.questions = None;
        self.child.wait().context("wait for a probe's helper").map(drop)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // After a failure it may still run; after `stop` there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The far end: takes one connection after the other and reads each to its end.
///
/// # Errors
/// When it cannot listen.
pub fn sink(port: u16) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).context("listen for probes")?;
    for stream in listener.incoming() {
        // A connection that breaks is the dialler's to report.
        let _ = std::io::copy(&mut stream?, &mut std::io::sink());
    }
    Ok(())
}

/// The near end: for each line with a source port, one connection and one burst, then "done" or "taken".
///
/// # Errors
/// When a connection fails for another reason than a taken port.
pub fn dial(host: IpAddr, port: u16) -> Result<()> {
    for line in std::io::stdin().lines() {
        let source = line?.trim().parse().context("a source port")?;
        println!("{}", if burst(SocketAddr::new(host, port), source)? { "done" } else { "taken" });
    }
    Ok(())
}

fn burst(to: SocketAddr, source: u16) -> Result<bool> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let opened = socket.bind(&SocketAddr::new(any, source).into()).and_then(|()| socket.connect(&to.into()));
    match opened {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable) => {
            return Ok(false);
        }
        other => other.with_context(|| format!("connect to {to} from port {source}"))?,
    }
    let mut stream = std::net::TcpStream::from(socket);
    stream.write_all(&vec![0; BURST])?;
    stream.shutdown(Shutdown::Write)?;
    // The far end closes when it has read everything: by then all of it was counted.
    stream.read_to_end(&mut Vec::new())?;
    Ok(true)
}
