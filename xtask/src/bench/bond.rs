//! `cargo xtask bench bond`: the same file over the native stand-in for a bond: N links of equal rate, and the bond's
//! own hash chooses one per packet. Shows how much of the links each program fills, and how unevenly. Needs root.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use xtask::lab::baseline;
use xtask::lab::network::Network;
use xtask::lab::scenario::Baseline;
use xtask::lab::topology::{Place, Topology};

use super::measure::{self, Sample};
use super::memory;
use super::report::{Column, Table, float};
use super::rival::{BOND, Rival, Values};
use super::sitting::Sitting;
use crate::{feed, provision, sh};

/// One transfer may take this long; slower is a hang.
const PATIENCE: Duration = Duration::from_mins(5);
/// The receiver's port: the namespaces are ours alone.
const PORT: u16 = 31337;
/// How long the yardstick, one stream of iperf3, is measured.
const YARDSTICK_SECONDS: u32 = 5;

/// What the table shows.
const COLUMNS: &[Column] = &[
    Column { heading: "Mbit/s", key: "megabits_per_second", decimals: 0, ratio: true },
    Column { heading: "% of all links", key: "percent_of_links", decimals: 1, ratio: false },
    Column { heading: "% on the fullest link", key: "percent_on_fullest_link", decimals: 1, ratio: false },
    Column { heading: "CPU s per GB", key: "cpu_seconds_per_gigabyte", decimals: 2, ratio: true },
    Column { heading: "sender's peak MiB", key: "sender_peak_mib", decimals: 0, ratio: false },
    Column { heading: "receiver's peak MiB", key: "receiver_peak_mib", decimals: 0, ratio: false },
];

/// Arguments of `cargo xtask bench bond`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes to move per transfer
    #[arg(long, default_value = "1.5G", value_parser = feed::size)]
    bytes: u64,
    /// Links of the bond
    #[arg(long, default_value_t = 4)]
    slaves: usize,
    /// The rate of each link, as tc writes it
    #[arg(long, default_value = "1gbit")]
    rate: String,
    #[command(flatten)]
    sitting: Sitting,
}

/// Measures and prints.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let Args { bytes, slaves, rate, sitting } = args;
    provision::ensure(provision::NAMESPACES, true)?;
    let rivals = sitting.choose(BOND)?;
    let mpnc = sh::build_release()?;
    let topology = Topology { slaves: *slaves, rate: rate.parse()?, ..Topology::default() };
    let network = Network::build(&topology, true)?;
    let efficiency = baseline::efficiency(&network, &topology, &Baseline { seconds: YARDSTICK_SECONDS })?;
    let ceiling = efficiency * float(topology.rate.0) * float(*slaves as u64);
    let file = memory::random_file(*bytes)?;
    let rows = sitting.measure(&rivals, COLUMNS, |rival| {
        let before = sent(&network)?;
        let values =
            Values { mpnc: &mpnc, host: topology.address(Place::B), port: PORT, bytes: *bytes, slaves: *slaves };
        let Sample { wall, sender, receiver } = transfer(rival, &values, &network, &file)?;
        let on_links: Vec<_> = sent(&network)?.iter().zip(before).map(|(after, before)| after - before).collect();
        let bits_per_second = float(*bytes) * 8.0 / wall.as_secs_f64();
        let fullest = on_links.iter().max().map_or(0.0, |bytes| float(*bytes)) / float(on_links.iter().sum());
        Ok(vec![
            bits_per_second / 1e6,
            bits_per_second / ceiling * 100.0,
            fullest * 100.0,
            (sender.cpu + receiver.cpu).as_secs_f64() / (float(*bytes) / 1e9),
            sender.peak_mib(),
            receiver.peak_mib(),
        ])
    })?;
    let title = format!(
        "stand-in for a bond of {slaves} x {rate}, {bytes} bytes, medians of {} rounds; all links = {slaves} x one \
         stream of iperf3 = {:.0} Mbit/s",
        sitting.rounds,
        ceiling / 1e6
    );
    Table { title, reference: sitting.reference(), columns: COLUMNS, rows }.print(sitting.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes that the sending host has put on each link so far.
fn sent(network: &Network) -> Result<Vec<u64>> {
    Ok(network.counters(Place::A)?.into_iter().map(|(sent, _)| sent).collect())
}

fn transfer(rival: &Rival, values: &Values<'_>, network: &Network, file: &File) -> Result<Sample> {
    let command = |place, words: &[&str]| -> Command {
        let words = values.fill(words);
        let mut command = network.namespace(place).command(Path::new(&words[0]));
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut sender = command(Place::A, rival.sender);
    if rival.pipe {
        sender.stdin(memory::reopen(file)?);
    }
    let host = network.namespace(Place::B);
    let listens = || host.listens(values.port).unwrap_or(false);
    measure::pair(command(Place::B, rival.receiver), sender, listens, PATIENCE).context("over the stand-in for a bond")
}
