//! The library's view of a packet over an `__sk_buff`, and the globals that user space set before loading.
//!
//! Must not know any program's purpose.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::SkBuffContext;
use mpnc_ebpf::Packet;

#[unsafe(no_mangle)]
static SESSION_PORT: u32 = 0;
#[unsafe(no_mangle)]
static PORT_IS_LOCAL: u32 = 0;

/// A packet whose Ethernet header is at offset 0: classifiers and filters of packet sockets.
pub(crate) struct Frame<'a>(pub(crate) &'a SkBuffContext);

impl Packet for Frame<'_> {
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.0.load(offset).ok().map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        self.0.load(offset).ok().map(u32::from_ne_bytes)
    }
}

/// The kernel's own fields of the packet.
#[inline(always)]
pub(crate) fn fields(ctx: &SkBuffContext) -> &__sk_buff {
    // SAFETY: the kernel passes a valid context for the time of the call, and nothing here writes to it.
    unsafe { &*ctx.skb.skb }
}

/// The VLAN tag that the stack keeps beside the frame.
#[inline(always)]
pub(crate) fn vlan_beside(ctx: &SkBuffContext) -> Option<u16> {
    let skb = fields(ctx);
    // `vlan_tci` is 16 bits wide in the kernel.
    (skb.vlan_present != 0).then_some(skb.vlan_tci as u16)
}

/// A read-only global. Volatile: user space rewrites its initial value in the object before loading.
#[inline(always)]
pub(crate) fn global(value: &u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(value) }
}

/// Whether a packet between these ports may be the session's.
#[inline(always)]
pub(crate) fn is_session(local_port: u16, peer_port: u16) -> bool {
    let known = if global(&PORT_IS_LOCAL) != 0 { local_port } else { peer_port };
    u32::from(known) == global(&SESSION_PORT)
}
