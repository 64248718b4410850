//! The bond's hash, computed by the kernel over the kernel's own bytes, when asked by `BPF_PROG_TEST_RUN`.
//!
//! Must not know the formula.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::{SkBuffContext, TcContext};
use mpnc_ebpf::frame::hash_frame;
use mpnc_ebpf::{ByteOrder, Era, Policy};

use crate::skb::{Frame, global, vlan_beside};

#[unsafe(no_mangle)]
static HASH_POLICY: u32 = Policy::Layer34 as u32;
#[unsafe(no_mangle)]
static HASH_ERA: u32 = Era::V5_18 as u32;

#[inline(always)]
fn hash_of(ctx: &SkBuffContext) -> Option<u32> {
    let policy = Policy::from_u32(global(&HASH_POLICY))?;
    let era = Era::from_u32(global(&HASH_ERA))?;
    hash_frame(&Frame(ctx), vlan_beside(ctx), policy, era, ByteOrder::NATIVE)
}

/// The hash as return value, 0 for a frame without an Ethernet header. Never attached.
#[classifier]
pub(crate) fn mpnc_hash_ask(ctx: TcContext) -> i32 {
    let ctx = SkBuffContext { skb: ctx.skb };
    hash_of(&ctx).unwrap_or(0) as i32
}
