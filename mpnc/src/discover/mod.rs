//! The path to a receiver, as this host's kernel tells it: route, devices down to the bond, slaves. No privilege
//! needed.
//!
//! The shell around [`crate::bond`]: asks netlink, reads sysfs and proc, and hands facts to pure code. Must not know
//! streams or how a plan is printed.
//!
//! - [`Tree`]: `/sys`, `/proc` and sysctls, under a root that tests move
//! - `socket`: what connect(2) goes by; `netlink`: questions over rtnetlink, `message`: their bytes; `explore`: the
//!   route and what is beneath
//! - `request`: one netlink request and its answer, for `netlink` and for [`crate::observe::napi`]
//! - `addresses`: this host's on a device, and the Ethernet header between two
//! - `links`: devices, `names`: what they are called; `walk`: the way down; `bonds`: a bond's state; `guest`: cards
//!   that are none
//! - `judge`: from facts to the planner's outlook; [`PathView`]: the result
//! - [`on_egress`]: what else is on a device's way out
//! - [`transmitted`], [`received`]: what the slaves have carried so far
//! - [`vitals()`]: what the doctor wants to know of the way
//! - [`LinkWatch`]: tells the event loop that links changed

mod addresses;
mod bonds;
mod egress;
mod explore;
mod follow;
mod gauge;
mod guest;
mod judge;
mod links;
mod message;
mod names;
mod netlink;
mod request;
mod socket;
mod tree;
mod view;
mod vitals;
mod walk;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use crate::bond::{Note, Policy, PortPool};
use crate::error::words;

use explore::Explorer;
use judge::{Facts, judge};
use netlink::Netlink;
use socket::chosen_source;

pub use addresses::{addresses_on, ethers_between};
pub use bonds::{bonded, bonds};
pub use egress::on_egress;
pub use follow::follow;
pub use gauge::{received, transmitted};
pub use links::Kind;
pub(crate) use request::Channel;
pub use tree::Tree;
pub use view::{Class, Leg, PathView};
pub use vitals::vitals;
pub use walk::{End, Layer};
pub use watch::LinkWatch;

/// What a person says instead of what can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--slaves`: usable slaves of a bond that is out of sight.
    pub slaves: Option<u16>,
    /// `--policy`: its policy, or another than the one read.
    pub policy: Option<Policy>,
    /// `--no-bond`: look for none.
    pub no_bond: bool,
    /// `--place`: plan for streams that are placed, where the bond allows it.
    pub place: bool,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The receiver.
    pub destination: SocketAddr,
    /// `-s`: the address to send from; otherwise the kernel's choice.
    pub source: Option<IpAddr>,
    /// `-p`: the source ports; otherwise those of the system's pool.
    pub ports: Option<PortPool>,
    /// What a person says.
    pub overrides: Overrides,
}

impl Request {
    /// The way to this address as the kernel sees it, with nothing overridden.
    #[must_use]
    pub fn to(destination: SocketAddr) -> Self {
        Self { destination, source: None, ports: None, overrides: Overrides::default() }
    }

    /// The way back to a peer: which of its ports does not matter.
    #[must_use]
    pub fn back_to(peer: IpAddr) -> Self {
        Self::to(SocketAddr::new(peer, 1))
    }
}

/// Why there is no path.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// The kernel has no route.
    #[error("no route to {destination}: {}; see 'ip route get {destination}'", words(reason))]
    NoRoute {
        /// The receiver's address.
        destination: IpAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// No route from the address that was asked for.
    #[error(
        "no route to {destination} from {origin}: {}; -s takes an address of this host, see 'ip address'",
        words(reason)
    )]
    NoRouteFrom {
        /// The receiver's address.
        destination: IpAddr,
        /// The address to send from.
        origin: IpAddr,
        /// The system's reason.
        reason: io::Error,
    },
    /// IPv4 here, IPv6 there.
    #[error(
        "cannot send from {origin} to {destination}: one is an IPv4 address, the other IPv6; choose with -4, -6 or -s"
    )]
    Families {
        /// The receiver's address.
        destination: IpAddr,
        /// The address to send from.
        origin: IpAddr,
    },
}

/// Finds the path to a receiver. Takes milliseconds; a bond that is changing, up to a few tenths of a second.
pub fn discover(request: &Request, tree: &Tree) -> Result<PathView, DiscoverError> {
    let request = &Request { destination: canonical(request.destination), ..request.clone() };
    let destination = request.destination.ip();
    let origin = request.source.map(|ip| ip.to_canonical());
    if let Some(origin) = origin.filter(|ip| ip.is_ipv4() != destination.is_ipv4()) {
        return Err(DiscoverError::Families { destination, origin });
    }
    let no_route = |reason| match origin {
        Some(origin) => DiscoverError::NoRouteFrom { destination, origin, reason },
        None => DiscoverError::NoRoute { destination, reason },
    };
    let netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(e) => return without_netlink(request, tree, &e).map_err(no_route),
    };
    let found = Explorer::new(request, tree, netlink, destination).explore(origin);
    found.or_else(|reason| as_connected(request, tree, origin, reason)).map_err(no_route)
}

/// IPv4 in the clothes of IPv6 is IPv4; other addresses keep their zone.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip != address.ip() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}

/// The path where netlink is forbidden: only the source address is known.
fn without_netlink(request: &Request, tree: &Tree, reason: &io::Error) -> io::Result<PathView> {
    let source = match request.source {
        Some(source) => source.to_canonical(),
        None => chosen_source(request.destination, None)?,
    };
    let mut view = view(request, tree, source, Ways::default(), |_| None);
    view.notes.push(Note::uncertain(
        format!("the routing tables cannot be read: netlink socket: {}", words(reason)),
        "allow AF_NETLINK in this container's seccomp profile",
    ));
    Ok(view)
}

/// The path where netlink knows no route, but connect(2) does: what nc reaches is reached, over one stream from a port
/// of the kernel's choice, as nc's would be.
fn as_connected(request: &Request, tree: &Tree, origin: Option<IpAddr>, reason: io::Error) -> io::Result<PathView> {
    let Ok(source) = chosen_source(request.destination, origin) else { return Err(reason) };
    let overrides = Overrides { no_bond: true, ..request.overrides.clone() };
    let mut view = view(&Request { overrides, ..request.clone() }, tree, source, Ways::default(), |_| None);
    view.notes = vec![Note::uncertain(
        format!(
            "the kernel connects to {}, but shows no route ({}): a bond on the way cannot be seen",
            request.destination.ip(),
            words(&reason)
        ),
        "see 'ip rule' and 'ip vrf'; if there is a bond, say how many slaves it has: --slaves N --policy layer3+4",
    )];
    Ok(view)
}

/// The ways out.
#[derive(Default)]
struct Ways {
    legs: Vec<Leg>,
    /// Of several, each connection draws one.
    are_drawn: bool,
}

fn view(request: &Request, tree: &Tree, source: IpAddr, ways: Ways, device_of: impl judge::DeviceOf) -> PathView {
    let kernel = tree.kernel_release();
    let destination = canonical(request.destination);
    let base = crate::bond::FlowBase::new(source, destination);
    let facts = Facts { kernel: &kernel, base, overrides: &request.overrides };
    let verdict = judge(&facts, &ways, device_of);
    let drawn = if ways.are_drawn { judge::drawn(&ways.legs) } else { Vec::new() };
    PathView {
        destination,
        source,
        kernel,
        legs: ways.legs,
        drawn,
        outlook: verdict.outlook,
        classes: verdict.classes,
        streams: verdict.streams,
        by_address: verdict.by_address,
        placed: verdict.placed,
        notes: verdict.notes,
    }
}

#[cfg(test)]
mod tests;
