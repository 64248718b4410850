//! Further addresses of a listener, as its greeting tells them.
//!
//! What a peer says here makes the connector try connections, so it is little, and only what can be connected to. Must
//! not know what they are tried for.

use super::WireError;
use super::read::{Reader, put_ip};
use std::net::IpAddr;

/// At most [`Addresses::MOST`] addresses that one host can have, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses(Vec<IpAddr>);

impl Addresses {
    /// How many are told at most.
    pub const MOST: usize = 8;

    /// Those of the given that can be a host's own on a network, as many as are told.
    pub fn new(given: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut kept = Vec::new();
        for ip in given.into_iter().map(|ip| ip.to_canonical()).filter(is_unicast) {
            if kept.len() < Self::MOST && !kept.contains(&ip) {
                kept.push(ip);
            }
        }
        Self(kept)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|ip| put_ip(out, ip));
    }

    /// From the value of its extension in frame `what`.
    pub(super) fn decode(value: &[u8], what: &'static str) -> Result<Self, WireError> {
        let mut reader = Reader::new(value, what);
        let mut told = Vec::new();
        while !reader.is_empty() {
            told.push(reader.ip()?);
        }
        Ok(Self::new(told))
    }
}

fn is_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Length of an address on the wire, bytes.
    const LEN: usize = 16;

    fn addresses(texts: &[&str]) -> Addresses {
        Addresses::new(texts.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn only_what_a_host_can_have_is_told_and_only_once() {
        let told = addresses(&["0.0.0.0", "10.1.2.3", "127.0.0.1", "fe80::1", "::1", "ff02::1", "::ffff:10.1.2.3"]);
        assert_eq!(told, addresses(&["10.1.2.3", "fe80::1"]));
        assert!(addresses(&["255.255.255.255", "224.0.0.1", "::"]).is_empty());
    }

    #[test]
    fn of_many_the_first_are_told() {
        let many: Vec<IpAddr> = (1..=20).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert!(Addresses::new(many.clone()).iter().eq(many.into_iter().take(Addresses::MOST)));
    }

    proptest! {
        #[test]
        fn what_is_told_survives_and_anything_else_is_bounded_or_refused(
            value in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            match Addresses::decode(&value, "Welcome") {
                Ok(told) => {
                    prop_assert!(value.len() % LEN == 0 && told.iter().count() <= Addresses::MOST);
                    let mut again = Vec::new();
                    told.encode(&mut again);
                    prop_assert_eq!(Addresses::decode(&again, "Welcome"), Ok(told));
                }
                Err(_) => prop_assert!(value.len() % LEN != 0),
            }
        }
    }
}
