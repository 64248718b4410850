//! The command line's own work: what is printed for people and for machines.

pub mod plan;
