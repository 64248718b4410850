//! What stands between two hosts and full speed: facts in, findings out, each with its remedy.
//!
//! Pure: it must not know files, sockets, clocks, or how facts were gathered and findings are printed. What a bond's
//! settings do to streams is said by [`crate::bond::policy`]; here it is only passed on.
//!
//! - [`Facts`]: what one host knows of itself on the way to the other, before or after a probe
//! - [`examine`]: the checks of one host; [`compare`]: the checks of the pair
//! - [`Diagnosis`]: all of it, as both forms of output show it

mod facts;
mod host;
mod pair;
mod switch;

pub use facts::{BondState, Counters, Device, Facts, Slave, Trial, Windows};
pub use host::examine;
pub use pair::{Met, Pair, Translation, compare};

use crate::bond::{Note, Severity};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Version of the JSON forms. It grows when a field changes its meaning or goes; new fields may come at any time.
pub const VERSION: u32 = 1;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// One word for it.
    pub name: String,
    /// What was seen, where nothing is to be said against it.
    pub seen: String,
    /// What is to be said; empty if all is well.
    pub notes: Vec<Note>,
}

impl Check {
    fn new(name: &str, seen: impl Into<String>, notes: Vec<Note>) -> Self {
        Self { name: name.to_owned(), seen: seen.into(), notes }
    }

    /// What calls for something to be done.
    pub fn findings(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.severity > Severity::Info)
    }
}

/// One host: what it knows, and what that means. This is what the two sides send each other, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// [`VERSION`] of the program there.
    pub version: u32,
    /// What it knows of itself.
    pub facts: Facts,
    /// What that means.
    pub checks: Vec<Check>,
}

impl Host {
    /// Examines a host by what it knew before and after a probe.
    pub fn examined(before: &Facts, after: &Facts, probe: &Trial) -> Self {
        Self { version: VERSION, facts: after.clone(), checks: examine(before, after, probe) }
    }
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// [`VERSION`].
    pub version: u32,
    /// The other host's address, and the port.
    pub peer: SocketAddr,
    /// This host.
    pub here: Host,
    /// The other one, if it told.
    pub there: Option<Host>,
    /// The two of them together.
    pub between: Vec<Check>,
    /// Findings in all that call for something to be done.
    pub findings: usize,
}

impl Diagnosis {
    /// Puts it together.
    pub fn new(peer: SocketAddr, here: Host, there: Option<Host>, between: Vec<Check>) -> Self {
        let hosts = std::iter::once(&here).chain(&there).flat_map(|host| &host.checks);
        let findings = hosts.chain(&between).flat_map(Check::findings).count();
        Self { version: VERSION, peer, here, there, between, findings }
    }
}
