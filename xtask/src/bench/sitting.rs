//! One sitting: every chosen program once a round, round after round, so that a change of the machine's mood hits
//! all alike. Knows neither what is measured nor where.

use anyhow::{Context as _, Result, bail};

use super::report;
use super::rival::{Rival, WORKERS};
use crate::provision;

/// The program that ratios are against, and that always runs.
const REFERENCE: &str = "nc";

/// Arguments that every benchmark has.
#[derive(clap::Args)]
pub(crate) struct Sitting {
    /// Rounds; the table has the medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Only these programs (the reference nc always runs)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Compare 1, 2 and 4 event loops of mpnc's receiver instead of programs
    #[arg(long, conflicts_with = "only")]
    workers: bool,
    /// Print JSON on stdout instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Install nothing: leave out the programs that are missing
    #[arg(long)]
    no_install: bool,
}

impl Sitting {
    /// The row that ratios are against.
    pub(crate) fn reference(&self) -> &'static str {
        if self.workers { WORKERS[0].name } else { REFERENCE }
    }

    /// The programs to measure: those asked for that are here or can be fetched.
    pub(crate) fn choose(&self, rivals: &'static [Rival]) -> Result<Vec<&'static Rival>> {
        if self.workers {
            return Ok(WORKERS.iter().collect());
        }
        if let Some(unknown) = self.only.iter().find(|name| !rivals.iter().any(|rival| rival.name == **name)) {
            let known: Vec<_> = rivals.iter().map(|rival| rival.name).collect();
            bail!("{unknown}: not one of {}", known.join(", "));
        }
        if let Err(reason) = provision::ensure(provision::RIVALS, !self.no_install) {
            eprintln!("some programs are left out: {reason:#}");
        }
        let absent: Vec<_> = provision::missing(provision::RIVALS).iter().map(|tool| tool.program).collect();
        let wanted = |rival: &&Rival| {
            self.only.is_empty() || rival.name == REFERENCE || self.only.iter().any(|name| name == rival.name)
        };
        Ok(rivals.iter().filter(wanted).filter(|rival| !absent.contains(&rival.receiver[0])).collect())
    }

    /// Runs the rounds. `transfer` gives a sample's figures, in the columns' order.
    ///
    /// # Errors
    /// The first transfer that fails: a table with a hole would be read as a result.
    pub(crate) fn measure(
        &self,
        rivals: &[&'static Rival],
        columns: &'static [report::Column],
        mut transfer: impl FnMut(&Rival) -> Result<Vec<f64>>,
    ) -> Result<Vec<report::Row>> {
        let mut samples: Vec<Vec<Vec<f64>>> = vec![Vec::new(); rivals.len()];
        for round in 1..=self.rounds {
            for (rival, samples) in rivals.iter().zip(&mut samples) {
                let sample = transfer(rival).with_context(|| format!("{}, round {round}", rival.name))?;
                let first = columns.iter().zip(&sample).next().map(|(column, value)| column.show_with_unit(*value));
                eprintln!("round {round}/{}: {:<14} {}", self.rounds, rival.name, first.unwrap_or_default());
                samples.push(sample);
            }
        }
        let median = |samples: &[Vec<f64>], column: usize| report::median(samples.iter().map(|s| s[column]).collect());
        let row = |(rival, samples): (&&Rival, &Vec<Vec<f64>>)| report::Row {
            name: rival.name.into(),
            note: if rival.pipe { "" } else { "no pipe, no order" }.into(),
            figures: (0..columns.len()).map(|column| median(samples, column)).collect(),
        };
        Ok(rivals.iter().zip(&samples).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rival::LOOPBACK;
    use super::*;

    const COLUMNS: &[report::Column] = &[report::Column { heading: "GB/s", key: "rate", decimals: 1, ratio: true }];

    fn sitting(only: &[&str]) -> Sitting {
        let only = only.iter().map(ToString::to_string).collect();
        Sitting { rounds: 3, only, workers: false, json: false, no_install: true }
    }

    #[test]
    fn every_program_runs_once_a_round_and_medians_remain() {
        let rivals: Vec<_> = LOOPBACK.iter().take(2).collect();
        let mut order = Vec::new();
        let rows = sitting(&[])
            .measure(&rivals, COLUMNS, |rival| {
                order.push(rival.name);
                Ok(vec![[9.0, 1.0, 2.0][(order.len() - 1) / 2]])
            })
            .unwrap();
        assert_eq!(order, ["mpnc", "nc", "mpnc", "nc", "mpnc", "nc"]);
        assert_eq!(rows.iter().map(|row| row.figures.clone()).collect::<Vec<_>>(), [[2.0], [2.0]]);
    }

    #[test]
    fn a_failed_transfer_is_an_error_that_names_the_program() {
        let rivals: Vec<_> = LOOPBACK.iter().take(1).collect();
        let error = sitting(&[]).measure(&rivals, COLUMNS, |_| bail!("it hung")).unwrap_err();
        assert_eq!(format!("{error:#}"), "mpnc, round 1: it hung");
    }

    #[test]
    fn an_unknown_program_is_refused() {
        let error = sitting(&["netcat"]).choose(LOOPBACK).err().unwrap().to_string();
        assert!(error.contains("netcat: not one of mpnc, nc"), "{error}");
    }
}
