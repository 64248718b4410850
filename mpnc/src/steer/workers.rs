//! How many workers a side has where nobody says. Pure.

use std::fmt;
use std::str::FromStr;

use mpnc_ebpf::contract::MAX_WORKERS;

/// Fewer processors than this, and several loops take them from each other and from the writer: on two, two and four
/// loops moved 0.7 to 0.8 of what one does (`cargo xtask bench loopback --workers`).
const FEW_PROCESSORS: usize = 4;
/// One loop is counted on to fill a bond slower than this, Mbit/s. Where to begin, not measured: no such cards were at
/// hand.
const SLOW_BOND: u64 = 10_000;
/// Likewise.
const MOST: usize = 8;

/// `--workers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkerCount {
    /// By the host: [`count`].
    #[default]
    Auto,
    /// So many.
    Stated(usize),
}

impl FromStr for WorkerCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let most = MAX_WORKERS as usize;
        let stated = text.parse().ok().filter(|count| (1..=most).contains(count));
        stated.map(Self::Stated).ok_or_else(|| format!("'{text}' is neither auto nor a number from 1 to {most}"))
    }
}

impl fmt::Display for WorkerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Stated(count) => count.fmt(f),
        }
    }
}

/// Workers for a host with so many `processors`, whose `bond` has so many Mbit/s in all (0 where that is not known or
/// there is none) and is filled by so many streams; it is looked for only where that matters. A connector's is the one
/// on its way, with the streams it plans. To a listener nobody has connected yet: it goes by the fastest of its host,
/// and the streams that this host would open itself, since both ends of a fast path have cards alike.
pub fn count(processors: usize, bond: impl FnOnce() -> (u64, usize)) -> usize {
    if processors < FEW_PROCESSORS {
        return 1;
    }
    let (mbit, streams) = bond();
    if mbit < SLOW_BOND {
        return 1;
    }
    (processors / 2).min(streams).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_processors_and_slow_bonds_have_one_worker() {
        for (processors, mbit, streams, workers) in [
            (1, 400_000, 16, 1),
            (3, 400_000, 16, 1),
            (4, 0, 4, 1),
            (64, 9_999, 4, 1),
            (64, 10_000, 4, 4),
            (4, 40_000, 4, 2),
            (5, 20_000, 2, 2),
            (64, 50_000, 2, 2),
            (64, 400_000, 16, 8),
            (64, 25_000, 0, 1),
        ] {
            assert_eq!(count(processors, || (mbit, streams)), workers, "{processors} {mbit} {streams}");
        }
    }

    #[test]
    fn the_spellings_read_back() {
        for text in ["auto", "1", "32"] {
            assert_eq!(text.parse::<WorkerCount>().unwrap().to_string(), text);
        }
        for text in ["0", "33", "many", "-1", ""] {
            assert!(text.parse::<WorkerCount>().unwrap_err().contains("neither auto nor a number from 1 to 32"));
        }
    }
}
