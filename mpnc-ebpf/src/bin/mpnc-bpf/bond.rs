//! On a bond's egress: by which slave would the bond send each of the session's frames, and is that the planned one?
//! Where user space has taken a lease, a frame that is planned for another slave is sent there.
//!
//! At any doubt a frame goes on as it came: no slot, no lease, not the session's. Must not know how slots are chosen.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::{bpf_get_hash_recalc, bpf_ktime_get_ns, bpf_redirect};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, LruPerCpuHashMap};
use aya_ebpf::programs::{SkBuffContext, TcContext};
use mpnc_ebpf::contract::{Agreement, BondNow, MAX_FLOWS, MAX_SLAVES, MAX_STREAMS, StreamKey};
use mpnc_ebpf::flow::PROTO_TCP;
use mpnc_ebpf::frame::{hash_frame, parse_link, parse_network};
use mpnc_ebpf::{ByteOrder, Era, Policy, hash};

use crate::skb::{Frame, is_session, vlan_beside};

#[map]
static BOND: Array<BondNow> = Array::with_max_entries(1, 0);
#[map]
static USABLE: Array<u32> = Array::with_max_entries(MAX_SLAVES, 0);
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(MAX_SLAVES, 0);
#[map]
static PLANNED: HashMap<StreamKey, u32> = HashMap::with_max_entries(MAX_STREAMS, 0);
// Streams long over make room for new ones, as in the observer.
#[map]
static AGREED: LruPerCpuHashMap<StreamKey, Agreement> = LruPerCpuHashMap::with_max_entries(MAX_FLOWS, 0);

#[classifier]
pub(crate) fn mpnc_bond_egress(ctx: TcContext) -> i32 {
    let ctx = SkBuffContext { skb: ctx.skb };
    match elsewhere(&ctx) {
        // SAFETY: a plain number; what is no device any more loses the frame, which is why the lease is short.
        Some(slave) => unsafe { bpf_redirect(slave, 0) as i32 },
        None => TC_ACT_UNSPEC,
    }
}

/// The slave to send the frame to, if that is another than the bond would take.
#[inline(always)]
fn elsewhere(ctx: &SkBuffContext) -> Option<u32> {
    let key = stream(ctx)?;
    // SAFETY: the value is copied at once; user space replaces whole entries only.
    let slot = unsafe { PLANNED.get(&key) }.copied()?;
    let planned = SLOTS.get(slot).copied().filter(|slave| *slave != 0);
    let bond = BOND.get(0)?;
    let would = would(ctx, bond);
    let agrees = planned.is_some() && planned == would;
    // SAFETY: no argument.
    let placed = planned.filter(|_| !agrees && unsafe { bpf_ktime_get_ns() } < bond.lease);
    count(&key, agrees, placed.is_some(), would.unwrap_or(0));
    placed
}

#[inline(always)]
fn stream(ctx: &SkBuffContext) -> Option<StreamKey> {
    let frame = Frame(ctx);
    let link = parse_link(&frame, vlan_beside(ctx))?;
    let parsed = parse_network(&frame, &link)?;
    let flow = parsed.flow;
    (parsed.proto == PROTO_TCP && is_session(flow.sport(), flow.dport())).then(|| StreamKey::leaving(&flow))
}

/// The slave that the bond's hash leads to; `None` where no hash decides.
#[inline(always)]
fn would(ctx: &SkBuffContext, bond: &BondNow) -> Option<u32> {
    let hash = if bond.by_socket != 0 {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_get_hash_recalc(ctx.skb.skb) }
    } else {
        let policy = Policy::from_u32(bond.policy as u32)?;
        let era = Era::from_u32(bond.era as u32)?;
        hash_frame(&Frame(ctx), vlan_beside(ctx), policy, era, ByteOrder::NATIVE)?
    };
    USABLE.get(hash::index(hash, bond.slaves as u32)?).copied()
}

#[inline(always)]
fn count(key: &StreamKey, agrees: bool, placed: bool, would: u32) -> Option<()> {
    let (agreed, placed, would) = (u64::from(agrees), u64::from(placed), u64::from(would));
    if let Some(known) = AGREED.get_ptr_mut(key) {
        // SAFETY: this CPU's value of the map; what takes the entry's place meanwhile, if anything does, takes the same
        // memory.
        unsafe {
            (*known).frames += 1;
            (*known).agreed += agreed;
            (*known).placed += placed;
            (*known).would = would;
        }
        return Some(());
    }
    AGREED.insert(key, Agreement { frames: 1, agreed, placed, would }, 0).ok()
}
