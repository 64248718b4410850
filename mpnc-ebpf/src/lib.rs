//! The contract between `mpnc` and its eBPF programs: the bond's transmit hash and the flow it is computed over.
//!
//! Compiled for the host by `mpnc` and for `bpfel`/`bpfeb` by the eBPF binaries, so that both sides cannot disagree.
//! Hence: `no_std`, no dependencies, no loops, no heap, nothing that can panic. Knows no device, socket or map.
#![no_std]
#![forbid(unsafe_code)]
#![expect(clippy::inline_always, reason = "eBPF programs want straight-line code, not calls")]

pub mod contract;
pub mod flow;
pub mod frame;
pub mod hash;

pub use flow::{Family, Flow, Packet, Parsed};
pub use hash::{ByteOrder, Era, Ether, Policy};
