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

/// The Ethernet headers of what this host sends from each of these addresses to the other; `None` where it does not go
/// over this device, or the next hop is not known by now.
pub fn ethers_between(pairs: &[(IpAddr, SocketAddr)], device: u32) -> io::Result<Vec<Option<Ether>>> {
    let mut netlink = Netlink::open()?;
    let links = Links::from_netlink(&netlink.links()?);
    let own = links.get(device).and_then(|link| link.address.as_slice().try_into().ok());
    let of = |(src, dst): &(IpAddr, SocketAddr)| {
        let dst = next_hop(&mut netlink, *src, *dst, device)?;
        Some(Ether { src: own?, dst, vlan: None })
    };
    Ok(pairs.iter().map(of).collect())
}

/// The hardware address of the next hop.
fn next_hop(netlink: &mut Netlink, src: IpAddr, dst: SocketAddr, device: u32) -> Option<[u8; 6]> {
    let zone = match dst {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mark = Given::to_streams(dst).mark;
    let query = Query { dst: dst.ip(), src: Some(src), device: zone, mark, ports: None };
    let hop = *netlink.route(&query).ok()?.hops.first().filter(|hop| hop.device == device)?;
    netlink.neighbour(device, hop.gateway.unwrap_or_else(|| dst.ip()))?.try_into().ok()
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
        assert_eq!(ethers_between(&[(own, SocketAddr::new(own, 9))], lo).unwrap(), [None]);
    }
}
