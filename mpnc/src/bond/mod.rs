//! What a bond is, which slave a flow takes, and which source ports make the streams even over the slaves.
//!
//! Pure: text and numbers in, decisions out. Must not know sockets, files, netlink, clocks or how streams are driven.
//!
//! - [`addressing`]: addresses that choose the slave where ports do not
//! - [`attribution`]: which slave carries which stream, by their counters
//! - [`model`]: bonds, slaves, modes, policies
//! - [`kernel`]: which formula a kernel release has
//! - [`sysfs`], [`proc`]: parsing what the kernel prints
//! - [`sway`]: what source ports can do under a mode, a policy and a stack of devices; [`policy`]: notes that say so
//! - [`placing`]: what can be done where they can do nothing: a program on the bond's egress
//! - [`pool`]: the source ports we may use
//! - [`outlook`]: port to class: the slaves as the planner sees them
//! - [`ports`]: the planner
//! - `quota`: how many streams each slave gets

pub mod addressing;
pub mod attribution;
pub mod kernel;
pub mod model;
pub mod outlook;
pub mod placing;
pub mod policy;
pub mod pool;
pub mod ports;
pub mod proc;
pub(crate) mod quota;
pub mod sway;
pub mod sysfs;

pub use addressing::{AddressHash, Addressing, Pair, Spread};
pub use kernel::KernelHash;
pub use model::{Bond, Mii, Mode, Slave, SlaveState, policy_named, policy_names};
pub use mpnc_ebpf::hash::{ByteOrder, Era, Ether, Policy};
pub use outlook::{Axis, FlowBase, Hashing, Outlook, PortClass};

pub use policy::{Note, Severity};
pub use pool::{LANES, PoolError, PortPool, lane_of};
pub use ports::{PlanError, Planned, Planner};
pub use quota::{is_even, unsent};
pub use sway::{Stacking, Sway};
