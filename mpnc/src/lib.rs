//! mpnc: a netcat that fills every link of a bond.

pub mod bond;
pub mod cli;
pub mod discover;
