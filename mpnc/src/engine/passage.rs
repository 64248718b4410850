//! A new stream shows whether full segments get through, and carries the word where they do not: on the others nothing
//! passes what is stuck.
//!
//! Must not judge; that is `transfer::hole`'s. When one is opened for that is the path manager's.

use super::hub::Hub;
use crate::error::Error;

/// There is a new stream, with nothing on it yet: it shows what passes, or can say what does not.
pub(super) fn stream_up(hub: &Hub) {
    let Some(mss) = hub.hole() else { return hub.witness() };
    let what = format!(
        "full segments ({mss} bytes) to {} are not acknowledged, small ones are: a hole in the path's MTU; \
         lower the MTU of the device on the way (ip link set DEVICE mtu 1400), or let ICMP through; \
         `ping -M do -s SIZE` finds what passes",
        hub.peer().ip()
    );
    hub.fail(crate::wire::Fault::SILENT, Error::Peer(what));
}
