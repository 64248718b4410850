//! mpnc: a netcat that fills every link of a bond.

pub mod bond;
pub mod discover;
