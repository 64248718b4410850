//! Sizes and rates as people write and read them.
//!
//! Written here rather than taken from a crate: `K` is 1024 as dd has it, but `kB` and `kbit` are 1000 as links are
//! sold, fractions are refused rather than rounded, and the error names what would have been understood. To parse-size
//! `K` and `kB` are the same, it and bytesize round fractions, and neither knows bits.

/// A unit's names, and how many of the least it is.
type Units = [(&'static [&'static str], u64)];

const BYTES: &Units = &[
    (&["", "B"], 1),
    (&["K", "k", "KiB"], 1 << 10),
    (&["M", "MiB"], 1 << 20),
    (&["G", "GiB"], 1 << 30),
    (&["T", "TiB"], 1 << 40),
    (&["kB", "KB"], 1000),
    (&["MB"], 1_000_000),
    (&["GB"], 1_000_000_000),
    (&["TB"], 1_000_000_000_000),
];

const BITS: &Units = &[
    (&["bit"], 1),
    (&["kbit", "Kbit"], 1000),
    (&["Mbit"], 1_000_000),
    (&["Gbit"], 1_000_000_000),
    (&["Tbit"], 1_000_000_000_000),
];

/// Reads a number of bytes: `65536`, `256K`, `64M` (powers of 1024, as dd has them), `64kB`, `1GB` (powers of 1000).
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let known = "K, M, G or T (powers of 1024) or kB, MB, GB, TB";
    parse(text, BYTES, "bytes such as 65536, 256K or 64M", known)
}

/// Reads a rate in bytes a second: a size (`200M`), or bits as links are sold (`200Mbit`, powers of 1000); `/s` may
/// follow.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let rate = if text.ends_with("bit") {
        parse(text, BITS, "bits such as 200Mbit", "kbit, Mbit, Gbit or Tbit")? / 8
    } else {
        parse_size(text)?
    };
    if rate == 0 { Err("nothing would ever be sent".to_owned()) } else { Ok(rate) }
}

/// Reads a whole number with one of these units; `such` and `known` are for who has written another.
fn parse(text: &str, units: &Units, such: &str, known: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("expected a number of {such}"))?;
    let factor = units.iter().find(|(names, _)| names.contains(&unit)).map(|(_, factor)| *factor);
    let factor = factor.ok_or_else(|| format!("unknown suffix '{unit}': use {known}"))?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Bytes in the units in which links are sold: `1.50 GB`.
pub(super) fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_dd_reads_them() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4K", 4096), ("64M", 64 << 20), ("1GB", 1_000_000_000)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "1X", "-1", "99999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_bytes_or_bits_a_second() {
        for (text, bytes) in [
            ("200M", 200 << 20),
            ("200MB", 200_000_000),
            ("200Mbit", 25_000_000),
            ("1Gbit/s", 125_000_000),
            ("10MB/s", 10_000_000),
            ("8bit", 1),
        ] {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for text in ["0", "7bit", "bit", "1Xbit", "fast", "99999999Tbit"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1_500_000_000, "1.50 GB"),
            (12_340_000, "12.3 MB"),
            (999_999, "1.00 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(show_bytes(bytes), text);
        }
    }
}
