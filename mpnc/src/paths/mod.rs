//! The path manager: which stream goes where, when to open another, which to let go, when to give up.
//!
//! Pure: facts come in, orders go out, time is handed in. It must not know sockets, clocks, files or threads, nor what
//! the streams carry; whole sessions run from a seed with it (`sim`).
//!
//! ```text
//!   the way out, the peer's bond -------> Wish --- what is wanted ---.
//!                                                                    v
//!   up, failed, down, suspect ----------> Slots <--- reconcile --- plan (bond::Planner)
//!                                          ^  '-----------------------> open, abandon, retire, close
//!   readings, arrivals, traffic --------> Search -- what is seen -----> access, read, pin
//! ```
//!
//! Call order for the shell: [`Paths::handle`] for everything that has happened, [`Paths::handle_timeout`], then
//! [`Paths::poll_order`] until there is none, then sleep until [`Paths::poll_timeout`]. An order is carried out at
//! once: after Abandon no fact about that connection comes any more.
//!
//! - `manager`: [`Paths`], facts to changes
//! - `fact`, `order`, `finding`: what comes in, what goes out, what is said
//! - `wish`: how many streams, over what they are to be even; `reconcile`: what that means for those that are there
//! - `slots`: a place for one stream, kept up from its source port; `backoff`, `budget`: how often
//! - `search`: what is measured now, one thing at a time: `audit` (a computed plan held against what is seen),
//!   `surveying` (where nothing holds, each stream is seen on its slave; `survey` chooses, `burst` shows one),
//!   `evening` (even where they arrive, too)
//! - `spare`: other source ports, where the planned ones get no answer

mod audit;
mod backoff;
mod budget;
mod burst;
mod evening;
mod fact;
mod finding;
mod looks;
mod manager;
mod order;
mod reconcile;
mod search;
#[cfg(test)]
mod sim;
mod slots;
mod spare;
mod survey;
mod surveying;
mod wish;

pub use fact::{ByAddress, ByPort, Counted, Fact, Failure, Gauge, Reading, Sees, Up, Way};
pub use finding::{Finding, Unanswered};
pub use manager::{Paths, Setup};
pub use order::{Access, Order};

/// More streams than this only cost: past a few per slave they fight each other.
pub const MAX_STREAMS: u16 = 64;

/// The name of a slot: never used again, and never an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u64);

/// Which plan something belongs to: what comes late from an older one falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Epoch(u32);

/// Which look at the gauge something is about. No two looks have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The plan under which it was asked for.
    epoch: Epoch,
    number: u32,
}
