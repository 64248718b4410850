//! What steering and observing have in common: the kernel programs' object, the rights to load it, and why it did not
//! work.
//!
//! Must not know what a program is for.

pub mod loss;
#[cfg(feature = "ebpf")]
mod object;
pub mod privilege;

use std::fmt;
use std::io;
use std::str::FromStr;

#[cfg(feature = "ebpf")]
pub use object::{Globals, embedded, io_cause, load, program};

use privilege::Capability;

/// `--ebpf`: whether kernel programs are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EbpfMode {
    /// Where they can be; without them otherwise, saying why with -v.
    #[default]
    Auto,
    /// They must be, or mpnc ends with the reason.
    On,
    /// Never, even if allowed.
    Off,
}

impl EbpfMode {
    /// The spellings of the command line.
    pub const NAMES: [&str; 3] = ["auto", "on", "off"];
}

impl FromStr for EbpfMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("'{text}' is none of auto, on, off")),
        }
    }
}

impl fmt::Display for EbpfMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Why a kernel program could not be used. Each message says what the person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BpfError {
    /// This mpnc cannot load programs at all.
    #[error("built without eBPF support (cargo feature `ebpf`)")]
    NoFeature,
    /// This mpnc has no programs to load.
    #[error(
        "built without the eBPF object (for a big-endian machine, or with MPNC_EBPF_OBJECT empty): run `cargo xtask \
         build-ebpf`, then build with MPNC_EBPF_OBJECT set to the path it prints"
    )]
    NoObject,
    /// The process lacks a right.
    #[error(
        "{what} needs {}, which this process has not: run it as root, or once `setcap {}=ep <path of mpnc>`",
        privilege::names(missing),
        privilege::setcap(needed)
    )]
    Capability {
        /// What was to be done.
        what: &'static str,
        /// What is missing of it.
        missing: Vec<Capability>,
        /// All that it takes.
        needed: &'static [Capability],
    },
    /// The rights are there, yet the kernel refuses.
    #[error(
        "{what}: the kernel refuses although the capabilities are there: kernel lockdown, a container's seccomp \
         filter, an LSM or a user namespace forbids bpf()"
    )]
    Forbidden {
        /// What was to be done.
        what: &'static str,
    },
    /// The kernel was built without something.
    #[error("{what}: this kernel has no {option}: {source}")]
    KernelOption {
        /// What was to be done.
        what: &'static str,
        /// The option's name, with what it gives.
        option: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The object does not fit the kernel or this library; `log` is the verifier's, many lines, or empty.
    #[error("loading kernel program {program}: {reason}")]
    Load {
        /// Name of the program or map.
        program: String,
        /// The system's or the library's reason.
        reason: String,
        /// The verifier's words, if it had any.
        log: String,
    },
    /// A loaded program could not be attached.
    #[error("attaching kernel program {program} to {target}: {source}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Interface or socket.
        target: String,
        /// The system's reason.
        source: io::Error,
    },
    /// What the program must be told of could not be followed.
    #[error("cannot watch the bond: {source}")]
    Watch {
        /// The system's reason.
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("the kernel program's map {map}: {reason}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// The system's reason.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_back_and_others_are_refused() {
        for name in EbpfMode::NAMES {
            assert_eq!(name.parse::<EbpfMode>().unwrap().to_string(), name);
        }
        assert_eq!("yes".parse::<EbpfMode>().unwrap_err(), "'yes' is none of auto, on, off");
    }

    #[test]
    fn a_missing_right_is_named_with_the_remedy() {
        let error = BpfError::Capability {
            what: "observing",
            missing: vec![Capability::CAP_NET_ADMIN],
            needed: &[Capability::CAP_BPF, Capability::CAP_NET_ADMIN],
        };
        assert_eq!(
            error.to_string(),
            "observing needs CAP_NET_ADMIN, which this process has not: run it as root, or once \
             `setcap cap_bpf,cap_net_admin=ep <path of mpnc>`"
        );
    }
}
