//! The calls to the system that need `unsafe`, one subject per file, each behind a safe function.
//!
//! Nothing here decides anything: no policy, no retry, no message for people.

pub mod child;
pub mod close;
pub mod descriptors;
pub mod interrupt;
pub mod memory;
pub mod napi;
pub mod pacing;
pub mod packet;
pub mod path_mtu;
pub mod reuseport;
pub mod signal;
pub mod standard;
pub mod tcp_info;
pub mod txrehash;
