//! A cursor over received bytes that cannot run past their end.

use super::WireError;
use std::net::{IpAddr, Ipv6Addr};

/// Puts an address as [`Reader::ip`] takes it.
pub(super) fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    out.extend_from_slice(&v6.octets());
}

/// Takes fixed-width big-endian fields from the front of a frame body.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Name of the frame, for the error.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(super) fn malformed(&self) -> WireError {
        WireError::Malformed(self.what)
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (front, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (front, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*front)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Sixteen bytes; IPv4 travels as ::ffff:a.b.c.d.
    pub(super) fn ip(&mut self) -> Result<IpAddr, WireError> {
        self.array().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
