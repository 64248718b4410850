//! This host's addresses on a device, and the Ethernet header between two addresses: what there is to choose from where
//! a bond's hash takes addresses, not ports.
//!
//! Must not know which are tried, nor send anything.

use super::links::Links;
use super::netlink::{Netlink, Query};
use super::socket::Given;
use crate::bond::Ether;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The addresses of this device that connections can be from and to, those of the widest scope first.
///
/// # Errors
/// The system's, where netlink is refused.
pub fn addresses_on(device: u32) -> io::Result<Vec<IpAddr>> {
    Netlink::open()?.addresses(device)
}

/// The Ethernet header of what this host sends between these addresses, if it goes over this device and the next hop is
/// known by now.
#[must_use]
pub fn ether_between(src: IpAddr, dst: SocketAddr, device: u32) -> Option<Ether> {
    let mut netlink = Netlink::open().ok()?;
    let zone = match dst {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mark = Given::to_streams(dst).mark;
    let query = Query { dst: dst.ip(), src: Some(src), device: zone, mark, ports: None };
    let hop = *netlink.route(&query).ok()?.hops.first().filter(|hop| hop.device == device)?;
    let next = netlink.neighbour(device, hop.gateway.unwrap_or_else(|| dst.ip()))?;
    let links = Links::from_netlink(&netlink.links().ok()?);
    let own = &links.get(device)?.address;
    Some(Ether { src: own.as_slice().try_into().ok()?, dst: next.try_into().ok()?, vlan: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_no_ethernet_header() {
        let mut netlink = Netlink::open().unwrap();
        let links = Links::from_netlink(&netlink.links().unwrap());
        let lo = links.named("lo").unwrap();
        let own = IpAddr::from([127, 0, 0, 1]);
        assert!(addresses_on(lo).unwrap().contains(&own));
        assert!(!addresses_on(lo + 10_000).unwrap().contains(&own));
        assert_eq!(ether_between(own, SocketAddr::new(own, 9), lo), None);
    }
}
