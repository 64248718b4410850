//! The embedded object: load it, set its globals, load one of its programs, and put aya's errors into words.
//!
//! Must not know what a program is for, nor attach one.

use std::error::Error;
use std::io;

use aya::programs::tc::TcError;
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};

use super::BpfError;

/// Values for the object's read-only globals (names in [`mpnc_ebpf::contract::global`]).
pub type Globals<'a> = &'a [(&'a str, u32)];

/// The object that mpnc was built with: the kept one or that of `MPNC_EBPF_OBJECT` (see build.rs), if any.
pub fn embedded() -> Option<&'static [u8]> {
    let object: &'static [u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mpnc.bpf.o"));
    (!object.is_empty()).then_some(object)
}

/// Creates the object's maps and fills its globals. Programs are loaded one by one by their users.
///
/// # Errors
/// [`BpfError::NoObject`], [`BpfError::Forbidden`], [`BpfError::KernelOption`], [`BpfError::Load`].
pub fn load(what: &'static str, globals: Globals<'_>) -> Result<Ebpf, BpfError> {
    let object = embedded().ok_or(BpfError::NoObject)?;
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    loader.load(object).map_err(|error| from_object_error(what, &error))
}

/// The object's program of this name and type, loaded into the kernel.
///
/// # Errors
/// As [`load`]; [`BpfError::Load`] has the verifier's log.
pub fn program<'a, P>(
    ebpf: &'a mut Ebpf,
    what: &'static str,
    name: &'static str,
    load: impl FnOnce(&mut P) -> Result<(), ProgramError>,
) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let other = |reason: String| BpfError::Load { program: name.to_owned(), reason, log: String::new() };
    let found = ebpf.program_mut(name).ok_or_else(|| other("not in the object".to_owned()))?;
    let program: &mut P = found.try_into().map_err(|error: ProgramError| other(error.to_string()))?;
    load(program).map_err(|error| from_program_error(what, name, error))?;
    Ok(program)
}

fn from_program_error(what: &'static str, name: &'static str, error: ProgramError) -> BpfError {
    match error {
        ProgramError::LoadError { io_error, .. } if is_permission(&io_error) => BpfError::Forbidden { what },
        ProgramError::LoadError { io_error, verifier_log } => {
            BpfError::Load { program: name.to_owned(), reason: io_error.to_string(), log: verifier_log.to_string() }
        }
        other => BpfError::Load { program: name.to_owned(), reason: chain(&other), log: String::new() },
    }
}

fn from_object_error(what: &'static str, error: &EbpfError) -> BpfError {
    match root(error).downcast_ref::<io::Error>() {
        Some(cause) if is_permission(cause) => BpfError::Forbidden { what },
        Some(cause) if cause.raw_os_error() == Some(libc::ENOSYS) => BpfError::KernelOption {
            what,
            option: "bpf() system call (CONFIG_BPF_SYSCALL)",
            source: io::Error::from_raw_os_error(libc::ENOSYS),
        },
        _ => BpfError::Load { program: "(the object)".to_owned(), reason: chain(error), log: String::new() },
    }
}

/// The system's reason for a failed attachment, or an error with the whole chain's words.
pub fn io_cause(error: &ProgramError) -> io::Error {
    let found = match error {
        // Passed on "transparently", which hides it from `source`.
        ProgramError::TcError(TcError::IoError(cause)) => Some(cause),
        other => root(other).downcast_ref::<io::Error>(),
    };
    match found.and_then(io::Error::raw_os_error) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(chain(error)),
    }
}

/// `EACCES` is not among them: with it the verifier rejects a program.
fn is_permission(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at
}

/// An error and its causes in one line; aya's own messages leave the causes out.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        at = source.source();
    }
    text
}
