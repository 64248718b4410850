//! mpnc: a netcat that fills every link of a bond.
//!
//! ```text
//! stdin -> reader thread -> [blocks] -> Sender -> mio loop -> N TCP streams -> one port
//! one port -> mio loop(s) -> Receiver -> [reorder window] -> writer thread -> stdout
//! ```
//!
//! One TCP connection uses one slave of a bond, because the bond's transmit hash maps a flow to a slave and keeps it
//! there. mpnc opens several, all to one port, from source ports whose hash is known, so that every slave carries the
//! same number.
//!
//! Modules, in layers; each may use only those below it, and files of one folder form no circle (`cargo xtask tidy`
//! checks):
//!
//! | layer | modules | what it is |
//! |---|---|---|
//! | skin | [`cli`] | options, messages, progress, exit codes |
//! | shell | [`engine`], [`observe`], [`place`], [`discover`] | sockets on mio loops, threads at the ends of the pipe; where streams leave, by whose choice; what the system says of its bonds |
//! | pure | [`paths`], [`transfer`], [`wire`], [`doctor`], [`bond`], [`stats`] | which stream goes where, what to send where, what it looks like in bytes, which slave a port leads to, what is in the way |
//! | kernel programs | [`steer`], [`bpf`] | which worker gets a connection, which slave carries a stream; how programs are loaded |
//! | fence | [`sys`] | the only `unsafe` |
//!
//! The pure modules see no socket, clock, file or thread: whole transfers run simulated, from a seed, in microseconds.
//! `mpnc/pure` is the proof: they compile there with a standard library that has none of that.
//! The hash itself is the library of `mpnc-ebpf`, shared with the programs that run in the kernel.

pub mod bond;
pub mod bpf;
pub mod cli;
pub mod discover;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod observe;
pub mod paths;
pub mod place;
pub mod stats;
pub mod steer;
pub mod sys;
pub mod transfer;
pub mod wire;
