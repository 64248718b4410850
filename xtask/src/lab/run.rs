//! Runs one scenario on a network that it builds: baseline, the two programs, the events, the samples; then the
//! verdicts. The same code inside the virtual machine and natively.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::baseline;
use super::check;
use super::events::{Action, Due, timetable};
use super::flow::{Flow, Stall};
use super::initramfs::Binaries;
use super::network::Network;
use super::probe;
use super::record::{Counters, Record, Sample};
use super::scenario::{Direction, Scenario, Side};
use super::topology::Place;
use super::units::BitRate;
use super::verdict::{Ended, Seen, Verdict, judge};

/// What the slaves of the sending and of the receiving host have carried.
type Both = (Counters, Counters);

/// How often the transfer is looked at.
const TICK: Duration = Duration::from_millis(50);

/// Runs the scenario, telling each expectation's verdict; the last line is `scenario NAME: PASS` or `FAIL`.
pub fn run(scenario: &Scenario, binaries: &Binaries, tell: &mut dyn FnMut(&str)) -> bool {
    tell(&format!("scenario {}: {}", scenario.name, scenario.summary));
    let mut verdict = Verdict::Slow;
    for number in 1..=scenario.attempts {
        if number > 1 {
            tell(&format!("  right but slow: attempt {number} of {}", scenario.attempts));
        }
        verdict = attempt(scenario, binaries, tell).unwrap_or_else(|error| {
            tell(&format!("  FAIL the scenario could not be run: {}", format!("{error:#}").replace('\n', " | ")));
            Verdict::Fail
        });
        if verdict != Verdict::Slow {
            break;
        }
    }
    let passed = verdict == Verdict::Pass;
    tell(&format!("scenario {}: {}", scenario.name, if passed { "PASS" } else { "FAIL" }));
    passed
}

fn attempt(scenario: &Scenario, binaries: &Binaries, tell: &mut dyn FnMut(&str)) -> Result<Verdict> {
    let topology = &scenario.topology;
    let network = Network::build(topology, scenario.native).context("build the network")?;
    if let Some(settings) = &scenario.probe
        && !probe::check(&network, topology, settings, binaries, tell)?
    {
        return Ok(Verdict::Fail);
    }
    let efficiency = match &scenario.baseline {
        Some(settings) => Some(baseline::efficiency(&network, topology, settings)?),
        None => None,
    };
    if topology.firewall {
        firewall(&network, scenario.transfer.port)?;
    }
    let (host, port, limit) = (topology.address(Place::B), scenario.transfer.port, scenario.transfer.limit.0);
    if !check::run(&scenario.checks, &network, binaries, check::Words { host, port, limit }, tell)? {
        return Ok(Verdict::Fail);
    }
    if scenario.transfer.bytes.0 == 0 {
        return Ok(Verdict::Pass);
    }
    let seen = transfer(scenario, &network, binaries)?;
    Ok(judge(scenario, &seen, efficiency, tell))
}

/// Accepts new connections to the one port and what belongs to known ones; neighbour discovery must pass for IPv6 to
/// work.
fn firewall(network: &Network, port: u16) -> Result<()> {
    let rules = format!(
        "table inet lab {{ chain in {{ type filter hook input priority 0; policy drop; ct state established,related \
         accept; iif lo accept; meta l4proto ipv6-icmp accept; tcp dport {port} ct state new accept; }}; }}"
    );
    let mut command = network.namespace(Place::B).command("nft");
    super::command::capture(command.arg(rules)).context("set up the receiver's firewall").map(drop)
}

/// A running side.
struct Process {
    child: Child,
    stderr: JoinHandle<String>,
    peak_rss_kib: u64,
    ended: Option<(Option<i32>, Duration)>,
}

impl Process {
    fn start(command: &mut Command, stdin: Stdio, stdout: Stdio) -> Result<Self> {
        let shown = super::command::show(command);
        let child = command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("start `{shown}`"))?;
        let mut pipe = child.stderr.take().context("a piped stderr")?;
        let stderr = std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self { child, stderr, peak_rss_kib: 0, ended: None })
    }

    fn look(&mut self, clock: Duration) -> Result<()> {
        if self.ended.is_none() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
            let peak =
                status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
            self.peak_rss_kib = self.peak_rss_kib.max(peak.unwrap_or(0));
            self.ended = self.child.try_wait()?.map(|status| (status.code(), clock));
        }
        Ok(())
    }

    fn finish(self, within: Duration) -> Result<Ended> {
        let stderr = self.stderr.join().map_err(|_| anyhow::anyhow!("the thread that reads stderr died"))?;
        let (code, at, in_time) = match self.ended {
            Some((code, at)) => (code, at, true),
            None => (None, within, false),
        };
        Ok(Ended { code, at, in_time, stderr, peak_rss_kib: self.peak_rss_kib })
    }
}

/// Both sides and the bytes between them, while they run.
struct Running<'a> {
    scenario: &'a Scenario,
    network: &'a Network,
    start: Instant,
    connector: Process,
    listener: Process,
    flows: Vec<Flow>,
    record: Record,
    streams: usize,
    commands: Vec<(String, Child)>,
}

fn transfer(scenario: &Scenario, network: &Network, binaries: &Binaries) -> Result<Seen> {
    let settings = &scenario.transfer;
    let directions = if settings.direction == Direction::Duplex { 2 } else { 1 };
    let flows = (1..=directions).map(|seed| Flow::new(seed, settings.bytes.0, settings.input, settings.output));
    let mut flows = flows.collect::<Result<Vec<Flow>>>()?;

    let (sender, receiver) = (sending(scenario), receiving(scenario));
    let before = (network.counters(sender)?, network.counters(receiver)?);
    let listener = start(scenario, network, binaries, Side::Listener, &mut flows)?;
    let mut listener = listener;
    super::wait_for("the listener to listen", Duration::from_secs(30), || {
        listener.look(Duration::ZERO)?;
        Ok(listener.ended.is_some() || network.namespace(Place::B).listens(settings.port)?)
    })
    .inspect_err(|_| drop(listener.child.kill()))?;
    let start_of_clock = Instant::now();
    let connector =
        start(scenario, network, binaries, Side::Connector, &mut flows).inspect_err(|_| drop(listener.child.kill()))?;

    let mut running = Running {
        scenario,
        network,
        start: start_of_clock,
        connector,
        listener,
        flows,
        record: Record { samples: Vec::new(), rates: vec![(Duration::ZERO, scenario.topology.link_rates())] },
        streams: 0,
        commands: Vec::new(),
    };
    let outcome = running.watch();
    // Whatever happened: both are ended before the network goes, so that no thread waits for ever.
    let _ = running.connector.child.kill();
    let _ = running.listener.child.kill();
    let (connector_status, listener_status) = (running.connector.child.wait(), running.listener.child.wait());
    outcome?;
    connector_status?;
    listener_status?;
    let after = (network.counters(sender)?, network.counters(receiver)?);
    running.finish(&before, &after)
}

/// The host whose bond carries the (first) data.
fn sending(scenario: &Scenario) -> Place {
    if scenario.transfer.direction == Direction::Reverse { Place::B } else { Place::A }
}

fn receiving(scenario: &Scenario) -> Place {
    if sending(scenario) == Place::A { Place::B } else { Place::A }
}

fn start(
    scenario: &Scenario,
    network: &Network,
    binaries: &Binaries,
    side: Side,
    flows: &mut [Flow],
) -> Result<Process> {
    let settings = &scenario.transfer;
    let place = if side == Side::Connector { Place::A } else { Place::B };
    let mut command = command(scenario, network, binaries, side);
    command.envs(&settings.env);

    // The first flow goes forward, except in reverse; the second, in duplex, backward.
    let forward = Some(0).filter(|_| settings.direction != Direction::Reverse);
    let backward = match settings.direction {
        Direction::Forward => None,
        Direction::Reverse => Some(0),
        Direction::Duplex => Some(1),
    };
    let (sends, receives) = if place == Place::A { (forward, backward) } else { (backward, forward) };
    let stdin = sends.map_or_else(|| Ok(Stdio::null()), |flow: usize| flows[flow].stdin())?;
    let stdout = receives.map_or_else(|| Ok(Stdio::null()), |flow: usize| flows[flow].stdout())?;
    let mut process = Process::start(&mut command, stdin, stdout)?;
    if let Some(flow) = sends {
        flows[flow].feed(&mut process.child);
    }
    if let Some(flow) = receives {
        let stall = settings.stall_at.zip(settings.stall_for).map(|(at, time)| Stall { at: at.0, time: time.0 });
        flows[flow].check(&mut process.child, stall);
    }
    Ok(process)
}

fn command(scenario: &Scenario, network: &Network, binaries: &Binaries, side: Side) -> Command {
    let settings = &scenario.transfer;
    let (host, port) = (scenario.topology.address(Place::B), settings.port.to_string());
    let (place, own, special) = match side {
        Side::Connector => (Place::A, &settings.connector_args, &settings.connector_command),
        Side::Listener => (Place::B, &settings.listener_args, &settings.listener_command),
    };
    let namespace = network.namespace(place);
    if let Some(line) = special {
        let line = line.replace("{host}", host).replace("{port}", &port);
        let mut command = namespace.command("sh");
        command.args(["-c", &format!("exec {line}")]);
        return command;
    }
    let mut command = namespace.command(&binaries.mpnc);
    match side {
        Side::Connector => command.args(&settings.args).args(own).args([host, &port]),
        Side::Listener => command.arg("-l").args(&settings.args).args(own).arg(&port),
    };
    command
}

impl Running<'_> {
    /// Looks every tick, until both have ended or the limit has passed.
    fn watch(&mut self) -> Result<()> {
        let mut due = timetable(&self.scenario.events, self.scenario.topology.slaves).into_iter().peekable();
        let limit = self.scenario.transfer.limit.0;
        for tick in 0.. {
            let clock = self.start.elapsed();
            self.connector.look(clock)?;
            self.listener.look(clock)?;
            self.sample(clock)?;
            let over = self.connector.ended.is_some() && self.listener.ended.is_some();
            if over || clock > limit {
                return Ok(());
            }
            while let Some(due) = due.next_if(|due| due.at <= clock) {
                self.act(&due, clock)?;
            }
            self.streams =
                self.streams.max(self.network.namespace(Place::A).connections_to(self.scenario.transfer.port)?);
            std::thread::sleep((TICK * (tick + 1)).saturating_sub(self.start.elapsed()));
        }
        Ok(())
    }

    fn sample(&mut self, at: Duration) -> Result<()> {
        let wanted = !self.scenario.measures.is_empty();
        let counters: Counters = if wanted { self.network.counters(sending(self.scenario))? } else { Counters::new() };
        let delivered = self.flows.iter().map(Flow::delivered).collect();
        self.record.samples.push(Sample { at, delivered, counters });
        Ok(())
    }

    fn act(&mut self, due: &Due, clock: Duration) -> Result<()> {
        match &due.action {
            Action::Run(place, line) => {
                let mut command = self.network.namespace(*place).command("sh");
                // In the background: a command that sleeps must not stop the samples.
                let child = command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
                self.commands.push((line.clone(), child.with_context(|| format!("start the event `{line}`"))?));
            }
            Action::Rate(slave, rate) => {
                self.network.set_rate(*slave, *rate)?;
                let (_, last) = self.record.rates.last().context("the first rates")?;
                let mut rates: Vec<BitRate> = last.clone();
                rates[*slave] = *rate;
                self.record.rates.push((clock, rates));
            }
            Action::Kill(Side::Connector) => self.connector.child.kill()?,
            Action::Kill(Side::Listener) => self.listener.child.kill()?,
        }
        Ok(())
    }

    fn finish(mut self, before: &Both, after: &Both) -> Result<Seen> {
        for (line, child) in &mut self.commands {
            let status = child.wait()?;
            if !status.success() {
                bail!("the event `{line}` failed: {status}");
            }
        }
        let clock = self.start.elapsed();
        let totals = self.flows.iter().map(Flow::total).collect();
        let arrivals = self.flows.into_iter().map(Flow::finish).collect::<Result<Vec<_>>>()?;
        Ok(Seen {
            connector: self.connector.finish(clock)?,
            listener: self.listener.finish(clock)?,
            totals,
            arrivals,
            record: self.record,
            streams: self.streams,
            sender: super::record::deltas(&before.0, &after.0),
            receiver: super::record::deltas(&before.1, &after.1),
        })
    }
}
