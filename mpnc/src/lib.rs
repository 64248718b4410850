//! mpnc: a netcat that fills every link of a bond.
pub mod bond;
pub mod cli;
pub mod engine;
pub mod error;
pub mod sys;
pub mod transfer;
pub mod wire;
