//! The kernel's side of mpnc: one object with every program. Thin glue between the kernel's context and the library.
//!
//! Real only for `target_arch = "bpf"` (`cargo xtask build-ebpf`); elsewhere an empty main, so that the plain build
//! passes by. Must not hold any rule of its own about hashes, headers or lanes: those are the library's, where the host
//! tests them.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        clippy::inline_always,
        reason = "context pointers and map values are the kernel's; calls cost"
    )
)]

#[cfg(target_arch = "bpf")]
mod bond;
#[cfg(target_arch = "bpf")]
mod hash;
#[cfg(target_arch = "bpf")]
mod observe;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod steer;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call some helpers; ours are.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
