//! The format of the files in tests/scenarios, which an administrator can read: a network, a transfer, what happens
//! meanwhile, what must hold. tests/scenarios/README.md explains it. Runs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::check::Check;
use super::probe::Probe;
use super::topology::{Place, Topology};
use super::units::{BitRate, Bytes, Span};

/// A scenario file, one case of its matrix.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// The file's name, and the matrix values of this case.
    #[serde(skip)]
    pub name: String,
    /// One sentence: what is shown.
    pub summary: String,
    /// Kernels to run it on, each in a virtual machine.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// Run it on this machine with the stand-in for a bond.
    #[serde(default)]
    pub native: bool,
    /// Too long for every test run: `cargo xtask test --long` and `cargo xtask lab run` run it.
    #[serde(default)]
    pub long: Long,
    /// How often a run that is right but too slow or too uneven may be repeated; natively other programs take processor
    /// time from both ends. Wrong data, exit codes, memory or words are never given a second chance.
    #[serde(default = "once")]
    pub attempts: u32,
    /// Processors of the virtual machine.
    #[serde(default = "once")]
    pub processors: u32,
    /// The network.
    #[serde(default)]
    pub topology: Topology,
    /// One stream of iperf3 before the transfer: the measure for `goodput`.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// What is moved.
    #[serde(default)]
    pub transfer: Transfer,
    /// What happens while it moves.
    #[serde(default, rename = "event")]
    pub events: Vec<Event>,
    /// What must hold during a part of it.
    #[serde(default, rename = "measure")]
    pub measures: Vec<Measure>,
    /// What must hold at its end.
    #[serde(default)]
    pub expect: Expect,
    /// Before the transfer: is each source port's slave the predicted one?
    #[serde(default)]
    pub probe: Option<Probe>,
    /// Before the transfer: commands, and what they must answer.
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
}

/// See [`Scenario::long`].
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Long {
    /// Everywhere, or nowhere.
    Always(bool),
    /// On these kernels; on the others it belongs to every test run.
    On(Vec<String>),
}

impl Default for Long {
    fn default() -> Self {
        Self::Always(false)
    }
}

/// The iperf3 run that rates are compared with.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Baseline {
    /// How long it runs, in seconds, after a first second that does not count.
    pub seconds: u32,
}

impl Default for Baseline {
    fn default() -> Self {
        Self { seconds: 4 }
    }
}

/// The transfer: the connector in host A, the listener in host B.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Transfer {
    /// How much data, in each direction that carries any.
    pub bytes: Bytes,
    /// Which way it goes.
    pub direction: Direction,
    /// The port.
    pub port: u16,
    /// More arguments for both, for the connector, for the listener.
    pub args: Vec<String>,
    /// See `args`.
    pub connector_args: Vec<String>,
    /// See `args`.
    pub listener_args: Vec<String>,
    /// Environment of both.
    pub env: BTreeMap<String, String>,
    /// A command line instead of `mpnc ARGS HOST PORT`; `{host}` and `{port}` are replaced.
    pub connector_command: Option<String>,
    /// A command line instead of `mpnc -l ARGS PORT`.
    pub listener_command: Option<String>,
    /// What feeds the sending side.
    pub input: Input,
    /// What takes the receiving side's output.
    pub output: Output,
    /// After so much output, the reader of it stops for `stall-for`.
    pub stall_at: Option<Bytes>,
    /// How long the reader stops.
    pub stall_for: Option<Span>,
    /// When to give up and kill both.
    pub limit: Span,
}

impl Default for Transfer {
    fn default() -> Self {
        Self {
            bytes: Bytes(100_000_000),
            direction: Direction::Forward,
            port: 31337,
            args: Vec::new(),
            connector_args: Vec::new(),
            listener_args: Vec::new(),
            env: BTreeMap::new(),
            connector_command: None,
            listener_command: None,
            input: Input::Pipe,
            output: Output::Pipe,
            stall_at: None,
            stall_for: None,
            limit: Span(std::time::Duration::from_mins(2)),
        }
    }
}

/// Which side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Direction {
    Forward,
    Reverse,
    Duplex,
}

/// Where the sending side reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Input {
    Pipe,
    File,
}

/// Where the receiving side writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// A pipe whose reader compares as it reads.
    Pipe,
    /// A file in memory, compared at the end.
    File,
}

/// One of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Side {
    Connector,
    Listener,
}

/// Something that happens during the transfer; the clock starts when the connector does. `{slave}` in commands is a
/// number from 1 on: the one given, or a random one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Event {
    /// When.
    pub at: Option<Span>,
    /// Again and again from `at` (or the start) on, until `until`.
    pub every: Option<Span>,
    /// See `every`.
    pub until: Option<Span>,
    /// This many times, at random points from `at` to `until`.
    pub times: Option<usize>,
    /// Seed of all that is random here.
    #[serde(default)]
    pub seed: u64,
    /// The slave that `{slave}` stands for; random if absent.
    pub slave: Option<usize>,
    /// Where the command runs.
    #[serde(default = "host_a", rename = "in")]
    pub place: Place,
    /// A command, in sh.
    pub run: Option<String>,
    /// A new rate for the slave: exact, or drawn between two.
    #[serde(default)]
    pub rate: Vec<BitRate>,
    /// Kill this side (SIGKILL).
    pub kill: Option<Side>,
}

fn once() -> u32 {
    1
}

fn host_a() -> Place {
    Place::A
}

/// A part of the transfer and what must hold in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Measure {
    /// What it shows.
    pub name: String,
    /// From here on the scenario's clock ...
    pub from: Span,
    /// ... to here.
    pub to: Span,
    /// Goodput at least this fraction of the ceiling of `slaves`.
    pub goodput: Option<f64>,
    /// Each of `slaves` within so many percent of its share of what they sent.
    pub share_within: Option<f64>,
    /// The slaves that should carry it, counted from 1; all usable ones if absent.
    pub slaves: Option<Vec<usize>>,
}

/// What must hold at the end. Absent settings are not checked, except that both sides must exit 0 and the output be
/// identical.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Expect {
    /// The connector's exit code.
    pub connector_exit: Exit,
    /// The listener's exit code.
    pub listener_exit: Exit,
    /// What the output must be.
    pub output: Arrived,
    /// The most TCP connections to the port at one time, for each usable slave of the sending host.
    pub streams_per_slave: Option<usize>,
    /// Each slave's sent bytes (of the sending host) within so many percent of its share, which follows its rate.
    pub share_within: Option<f64>,
    /// The same for the received bytes of the receiving host's slaves.
    pub rx_share_within: Option<f64>,
    /// Data both ways: each slave's sent bytes of the receiving host, the same.
    pub back_share_within: Option<f64>,
    /// Goodput over the whole transfer (the slower direction's, with two), as a fraction of the ceiling: one iperf3
    /// stream times the links' rates together.
    pub goodput: Option<f64>,
    /// Peak resident memory of each side, in MiB.
    pub rss_mib: Option<u64>,
    /// Texts that the connector's stderr must contain.
    pub connector_says: Vec<String>,
    /// ... the listener's.
    pub listener_says: Vec<String>,
    /// Texts that neither may contain.
    pub nobody_says: Vec<String>,
    /// Both sides end before this point of the scenario's clock.
    pub ends_by: Option<Span>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            connector_exit: Exit::Code(0),
            listener_exit: Exit::Code(0),
            output: Arrived::Identical,
            streams_per_slave: None,
            share_within: None,
            rx_share_within: None,
            back_share_within: None,
            goodput: None,
            rss_mib: None,
            connector_says: Vec::new(),
            listener_says: Vec::new(),
            nobody_says: Vec::new(),
            ends_by: None,
        }
    }
}

/// How a side must end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// "failure": any code but 0; "killed": by a signal; "any".
    Kind(ExitKind),
}

/// See [`Exit::Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "Exit says it")]
pub enum ExitKind {
    Failure,
    Killed,
    Any,
}

/// What must have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrived {
    /// All of it and nothing else.
    Identical,
    /// A beginning of it: what a failed transfer may leave.
    Prefix,
}

impl Scenario {
    /// Reads a scenario file: one scenario, or one for each combination of the values in its `[matrix]`.
    ///
    /// # Errors
    /// When the file cannot be read or does not follow the format.
    pub fn load(path: &Path) -> Result<Vec<Self>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read the scenario {}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&stem, &text).with_context(|| format!("in {}", path.display()))
    }

    /// As [`Scenario::load`], from text.
    ///
    /// # Errors
    /// When it does not follow the format.
    pub fn parse(stem: &str, text: &str) -> Result<Vec<Self>> {
        let mut cases = vec![(stem.to_owned(), text.parse::<toml::Table>()?)];
        let matrix =
            cases[0].1.remove("matrix").map(toml::Value::try_into::<BTreeMap<String, Vec<toml::Value>>>).transpose();
        for (key, values) in
            matrix.context("`[matrix]` gives a list of values for settings of `[topology]`")?.unwrap_or_default()
        {
            let mut grown = Vec::new();
            for (name, table) in &cases {
                for value in &values {
                    let mut table = table.clone();
                    let topology = table.entry("topology").or_insert_with(|| toml::Table::new().into());
                    topology.as_table_mut().context("`topology` is a table")?.insert(key.clone(), value.clone());
                    grown.push((format!("{name} {key}={}", shown(value)), table));
                }
            }
            cases = grown;
        }
        cases.into_iter().map(|(name, table)| Self::case(name, table)).collect()
    }

    fn case(name: String, table: toml::Table) -> Result<Self> {
        let mut scenario: Self = table.try_into()?;
        scenario.name = name;
        scenario.check().with_context(|| scenario.name.clone())?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        ensure!(self.native == self.kernels.is_empty(), "say either `native = true` or `kernels = [...]`");
        if self.native {
            self.topology.check_stand_in()?;
        } else {
            self.topology.check()?;
        }
        let needs_baseline =
            self.expect.goodput.is_some() || self.measures.iter().any(|measure| measure.goodput.is_some());
        ensure!(!needs_baseline || self.baseline.is_some(), "`goodput` is a fraction of the `[baseline]`: add one");
        ensure!(
            self.transfer.stall_at.is_some() == self.transfer.stall_for.is_some(),
            "`stall-at` and `stall-for` go together"
        );
        ensure!(
            self.transfer.stall_at.is_none() || self.transfer.output == Output::Pipe,
            "only the reader of a pipe can stall"
        );
        super::check::validate(&self.checks)?;
        for measure in &self.measures {
            ensure!(measure.from < measure.to, "measure \"{}\": `from` is not before `to`", measure.name);
            let known = measure.slaves.iter().flatten().all(|slave| (1..=self.topology.slaves).contains(slave));
            ensure!(known, "measure \"{}\": no such slave", measure.name);
        }
        self.events.iter().try_for_each(|event| event.check(self.topology.slaves))
    }

    /// Whether a run in this place (a kernel's version, or "native") is left out of the usual test runs.
    pub fn is_long(&self, place: &str) -> bool {
        match &self.long {
            Long::Always(long) => *long,
            Long::On(kernels) => kernels.iter().any(|kernel| kernel == place),
        }
    }

    /// About how long it takes in an emulated machine; for planning only.
    pub fn estimate(&self) -> std::time::Duration {
        let topology = &self.topology;
        let links = topology.link_rates();
        let usable: u64 = topology.usable().iter().map(|link| links[*link].0).sum();
        let transfer = self.transfer.bytes.0 * 8 / usable.max(1);
        let events =
            self.events.iter().flat_map(|event| [event.at, event.until]).flatten().map(|span| span.0.as_secs()).max();
        let baseline = self.baseline.as_ref().map_or(0, |baseline| u64::from(baseline.seconds) + 2);
        let probes = self.probe.as_ref().map_or(0, |probe| probe.ports as u64 / 10);
        std::time::Duration::from_secs(10 + transfer.max(events.unwrap_or(0)) + baseline + probes)
    }

    /// How long it may take at most, with the building of the network.
    pub fn limit(&self) -> std::time::Duration {
        let baseline = self.baseline.as_ref().map_or(0, |baseline| baseline.seconds + 10);
        let checks = u32::try_from(self.checks.len()).unwrap_or(u32::MAX);
        self.transfer.limit.0 * (1 + checks) + std::time::Duration::from_secs(120 + u64::from(baseline))
    }
}

impl Event {
    fn check(&self, slaves: usize) -> Result<()> {
        let actions = [self.run.is_some(), !self.rate.is_empty(), self.kill.is_some()];
        ensure!(actions.iter().filter(|given| **given).count() == 1, "an event has one of `run`, `rate`, `kill`");
        ensure!(self.rate.len() <= 2, "a `rate` is one value, or two between which to draw");
        ensure!(self.every.is_none() || self.times.is_none(), "an event has `every` or `times`, not both");
        ensure!(self.every.is_none_or(|every| !every.0.is_zero()), "`every` must be above 0");
        ensure!(
            self.every.is_none() && self.times.is_none() || self.until.is_some(),
            "`every` and `times` need `until`"
        );
        ensure!(
            self.at.is_some() || self.every.is_some() || self.times.is_some(),
            "an event needs `at`, `every` or `times`"
        );
        ensure!(
            self.slave.is_none_or(|slave| (1..=slaves).contains(&slave)),
            "an event names a slave that is not there"
        );
        Ok(())
    }
}

fn shown(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The scenario files in a directory, by name.
///
/// # Errors
/// When it cannot be read.
pub fn all(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_gives_every_combination() {
        let text = "summary = 'x'\nkernels = ['6.1']\n[matrix]\nslaves = [2, 3]\n\
            family = ['ipv4', 'ipv6']\n[expect]\nstreams-per-slave = 4";
        let cases = Scenario::parse("m", text).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(
            names,
            ["m family=ipv4 slaves=2", "m family=ipv4 slaves=3", "m family=ipv6 slaves=2", "m family=ipv6 slaves=3"]
        );
        assert_eq!(cases[3].topology.slaves, 3);
        assert_eq!(cases[3].expect.connector_exit, Exit::Code(0));
    }

    #[test]
    fn mistakes_are_refused_with_words() {
        let refused =
            |text: &str| format!("{:#}", Scenario::parse("x", &format!("summary = 'x'\n{text}")).unwrap_err());
        assert!(refused("").contains("native"));
        assert!(refused("native = true\n[expect]\ngoodput = 0.9").contains("[baseline]"));
        assert!(refused("native = true\n[expect]\ngodput = 0.9").contains("godput"));
        assert!(refused("native = true\n[[event]]\nat = '1s'").contains("one of `run`"));
        assert!(refused("native = true\n[topology]\nnetem = 'loss 1%'").contains("`netem`"));
    }

    #[test]
    fn the_files_in_the_tree_are_well_formed() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
        let files = all(&directory).unwrap();
        assert!(!files.is_empty());
        for file in files {
            Scenario::load(&file).unwrap();
        }
    }
}
