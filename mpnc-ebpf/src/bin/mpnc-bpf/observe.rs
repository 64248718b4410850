//! Counts the session's frames per stream, direction and slave. Passes every frame on as it came.
//!
//! On kernels with tcx: two classifiers per slave. Before: a socket filter on one packet socket per slave that keeps
//! nothing and so queues nothing. Both go when their file descriptors go. Must not know plans or sessions, only one
//! port.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::{classifier, map, socket_filter};
use aya_ebpf::maps::{LruPerCpuHashMap, PerCpuArray};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use mpnc_ebpf::contract::{EGRESS, FlowKey, INGRESS, MAX_FLOWS, Traffic};
use mpnc_ebpf::flow::{Family, PROTO_TCP};
use mpnc_ebpf::frame::{parse_link, parse_network};

use crate::skb::{Frame, fields, is_session, vlan_beside};

/// `PACKET_OUTGOING` of include/uapi/linux/if_packet.h: what a packet socket sees leave.
const PACKET_OUTGOING: u32 = 4;

// Streams long over make room for new ones: a listener may go on for months, and anybody can knock.
#[map]
static FLOWS: LruPerCpuHashMap<FlowKey, Traffic> = LruPerCpuHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static FLOWS_MISSED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[classifier]
pub(crate) fn mpnc_observe_egress(ctx: TcContext) -> i32 {
    observe(&SkBuffContext { skb: ctx.skb }, EGRESS);
    TC_ACT_UNSPEC
}

#[classifier]
pub(crate) fn mpnc_observe_ingress(ctx: TcContext) -> i32 {
    observe(&SkBuffContext { skb: ctx.skb }, INGRESS);
    TC_ACT_UNSPEC
}

#[socket_filter]
pub(crate) fn mpnc_observe_tap(ctx: SkBuffContext) -> i64 {
    let outgoing = fields(&ctx).pkt_type == PACKET_OUTGOING;
    observe(&ctx, if outgoing { EGRESS } else { INGRESS });
    0 // keep no byte of it
}

#[inline(always)]
fn observe(ctx: &SkBuffContext, direction: u8) -> Option<()> {
    let frame = Frame(ctx);
    let link = parse_link(&frame, vlan_beside(ctx))?;
    let parsed = parse_network(&frame, &link)?;
    if parsed.proto != PROTO_TCP {
        return None;
    }
    let flow = parsed.flow;
    let (peer, local_port, peer_port) = if direction == EGRESS {
        (flow.dst, flow.sport(), flow.dport())
    } else {
        (flow.src, flow.dport(), flow.sport())
    };
    if !is_session(local_port, peer_port) {
        return None;
    }
    let skb = fields(ctx);
    let key = FlowKey {
        peer,
        ifindex: skb.ifindex,
        local_port,
        peer_port,
        direction,
        version: if matches!(flow.family, Family::V4) { 4 } else { 6 },
        zero: 0,
    };
    add(&key, u64::from(skb.len))
}

#[inline(always)]
fn add(key: &FlowKey, bytes: u64) -> Option<()> {
    if let Some(traffic) = FLOWS.get_ptr_mut(key) {
        // SAFETY: this CPU's value of the map; what takes the entry's place meanwhile, if anything does, takes the same
        // memory.
        unsafe {
            (*traffic).bytes += bytes;
            (*traffic).packets += 1;
        }
        return Some(());
    }
    let first = Traffic { bytes, packets: 1 };
    if FLOWS.insert(key, first, 0).is_err() {
        let missed = FLOWS_MISSED.get_ptr_mut(0)?;
        // SAFETY: as above.
        unsafe { *missed += 1 };
    }
    Some(())
}
