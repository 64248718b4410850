//! What a person sees: options, messages, progress, exit codes. Knows nothing of sockets or frames.

mod address;
pub mod args;
mod doctor;
pub mod exit;
mod generate;
mod observed;
mod plan;
mod prepare;
mod progress;
mod run;
mod screen;
mod service;
mod summary;
mod units;
mod watch;

pub use run::run;
