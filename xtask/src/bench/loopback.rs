//! `cargo xtask bench loopback`: a file in memory through a pair of programs over loopback to /dev/null. No wire
//! is in the way, so the table shows what each program costs: bytes per second, processor time, memory.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::measure::{self, Sample};
use super::memory;
use super::report::{Column, Table, float};
use super::rival::{LOOPBACK, Rival, Values};
use super::sitting::Sitting;
use crate::{feed, sh};

/// One transfer may take this long; slower is a hang.
const PATIENCE: Duration = Duration::from_mins(5);

/// Streams of mpnc, where rows are about its event loops.
const STREAMS: usize = 4;

/// What the table shows. A GB is 10^9 bytes.
const COLUMNS: &[Column] = &[
    Column { heading: "GB/s", key: "gigabytes_per_second", decimals: 2, ratio: true },
    Column { heading: "CPU s per GB", key: "cpu_seconds_per_gigabyte", decimals: 2, ratio: true },
    Column { heading: "sender's peak MiB", key: "sender_peak_mib", decimals: 0, ratio: false },
    Column { heading: "receiver's peak MiB", key: "receiver_peak_mib", decimals: 0, ratio: false },
];

/// Arguments of `cargo xtask bench loopback`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bytes to move per transfer
    #[arg(long, default_value = "4G", value_parser = feed::size)]
    bytes: u64,
    #[command(flatten)]
    sitting: Sitting,
}

/// Measures and prints.
pub(crate) fn main(args: &Args) -> Result<ExitCode> {
    let Args { bytes, sitting } = args;
    let rivals = sitting.choose(LOOPBACK)?;
    let mpnc = sh::build_release()?;
    let file = memory::random_file(*bytes)?;
    let rows = sitting.measure(&rivals, COLUMNS, |rival| {
        let Sample { wall, sender, receiver } = transfer(rival, *bytes, &mpnc, &file)?;
        let gigabytes = float(*bytes) / 1e9;
        let cpu = (sender.cpu + receiver.cpu).as_secs_f64();
        Ok(vec![gigabytes / wall.as_secs_f64(), cpu / gigabytes, sender.peak_mib(), receiver.peak_mib()])
    })?;
    let title = format!("loopback, {bytes} bytes from memory to /dev/null, medians of {} rounds", sitting.rounds);
    Table { title, reference: sitting.reference(), columns: COLUMNS, rows }.print(sitting.json)?;
    Ok(ExitCode::SUCCESS)
}

fn transfer(rival: &Rival, bytes: u64, mpnc: &Path, file: &File) -> Result<Sample> {
    let port = feed::free_port()?;
    let values = Values { mpnc, host: "127.0.0.1", port, bytes, slaves: STREAMS };
    let command = |words: &[&str]| {
        let words = values.fill(words);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let mut sender = command(rival.sender);
    if rival.pipe {
        sender.stdin(memory::reopen(file)?);
    }
    measure::pair(command(rival.receiver), sender, || feed::listens_on(port), PATIENCE)
}
