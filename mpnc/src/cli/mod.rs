//! What a person sees: options, messages, progress, exit codes. Knows nothing of sockets or frames.

mod address;
mod args;
mod doctor;
pub mod exit;
mod failure;
mod further;
mod generate;
mod job;
mod lock;
mod observed;
mod outlet;
mod placing;
mod plan;
mod prepare;
mod progress;
mod run;
mod screen;
mod service;
mod statistics;
mod summary;
mod terminal;
mod units;
mod watch;

pub use run::run;
