//! The program of a `SO_REUSEPORT` group: a classic BPF program that picks the member.
//!
//! Must not know what the program computes.
#![expect(unsafe_code, reason = "setsockopt takes pointers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One instruction of classic BPF (`struct sock_filter`, include/uapi/linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size, mode.
    pub code: u16,
    /// Instructions to skip when a jump's condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Makes `program` pick the member of the listener's group for each new connection: its result is the index, members
/// counted in the order of `listen`. Any member may be given; the program is the whole group's. Linux 4.6 for TCP, no
/// privilege.
///
/// # Errors
/// `EINVAL`: the socket is without `SO_REUSEPORT`, or the program is not valid. `ENOMEM`: longer than
/// `net.core.optmem_max`. `ENOPROTOOPT`: older kernel.
pub fn attach_classic(listener: &impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filters: Vec<libc::sock_filter> =
        program.iter().map(|&Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k }).collect();
    let len = filters.len().try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let value = libc::sock_fprog { len, filter: filters.as_mut_ptr() };
    // `filters` outlives the call, which copies the program; the kernel does not write to it.
    set(listener, libc::SO_ATTACH_REUSEPORT_CBPF, &value)
}

fn set<T>(socket: &impl AsFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for as long as it is borrowed; `value` is valid for reads of `len` bytes.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
