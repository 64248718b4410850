//! What is seen of a session: rates, where its time goes, what is in the way, and the machine form of all that.
//!
//! Pure: counters and the time come in. It must not know sockets, clocks, files or threads, nor how the engine gets the
//! counters.

mod bottleneck;
mod hold;
pub mod json;
mod rate;
mod snapshot;

pub use bottleneck::{Bottleneck, receiving, sending};
pub use hold::{Account, Hold, Spent};
pub use rate::{Rate, average};
pub use snapshot::{Half, LoopTime, Seen, Snapshot, Stream, Tcp};
