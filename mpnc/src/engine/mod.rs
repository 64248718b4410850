//! The shell around the pure transfer: sockets on mio loops, threads at the two ends of the pipe.
//!
//! ```text
//! input --> reader thread --> Hub (Session + bytes, one lock) <--> worker loops (sockets)
//!                              '--> writer thread --> output            '--> facts --> Paths --> orders (connector)
//! ```
//!
//! A session has a thread of its own that does for it whatever takes time: looks up the bond, opens and closes its
//! ends, ends its command, sees where streams arrive, reports. A loop never waits for a file, a process, a person or a
//! lock that is held over such a wait.
//!
//! It decides nothing about blocks, acknowledgements or the end (that is `transfer`), nothing about which stream goes
//! where (that is `paths`), and prints nothing (that is `cli`). Its files form no circle (`cargo xtask tidy` checks).

mod bell;
mod buffers;
mod caller;
mod carrier;
mod clock;
mod conn;
mod connect;
mod conns;
mod deadline;
mod descriptors;
mod dial;
mod digest;
mod ends;
mod gauge;
mod guard;
mod halt;
mod hub;
mod ledger;
mod listen;
mod lookout;
mod options;
mod passage;
mod queue;
mod report;
mod run;
mod serve;
mod sessions;
mod start;
mod strangers;
mod worker;

pub use caller::Caller;
pub use connect::{Connect, Others, Teller, Told, Way};
pub use digest::Digest;
pub use ends::{CommandLine, Ends, Open, Opened as OpenedEnds, Place, Wanted};
pub use gauge::Leaving;
pub use guard::Guard;
pub use halt::Halt;
pub use hub::{Hub, Progress};
pub use options::{Introduce, Introduction, OnSession, Options, Tuning};
pub use report::{Opened, Report};
pub use run::{Attempt, Bound, Interrupts, OpenPort, Sockets, Workers, bind, connect, listen};
pub use sessions::{OnEnd, Service};
