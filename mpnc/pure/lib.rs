//! The proof that the pure modules are pure: they compile here, where `std` is what this file lets through, and where
//! there is no module of mpnc but them. No socket, clock, file, thread, process, environment, lock or `unsafe`.
//!
//! Nobody links this crate; `cargo check -p mpnc-pure` is the proof, and `cargo xtask tidy` makes it.
//! Left out of `std` as well: hashed collections, whose order is random, so that a seed would not replay.
// `--all-targets` builds tests of every crate; those of these modules may print, wait and run threads.
#![cfg(not(test))]
#![forbid(unsafe_code)]

/// What pure code finds under the name `std`.
extern crate self as std;

extern crate alloc;

pub use alloc::{borrow, boxed, fmt, rc, slice, str, string, vec};
pub use core::{
    any, array, ascii, cell, char, clone, cmp, convert, default, error, f32, f64, hash, iter, marker, mem, num, ops,
    option, panic, result, time,
};

/// Collections with an order of their own.
pub mod collections {
    pub use alloc::collections::*;
}

/// Addresses as values.
pub mod net {
    pub use core::net::*;
}

/// Shared values; no lock, nothing to wait for.
pub mod sync {
    pub use alloc::sync::{Arc, Weak};
}

/// The macros that reach outside without a path.
macro_rules! refuse {
    (($d:tt) $($name:ident)*) => {$(
        macro_rules! $name {
            ($d($d any:tt)*) => { compile_error!("pure code neither prints nor knows its thread") };
        }
    )*};
}
refuse! { ($) print println eprint eprintln dbg thread_local }

#[path = "../src/bond/mod.rs"]
pub mod bond;
#[path = "../src/doctor/mod.rs"]
pub mod doctor;
#[path = "../src/paths/mod.rs"]
pub mod paths;
#[path = "../src/stats/mod.rs"]
pub mod stats;
#[path = "../src/transfer/mod.rs"]
pub mod transfer;
#[path = "../src/wire/mod.rs"]
pub mod wire;
