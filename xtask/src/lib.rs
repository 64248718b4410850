//! The part of xtask that tests use as well: the lab.

pub mod lab;
