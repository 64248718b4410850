//! The bond's hash, computed by the kernel over the kernel's own bytes: asked by `BPF_PROG_TEST_RUN`, or counting what
//! passes.
//!
//! Must not know the formula.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{SkBuffContext, TcContext};
use mpnc_ebpf::contract::{MAX_SLAVES, Traffic};
use mpnc_ebpf::frame::hash_frame;
use mpnc_ebpf::{ByteOrder, Era, Policy, hash};

use crate::skb::{Frame, fields, global, vlan_beside};

#[unsafe(no_mangle)]
static HASH_POLICY: u32 = Policy::Layer34 as u32;
#[unsafe(no_mangle)]
static HASH_ERA: u32 = Era::V5_18 as u32;
#[unsafe(no_mangle)]
static HASH_SLAVES: u32 = 1;

#[map]
static HASH_COUNTS: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_SLAVES, 0);

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

#[classifier]
pub(crate) fn mpnc_hash_count(ctx: TcContext) -> i32 {
    let ctx = SkBuffContext { skb: ctx.skb };
    count(&ctx);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn count(ctx: &SkBuffContext) -> Option<()> {
    let slave = hash::index(hash_of(ctx)?, global(&HASH_SLAVES))?;
    let traffic = HASH_COUNTS.get_ptr_mut(slave)?;
    // SAFETY: the map's value of this CPU, valid until the program returns; a classifier is not interrupted by itself.
    unsafe {
        (*traffic).bytes += u64::from(fields(ctx).len);
        (*traffic).packets += 1;
    }
    Some(())
}
