//! What the demonstration and the benchmarks move and where: reproducible random bytes, their SHA-256, a free
//! port on loopback and the wait until somebody listens on it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

/// Bytes handled at a time: large enough that system calls do not count, small enough for the cache.
pub(crate) const CHUNK: usize = 256 << 10;

/// Pseudo-random bytes: the same for the same seed, which neither compression nor a repeated or missing block can
/// imitate.
pub(crate) struct Prbs(fastrand::Rng);

impl Prbs {
    /// Starts the sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Writes the first `bytes` bytes of the sequence to `out`, and returns their SHA-256 in hexadecimal.
    pub(crate) fn write_to(mut self, out: &mut impl Write, bytes: u64) -> io::Result<String> {
        let mut buffer = vec![0; CHUNK];
        let mut digest = Sha256::new();
        let mut left = bytes;
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
            self.0.fill(part);
            digest.update(&*part);
            out.write_all(part)?;
            left -= part.len() as u64;
        }
        out.flush()?;
        Ok(hex(&digest.finalize()))
    }
}

/// Reads to the end of the input: how many bytes came, and their SHA-256 in hexadecimal.
pub(crate) fn digest(input: &mut impl Read) -> io::Result<(u64, String)> {
    let mut buffer = vec![0; CHUNK];
    let mut digest = Sha256::new();
    let mut total = 0;
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok((total, hex(&digest.finalize()))),
            Ok(n) => {
                digest.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// A port of 127.0.0.1 that nobody holds now. Another program may take it before its use; the kernel hands out
/// ports in random order, so that is as good as never.
pub(crate) fn free_port() -> Result<u16> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port on 127.0.0.1")?;
    Ok(socket.local_addr()?.port())
}

/// How long a receiver may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the receiver listens, while it lives.
pub(crate) fn wait_listening(mut listens: impl FnMut() -> bool, mut lives: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if listens() {
            return Ok(());
        }
        if !lives() {
            bail!("the receiver ended before it listened");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("the receiver does not listen after {} s", PATIENCE.as_secs());
}

/// Whether a TCP socket of this host listens on the port. Looks at the kernel's table instead of connecting, because
/// a receiver for one session would take the probe for its peer.
pub(crate) fn listens_on(port: u16) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    tables.iter().flatten().any(|table| listens(table, port))
}

/// Whether the text of `/proc/net/tcp` has the port in state LISTEN (`0A`;
/// `Documentation/networking/proc_net_tcp.rst`).
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|field| field.rsplit(':').next());
        local.and_then(|hex| u16::from_str_radix(hex, 16).ok()) == Some(port) && fields.nth(1) == Some("0A")
    })
}

/// Parses sizes as people write them: `4096`, `64K`, `1.5G` (powers of 1024, as dd and nc-like tools count).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let shift = match unit.to_ascii_uppercase().trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("{text}: the unit is K, M, G or T")),
    };
    let number: f64 = text[..text.len() - unit.len()].parse().map_err(|_| format!("{text}: not a number"))?;
    let bytes = number * f64::from(1_u32 << (shift % 30)) * if shift >= 30 { f64::from(1_u32 << 30) } else { 1.0 };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "digits and a dot make no negative; checked above 2^53"
    )]
    if bytes < 9e15 { Ok(bytes as u64) } else { Err(format!("{text}: more than a test should move")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_reproducible_and_its_digest_is_that_of_its_bytes() {
        let mut bytes = Vec::new();
        let sent = Prbs::new(7).write_to(&mut bytes, 1_000_003).unwrap();
        assert_eq!(digest(&mut &bytes[..]).unwrap(), (1_000_003, sent.clone()));
        assert_ne!(Prbs::new(8).write_to(&mut io::sink(), 1_000_003).unwrap(), sent);
        assert_ne!(digest(&mut &bytes[1..]).unwrap().1, sent);
    }

    #[test]
    fn sha256_of_nothing_is_the_published_value() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(&mut io::empty()).unwrap(), (0, empty.into()));
    }

    #[test]
    fn the_wait_ends_when_a_socket_listens_and_not_before() {
        let port = free_port().unwrap();
        let mut looks = 0;
        let ends_at_the_third_look = || {
            looks += 1;
            looks < 3
        };
        assert!(wait_listening(|| listens_on(port), ends_at_the_third_look).is_err());
        assert_eq!(looks, 3);
        let _socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        wait_listening(|| listens_on(port), || true).unwrap();
    }

    #[test]
    fn a_connection_on_the_port_is_no_listener() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 0100007F:A000 01 0:0\n";
        assert!(!listens(table, 8080));
        assert!(listens(&table.replace(" 01 ", " 0A "), 8080));
    }

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("64K", 65_536), ("1.5M", 1_572_864), ("4GiB", 4 << 30), ("2T", 2 << 40)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "4X", "9000T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
