//! mpnc: a netcat that fills every link of a bond.

pub mod transfer;
pub mod wire;
