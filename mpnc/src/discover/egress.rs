//! What else is on a device's way out: a queueing discipline of its own, classifiers. Whoever goes past that way should
//! know. No privilege needed.
//!
//! Must not know who goes past, or why.

use super::netlink::Netlink;
use std::io;

/// What stands on the way out of a device (interface index), in words; nothing where it is as the kernel makes it.
///
/// # Errors
/// The kernel does not answer.
pub fn on_egress(device: u32) -> io::Result<Vec<String>> {
    let mut netlink = Netlink::open()?;
    let qdiscs = netlink.qdiscs(device)?;
    // A virtual device has none until somebody gives it one.
    let own = qdiscs.iter().filter(|qdisc| qdisc.is_root && qdisc.kind != "noqueue");
    let mut found: Vec<String> = own.map(|qdisc| format!("the qdisc {}", qdisc.kind)).collect();
    if qdiscs.iter().any(|qdisc| qdisc.kind == "clsact") && netlink.has_egress_filters(device)? {
        found.push("tc filters on its egress".to_owned());
    }
    Ok(found)
}
