//! Who a session is with. Knows nothing else.

use std::net::SocketAddr;

/// See the module documentation.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Sessions count from 1.
    pub number: u64,
    /// The first stream's address.
    pub peer: SocketAddr,
}
