//! Notices when links or addresses change: a netlink socket that joins the kernel's messages about them, for the event
//! loop to poll.
//!
//! Must not know what a change means; whoever is told reads the path again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::message::{lean, split};

/// The multicast groups of link and address changes (`RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR`,
/// `include/uapi/linux/rtnetlink.h`). Joining needs no privilege.
const GROUPS: [u32; 3] = [1, 5, 9];

/// A subscription to link and address changes. Register its descriptor for reading (`mio::unix::SourceFd`), then
/// [`drain`](Self::drain).
pub struct LinkWatch {
    socket: Socket,
}

impl LinkWatch {
    /// Subscribes in this network namespace. Read the path **after** this, so that no change falls between.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Reads all that waits, and tells whether any of it concerns one of `devices` (by interface index) or a member of
    /// one; an address always does, because one that comes may belong to a device that was on no path before.
    ///
    /// Messages that were lost or cannot be read count as a change. Must be called until the end of what waits, which
    /// it does by itself, so it fits edge-triggered polling.
    pub fn drain(&mut self, devices: &[u32]) -> io::Result<bool> {
        let mut changed = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => {
                    changed |= split(&bytes).any(|message| concerns(message, devices));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The kernel dropped messages because we were slow.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn concerns(message: &[u8], devices: &[u32]) -> bool {
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&lean(message)) else {
        return true;
    };
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) => {
            is_of(&link, devices)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_))
        | NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}

fn is_of(link: &LinkMessage, devices: &[u32]) -> bool {
    devices.contains(&link.header.index)
        || link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(i) if devices.contains(i)))
}
