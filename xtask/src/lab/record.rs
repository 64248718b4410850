//! What was seen while a transfer ran, and the sums over it: goodput between two moments, shares of slaves, what the
//! links offered. Pure: it is filled by the runner and judged by the verdicts.

use std::time::Duration;

use super::units::{BitRate, float};

/// (sent, received) bytes of each slave.
pub type Counters = Vec<(u64, u64)>;

/// One look at the running transfer.
#[derive(Debug, Clone)]
pub struct Sample {
    /// On the scenario's clock.
    pub at: Duration,
    /// Bytes in the output, for each direction that carries data.
    pub delivered: Vec<u64>,
    /// The sending host's slaves; empty where nothing asks for them.
    pub counters: Counters,
}

/// The whole of a transfer.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// In order of time; the first is taken at the start, the last after the end.
    pub samples: Vec<Sample>,
    /// When the links' rates changed, and to what, starting with (0, the first rates).
    pub rates: Vec<(Duration, Vec<BitRate>)>,
}

impl Record {
    /// Bits per second that arrived between two moments, in the slowest direction.
    pub fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let flows = self.samples.first().map_or(0, |sample| sample.delivered.len());
        let rate = |flow: usize| (self.delivered(flow, to) - self.delivered(flow, from)) * 8.0 / seconds(from, to);
        (0..flows).map(rate).fold(f64::INFINITY, f64::min)
    }

    /// Bits per second that the links of `slaves` (counted from 0) offered together, on average between two moments.
    pub fn offered(&self, slaves: &[usize], from: Duration, to: Duration) -> f64 {
        let mut bits = 0.0;
        for (index, (start, rates)) in self.rates.iter().enumerate() {
            let end = self.rates.get(index + 1).map_or(to, |next| next.0);
            let overlap = end.min(to).saturating_sub((*start).max(from)).as_secs_f64();
            bits += overlap * slaves.iter().map(|slave| float(rates[*slave].0)).sum::<f64>();
        }
        bits / seconds(from, to)
    }

    /// What each slave sent between the samples nearest to two moments.
    pub fn sent(&self, from: Duration, to: Duration) -> Vec<u64> {
        let nearest =
            |at: Duration| self.samples.iter().filter(|s| !s.counters.is_empty()).min_by_key(|s| s.at.abs_diff(at));
        match (nearest(from), nearest(to)) {
            (Some(first), Some(last)) => {
                deltas(&first.counters, &last.counters).into_iter().map(|(sent, _)| sent).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Bytes delivered at a moment, drawn straight between samples.
    fn delivered(&self, flow: usize, at: Duration) -> f64 {
        let after = self.samples.partition_point(|sample| sample.at <= at);
        let value = |index: usize| float(self.samples[index].delivered[flow]);
        match (after.checked_sub(1), self.samples.get(after)) {
            (Some(before), Some(next)) => {
                let first = self.samples[before].at;
                let part = seconds(first, at) / seconds(first, next.at);
                value(before) + part * (value(after) - value(before))
            }
            (Some(last), None) => value(last),
            (None, _) => 0.0,
        }
    }
}

fn seconds(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64()
}

/// What each slave carried between two looks.
pub fn deltas(before: &Counters, after: &Counters) -> Counters {
    let pairs = before.iter().zip(after);
    pairs
        .map(|((sent, received), (sent_now, received_now))| {
            (sent_now.saturating_sub(*sent), received_now.saturating_sub(*received))
        })
        .collect()
}

/// Percent of the whole that each slave carried too much or too little, relative to its own share by rate: the worst of
/// `slaves` (counted from 0), and each slave's share in percent of the whole.
pub fn unevenness(carried: &[u64], slaves: &[usize], rates: &[BitRate]) -> (f64, Vec<f64>) {
    let total: f64 = slaves.iter().map(|slave| float(carried[*slave])).sum();
    let all_rates: f64 = slaves.iter().map(|slave| float(rates[*slave].0)).sum();
    let mut worst: f64 = 0.0;
    let mut shares = Vec::new();
    for slave in slaves {
        let share = float(carried[*slave]) / total.max(1.0);
        let due = float(rates[*slave].0) / all_rates;
        worst = worst.max((share / due - 1.0).abs() * 100.0);
        shares.push(share * 100.0);
    }
    (worst, shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(at: u32, delivered: u64, sent: [u64; 2]) -> Sample {
        Sample { at: SECOND * at, delivered: vec![delivered], counters: sent.map(|bytes| (bytes, 0)).to_vec() }
    }

    #[test]
    fn rates_are_taken_between_moments() {
        let record = Record {
            samples: vec![sample(0, 0, [0, 0]), sample(1, 1000, [600, 500]), sample(3, 5000, [2600, 2500])],
            rates: vec![(Duration::ZERO, vec![BitRate(100), BitRate(100)]), (SECOND, vec![BitRate(100), BitRate(300)])],
        };
        assert!((record.goodput(Duration::ZERO, SECOND) - 8000.0).abs() < 1e-6);
        assert!((record.goodput(SECOND, SECOND * 2) - 16000.0).abs() < 1e-6);
        assert!((record.offered(&[0, 1], Duration::ZERO, SECOND * 2) - 300.0).abs() < 1e-6);
        assert!((record.offered(&[1], SECOND, SECOND * 2) - 300.0).abs() < 1e-6);
        assert_eq!(record.sent(SECOND, SECOND * 3), [2000, 2000]);
    }

    #[test]
    fn shares_follow_the_rates() {
        let rates = [BitRate(100), BitRate(300), BitRate(100)];
        let (worst, shares) = unevenness(&[25, 75, 900], &[0, 1], &rates);
        assert!(worst < 1e-6);
        assert!((shares[1] - 75.0).abs() < 1e-6);
        assert!(unevenness(&[50, 50, 0], &[0, 1], &rates).0 > 90.0);
    }
}
