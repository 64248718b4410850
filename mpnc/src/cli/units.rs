//! Sizes as people write and read them.

/// Reads a number of bytes: `65536`, `256K`, `64M` (powers of 1024, as dd has them), `64kB`, `1GB` (powers of 1000).
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "expected a number of bytes such as 65536, 256K or 64M".to_owned())?;
    let factor: u64 = match suffix {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => return Err(format!("unknown suffix '{other}': use K, M, G or T (powers of 1024) or kB, MB, GB, TB")),
    };
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

/// Reads a rate in bytes a second: a size (`200M`), or bits as links are sold (`200Mbit`, powers of 1000); `/s` may follow.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let text = text.strip_suffix("/s").unwrap_or(text);
    let rate = match text.strip_suffix("bit") {
        Some(bits) => {
            let digits = bits.find(|c: char| !c.is_ascii_digit()).unwrap_or(bits.len());
            let (number, suffix) = bits.split_at(digits);
            let factor: u64 = match suffix {
                "" => 1,
                "k" | "K" => 1000,
                "M" => 1_000_000,
                "G" => 1_000_000_000,
                "T" => 1_000_000_000_000,
                other => return Err(format!("unknown suffix '{other}bit': use kbit, Mbit, Gbit or Tbit")),
            };
            let number: u64 = number.parse().map_err(|_| "expected a number of bits such as 200Mbit".to_owned())?;
            number.checked_mul(factor).ok_or_else(|| "too large".to_owned())? / 8
        }
        None => parse_size(text)?,
    };
    if rate == 0 { Err("nothing would ever be sent".to_owned()) } else { Ok(rate) }
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
