//! What a person types for an address or a port, in every form that nc takes: names, IPv4 in one to four numbers, IPv6
//! with a zone, with brackets or with an IPv4 address in it, services.
//!
//! Must not know routes.

use super::job::{Family, Local, Names, Remote};
use crate::error::{Error, words};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs, UdpSocket};

/// One address of the receiver, and the one to reach it from, where that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
}

/// Where to listen. Without an address, on all of them, of both families unless -4 or -6 says otherwise. Of several
/// addresses of a name, the first that this host has.
pub(super) fn listen_address(at: &Local) -> Result<SocketAddr, Error> {
    let any_ipv4 = at.names.family == Family::Ipv4 || !has_ipv6();
    let any = if any_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let port = listen_port(&at.port)?;
    let Some(host) = &at.host else { return Ok(SocketAddr::new(any, port)) };
    let found = of_family(at.names, host, resolve(at.names, host, port)?)?;
    Ok(found.iter().find(|addr| is_own(**addr)).copied().unwrap_or(found[0]))
}

/// The addresses of the receiver, in the order in which to try them.
pub(super) fn routes(remote: &Remote) -> Result<Vec<Route>, Error> {
    let Remote { names, host, port, source } = remote;
    let sources = source.as_ref().map_or_else(|| Ok(Vec::new()), |source| sources(*names, source))?;
    let from = |addr: &SocketAddr| sources.iter().find(|source| source.is_ipv4() == addr.is_ipv4()).copied();
    let mut found = of_family(*names, host, resolve(*names, host, port_of(port)?)?)?;
    found.retain(|addr| sources.is_empty() || from(addr).is_some());
    if found.is_empty() {
        return Err(no_family(host));
    }
    let route = |addr: SocketAddr| {
        let from = from(&addr);
        Ok(Route { to: towards(addr, from)?, from: from.map(|from| from.ip()) })
    };
    found.into_iter().map(route).collect()
}

/// The addresses that `-s` may mean; none for "any", as without it.
fn sources(names: Names, host: &str) -> Result<Vec<SocketAddr>, Error> {
    let no_source = |error: Error| Error::Usage(format!("--source {host}: {error}"));
    let mut found = resolve(names, host, 0).map_err(no_source)?;
    found.retain(|source| !source.ip().is_unspecified());
    Ok(found)
}

/// What connect(2) makes of a destination: nobody's address means this host, and a link-local one is on the link of the
/// source.
fn towards(addr: SocketAddr, from: Option<SocketAddr>) -> Result<SocketAddr, Error> {
    let addr = match (addr, addr.ip().is_unspecified()) {
        (_, true) => {
            let own = if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            SocketAddr::new(from.map_or(own, |from| from.ip()), addr.port())
        }
        (addr, false) => addr,
    };
    match (addr, from) {
        (SocketAddr::V6(to), Some(SocketAddr::V6(from))) if to.scope_id() == 0 => {
            check_zone(SocketAddrV6::new(*to.ip(), to.port(), 0, from.scope_id()))
        }
        (SocketAddr::V6(to), _) => check_zone(to),
        (to, _) => Ok(to),
    }
}

fn check_zone(addr: SocketAddrV6) -> Result<SocketAddr, Error> {
    if addr.ip().is_unicast_link_local() && addr.scope_id() == 0 {
        let text = format!("'{0}' is on every link: say which one, as in {0}%eth0", addr.ip());
        return Err(Error::Usage(text));
    }
    Ok(addr.into())
}

/// Keeps the addresses that -4 and -6 allow. Who types an IPv4 address as IPv6 has chosen already.
fn of_family(names: Names, host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
    let typed_as_v6 = host.contains(':');
    found.retain(|addr| match names.family {
        Family::Any => true,
        Family::Ipv4 => addr.is_ipv4(),
        Family::Ipv6 => addr.is_ipv6() || typed_as_v6,
    });
    if found.is_empty() { Err(no_family(host)) } else { Ok(found) }
}

fn no_family(host: &str) -> Error {
    Error::Unreachable {
        doing: format!("cannot resolve {host}"),
        reason: "it has no address of the family asked for".into(),
        remedy: "check -4, -6 and -s",
    }
}

fn resolve(names: Names, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    if let Some(addr) = numeric(host, port)? {
        return Ok(vec![addr]);
    }
    if names.numeric {
        return Err(Error::Usage(format!("'{host}' is no address, and -n forbids looking it up")));
    }
    let found = (host, port).to_socket_addrs().map_err(|error| Error::Unreachable {
        doing: format!("cannot resolve {host}"),
        reason: resolver_words(&error),
        remedy: "check the name, or give an address",
    })?;
    let mut kept: Vec<SocketAddr> = Vec::new();
    for addr in found.map(canonical) {
        if !kept.contains(&addr) {
            kept.push(addr);
        }
    }
    Ok(kept)
}

/// An address that needs no looking up; `None` for a name.
fn numeric(host: &str, port: u16) -> Result<Option<SocketAddr>, Error> {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|inner| inner.contains(':'));
    let bare = bracketed.unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(Some(canonical(SocketAddr::new(ip, port))));
    }
    if let Some((ip, zone)) = bare.split_once('%')
        && let Ok(ip) = ip.parse::<Ipv6Addr>()
    {
        return zoned(ip, zone, port).map(Some);
    }
    Ok(short_ipv4(bare).map(|ip| SocketAddr::new(ip.into(), port)))
}

/// A zone is a device's name or number. Of an address that is not link-local it means nothing.
fn zoned(ip: Ipv6Addr, zone: &str, port: u16) -> Result<SocketAddr, Error> {
    let index = device(zone).or_else(|()| zone.parse::<u32>().map_err(|_| ())).map_err(|()| {
        Error::Usage(format!("there is no device '{zone}' here, so {ip}%{zone} is no address: see 'ip link'"))
    })?;
    let scope = if ip.is_unicast_link_local() { index } else { 0 };
    Ok(canonical(SocketAddrV6::new(ip, port, 0, scope).into()))
}

fn device(name: &str) -> Result<u32, ()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_err(|_| ())?;
    rustix::net::netdevice::name_to_index(&socket, name).map_err(|_| ())
}

/// IPv4 in the clothes of IPv6 is IPv4: a socket of that family takes no other source address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, addr.port()),
        IpAddr::V6(_) => addr,
    }
}

/// The forms of inet_aton(3): one to four numbers, each decimal, octal (`0...`) or hexadecimal (`0x...`), of which the
/// last fills what is left.
fn short_ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = text.split('.').map(c_number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    let bits_left = 32 - 8 * u32::try_from(first.len()).ok().filter(|count| *count <= 3)?;
    if first.iter().any(|number| *number > 0xff) || u64::from(*last) >> bits_left != 0 {
        return None;
    }
    let high = first.iter().zip([24, 16, 8]).fold(0, |sum, (number, shift)| sum | number << shift);
    Some(Ipv4Addr::from_bits(high | last))
}

/// A number as C writes it.
fn c_number(text: &str) -> Option<u32> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hex, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    // A sign is none of C's digits.
    digits.starts_with(|c: char| c.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, radix).ok())?
}

/// The resolver's own words, without the wrapper that the standard library adds.
fn resolver_words(error: &io::Error) -> String {
    let text = words(error);
    text.strip_prefix("failed to lookup address information: ").map_or_else(|| text.clone(), str::to_lowercase)
}

/// Whether this host has the address: a socket can be bound to it.
fn is_own(mut addr: SocketAddr) -> bool {
    addr.set_port(0);
    UdpSocket::bind(addr).is_ok()
}

/// Whether this system has IPv6 at all: a kernel with ipv6.disable=1 refuses the socket.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

// --- ports -----------------------------------------------------------------------------------------------------------

/// A listener may leave the choice to the kernel, as with nc.
fn listen_port(text: &str) -> Result<u16, Error> {
    if text == "0" { Ok(0) } else { port_of(text) }
}

fn port_of(text: &str) -> Result<u16, Error> {
    let named = || service(&std::fs::read_to_string("/etc/services").unwrap_or_default(), text);
    match text.parse() {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => named(),
    }
    .ok_or_else(|| {
        Error::Usage(format!("'{text}' is no port: give a number from 1 to 65535, or a TCP service of /etc/services"))
    })
}

/// The port of a service, by its name or one of its other names (services(5)).
fn service(services: &str, name: &str) -> Option<u16> {
    services.lines().find_map(|line| {
        let mut fields = line.split('#').next()?.split_whitespace();
        let (official, port) = (fields.next()?, fields.next()?.strip_suffix("/tcp")?);
        (official == name || fields.any(|other| other == name)).then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(host: &str, address: &str) {
        let expected: SocketAddr = address.parse().unwrap();
        assert_eq!(numeric(host, 5).unwrap(), Some(expected), "{host}");
    }

    #[test]
    fn every_form_of_an_address_is_read() {
        is("127.0.0.1", "127.0.0.1:5");
        is("::1", "[::1]:5");
        is("[::1]", "[::1]:5");
        is("::ffff:192.0.2.7", "192.0.2.7:5");
        is("[::ffff:192.0.2.7]", "192.0.2.7:5");
        is("127.1", "127.0.0.1:5");
        is("10.1.513", "10.1.2.1:5");
        is("0x7f.1", "127.0.0.1:5");
        is("017700000001", "127.0.0.1:5");
        is("2130706433", "127.0.0.1:5");
        is("0", "0.0.0.0:5");
        is("fe80::1%lo", "[fe80::1%1]:5");
        is("[fe80::1%1]", "[fe80::1%1]:5");
        is("2001:db8::1%lo", "[2001:db8::1]:5");
    }

    #[test]
    fn names_are_no_numbers() {
        for name in
            ["localhost", "1.2.3.4.5", "256.1.1.1", "1.2.65536", "4294967296", "08", "a", "", "1.", "[abc]", "+1", "0x"]
        {
            assert_eq!(numeric(name, 5).unwrap(), None, "{name}");
        }
        assert!(numeric("fe80::1%nosuch", 5).unwrap_err().to_string().contains("no device 'nosuch'"));
    }

    #[test]
    fn destinations_are_what_connect_makes_of_them() {
        let to = |to: &str, from: Option<&str>| {
            towards(to.parse().unwrap(), from.map(|from| from.parse().unwrap())).map(|addr| addr.to_string())
        };
        assert_eq!(to("0.0.0.0:5", None).unwrap(), "127.0.0.1:5");
        assert_eq!(to("[::]:5", None).unwrap(), "[::1]:5");
        assert_eq!(to("0.0.0.0:5", Some("10.0.0.1:0")).unwrap(), "10.0.0.1:5");
        assert_eq!(to("[fe80::2]:5", Some("[fe80::1%3]:0")).unwrap(), "[fe80::2%3]:5");
        assert!(to("[fe80::2]:5", None).unwrap_err().to_string().contains("fe80::2%eth0"));
    }

    #[test]
    fn services_are_found_by_every_name() {
        let text = "# a comment\nssh\t\t22/tcp\nhttp\t80/tcp\twww # WorldWideWeb\ntftp 69/udp\nbad x/tcp\n";
        let found = ["ssh", "http", "www", "tftp", "bad", "WorldWideWeb"].map(|name| service(text, name));
        assert_eq!(found, [Some(22), Some(80), Some(80), None, None, None]);
        assert_eq!(port_of("65535").unwrap(), 65535);
        assert!(["0", "65536", "-1", "no-such"].iter().all(|text| port_of(text).is_err()));
    }
}
