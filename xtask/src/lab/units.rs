//! The quantities that scenario files and command lines write with a unit: times, sizes, rates.
//! Knows nothing of networks or processes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A number of bytes, written `1500`, `240MB`, `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Bytes(pub u64);

/// A link rate in bits per second, written as `tc` writes it: `50mbit`, `1gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct BitRate(pub u64);

/// A span of time, or a point on a scenario's clock, written `500ms`, `2s`, `1min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let scale = |unit: &str| {
            Some(match unit {
                "" | "B" => 1.0,
                "kB" => 1e3,
                "MB" => 1e6,
                "GB" => 1e9,
                "KiB" => 1024.0,
                "MiB" => 1024.0 * 1024.0,
                "GiB" => 1024.0 * 1024.0 * 1024.0,
                _ => return None,
            })
        };
        parse(text, scale, "a size such as 240MB or 64MiB").map(Self)
    }
}

impl FromStr for BitRate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let scale = |unit: &str| {
            Some(match unit {
                "bit" => 1.0,
                "kbit" => 1e3,
                "mbit" => 1e6,
                "gbit" => 1e9,
                _ => return None,
            })
        };
        parse(text, scale, "a rate such as 50mbit or 1gbit").map(Self)
    }
}

impl FromStr for Span {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let scale = |unit: &str| {
            Some(match unit {
                "ms" => 1.0,
                "s" => 1e3,
                "min" => 60e3,
                _ => return None,
            })
        };
        parse(text, scale, "a time such as 500ms or 2s").map(|ms| Self(Duration::from_millis(ms)))
    }
}

/// Reads a decimal number with a unit that `scale` knows; `what` describes the expected form.
fn parse(text: &str, scale: impl Fn(&str) -> Option<f64>, what: &str) -> Result<u64> {
    let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text.trim()[digits.len()..];
    let number: f64 = digits.trim().parse().with_context(|| format!("\"{text}\" is not {what}"))?;
    let Some(factor) = scale(unit) else { bail!("\"{text}\" is not {what}: unknown unit \"{unit}\"") };
    let value = (number * factor).round();
    if !(0.0..9e15).contains(&value) {
        bail!("\"{text}\" is out of range");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    Ok(value as u64)
}

/// What serde needs to read a quantity through its `FromStr`.
macro_rules! from_string {
    ($($quantity:ty),+) => {$(
        impl TryFrom<String> for $quantity {
            type Error = String;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse().map_err(|error: anyhow::Error| format!("{error:#}"))
            }
        }
    )+};
}
from_string!(Bytes, BitRate, Span);

/// A count as a floating-point number, for rates and ratios; counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub fn float(count: u64) -> f64 {
    count as f64
}

impl fmt::Display for BitRate {
    /// The exact form, which `tc` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}bit", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_unknown_ones_refused() {
        assert_eq!("240MB".parse::<Bytes>().unwrap(), Bytes(240_000_000));
        assert_eq!("64MiB".parse::<Bytes>().unwrap(), Bytes(64 << 20));
        assert_eq!("1.5GB".parse::<Bytes>().unwrap(), Bytes(1_500_000_000));
        assert_eq!("50mbit".parse::<BitRate>().unwrap().to_string(), "50000000bit");
        assert_eq!("500ms".parse::<Span>().unwrap().0, Duration::from_millis(500));
        assert!("5 parsecs".parse::<Span>().is_err());
        assert!("50".parse::<BitRate>().is_err());
        assert!("-1s".parse::<Span>().is_err());
    }
}
