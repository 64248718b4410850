//! What the command line means on this system: addresses, and for each the way out, the bond and the plan.

use super::args::Args;
use crate::bond::{FlowBase, Hashing, KernelHash, Outlook, Planned, Planner, PortPool};
use crate::error::{Error, words};
use crate::wire::BondFacts;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};

fn parse_port(text: &str) -> Result<u16, Error> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Error::Usage(format!("'{text}' is no port: give a number from 1 to 65535"))),
        Ok(port) => Ok(port),
    }
}

/// Where to listen: `[ADDR] PORT`. Without an address, on all of them, of both families unless -4 or -6 says otherwise.
pub(super) fn listen_address(args: &Args) -> Result<SocketAddr, Error> {
    let any = if args.ipv4 || !has_ipv6() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match args.target.as_slice() {
        [port] => Ok(SocketAddr::new(any, parse_port(port)?)),
        [host, port] => resolve(args, host, parse_port(port)?).map(|addrs| addrs[0]),
        _ => Err(Error::Usage("a listener takes [ADDR] PORT".into())),
    }
}

/// Whether this system has IPv6 at all: a kernel with ipv6.disable=1 refuses the socket.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

/// The addresses of the receiver, in the order in which to try them.
pub(super) fn targets(args: &Args) -> Result<Vec<SocketAddr>, Error> {
    match args.target.as_slice() {
        [host, port] => resolve(args, host, parse_port(port)?),
        _ => Err(Error::Usage("expected HOST PORT (or -l [ADDR] PORT to listen)".into())),
    }
}

fn resolve(args: &Args, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let doing = || format!("cannot resolve {host}");
    let unreachable = |reason: String, remedy| Error::Unreachable { doing: doing(), reason, remedy };
    let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) if args.numeric => {
            return Err(Error::Usage(format!("'{host}' is no address, and -n forbids looking it up")));
        }
        Err(_) => (host, port)
            .to_socket_addrs()
            .map_err(|error| unreachable(resolver_words(&error), "check the name, or give an address"))?
            .collect(),
    };
    let family = |addr: &SocketAddr| !(args.ipv4 && addr.is_ipv6() || args.ipv6 && addr.is_ipv4());
    let source = |addr: &SocketAddr| args.source.is_none_or(|source| source.is_ipv4() == addr.is_ipv4());
    let mut kept: Vec<SocketAddr> = Vec::new();
    for addr in found.into_iter().filter(|addr| family(addr) && source(addr)) {
        if !kept.contains(&addr) {
            kept.push(addr);
        }
    }
    if kept.is_empty() {
        return Err(unreachable("it has no address of the family asked for".into(), "check -4, -6 and -s"));
    }
    Ok(kept)
}

/// The resolver's own words, without the wrapper that the standard library adds.
fn resolver_words(error: &io::Error) -> String {
    let text = words(error);
    text.strip_prefix("failed to lookup address information: ").map_or_else(|| text.clone(), str::to_lowercase)
}

/// One address of the receiver, with the way there.
pub(super) struct Target {
    pub(super) source: Option<IpAddr>,
    pub(super) planner: Planner,
    pub(super) plan: Vec<Planned>,
    /// Names of the usable slaves, by index.
    pub(super) slaves: Vec<String>,
    pub(super) facts: Option<BondFacts>,
    /// What is uncertain or in the way, a line each.
    pub(super) notes: Vec<String>,
}

impl Target {
    /// Finds the way to `addr` and plans the streams.
    pub(super) fn look(args: &Args, addr: SocketAddr) -> Result<Self, Error> {
        let source = args.source.unwrap_or_else(|| {
            let any: IpAddr = if addr.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let probe = UdpSocket::bind((any, 0)).and_then(|s| s.connect(addr).and_then(|()| s.local_addr()));
            probe.map_or(any, |a| a.ip())
        });
        let base = FlowBase { src: source, dst: addr.ip(), dport: addr.port() };
        let outlook = match args.slaves {
            Some(n) => Outlook::Hashed(Hashing::alike(n, KernelHash::of_release("6.1"))),
            None => Outlook::Unknown,
        };
        let pool = args.source_ports.clone().unwrap_or_else(|| PortPool::of_system(1024, (32768, 60999), &[]));
        let mut planner = Planner::new(base, outlook, pool, 7);
        let plan =
            planner.plan(args.streams.or(args.slaves).unwrap_or(1)).map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { source: Some(source), planner, plan, slaves: Vec::new(), facts: None, notes: Vec::new() })
    }
}

/// Prints the plan for one address.
pub(super) fn print_plan(args: &Args, addr: SocketAddr) -> Result<(), Error> {
    let target = Target::look(args, addr)?;
    println!("{:?}", target.plan);
    Ok(())
}
