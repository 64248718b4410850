//! Selector of the receiver's reuseport group: the receive queue picks the worker where user space has given it one,
//! else the lane code in the source port.
//!
//! A socket filter rather than an `SK_REUSEPORT` program, because the kernel can run it under `BPF_PROG_TEST_RUN`.
//! Must not know sessions.

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::{map, socket_filter};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::SkBuffContext;
use mpnc_ebpf::contract::{MAX_QUEUES, MAX_WORKERS, worker};
use mpnc_ebpf::{Packet, flow};

use crate::skb::{fields, global};

/// No member has this index, so the kernel falls back to its own hash.
const NOBODY: i64 = u32::MAX as i64;

#[unsafe(no_mangle)]
static WORKERS: u32 = 1;

#[map]
static STEERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_WORKERS, 0);
#[map]
static STEERED_BY_QUEUE: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_WORKERS, 0);
#[map]
static QUEUES: HashMap<u32, u32> = HashMap::with_max_entries(MAX_QUEUES, 0);

/// The packet from its network header on: when the selector runs, the data pointer is already past TCP's header.
struct FromNetwork<'a>(&'a SkBuffContext);

impl FromNetwork<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the context is the kernel's; the helper writes exactly N bytes to a buffer of N.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.skb.skb.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        (result == 0).then_some(bytes)
    }
}

impl Packet for FromNetwork<'_> {
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.load(offset).map(|[b]| b)
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.load(offset).map(u16::from_be_bytes)
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> Option<u32> {
        self.load(offset).map(u32::from_ne_bytes)
    }
}

#[socket_filter]
pub(crate) fn mpnc_steer(ctx: SkBuffContext) -> i64 {
    select(&ctx).map_or(NOBODY, i64::from)
}

#[inline(always)]
fn select(ctx: &SkBuffContext) -> Option<u32> {
    let workers = global(&WORKERS);
    let of_queue = by_queue(ctx).filter(|&worker| worker < workers);
    if let Some(worker) = of_queue {
        count(&STEERED_BY_QUEUE, worker)?;
    }
    let worker = match of_queue {
        Some(worker) => worker,
        None => by_lane(ctx, workers)?,
    };
    count(&STEERED, worker)?;
    Some(worker)
}

#[inline(always)]
fn count(counters: &PerCpuArray<u64>, worker: u32) -> Option<()> {
    let counter = counters.get_ptr_mut(worker)?;
    // SAFETY: this CPU's value of the map, valid until the program returns.
    unsafe { *counter += 1 };
    Some(())
}

/// The worker of the receive queue that the packet came in on. The kernel shows 0 where it knows none.
#[inline(always)]
fn by_queue(ctx: &SkBuffContext) -> Option<u32> {
    let queue = fields(ctx).napi_id;
    // SAFETY: the value is copied at once; user space replaces whole entries only.
    unsafe { QUEUES.get(&queue) }.copied()
}

#[inline(always)]
fn by_lane(ctx: &SkBuffContext, workers: u32) -> Option<u32> {
    let packet = FromNetwork(ctx);
    // A dual-stack listener gets IPv4 too: the version is the packet's, not the socket's.
    let ethertype = match packet.byte(0)? >> 4 {
        4 => flow::ETHERTYPE_V4,
        6 => flow::ETHERTYPE_V6,
        _ => return None,
    };
    let parsed = flow::parse_ip(&packet, 0, ethertype)?;
    if parsed.proto != flow::PROTO_TCP {
        return None;
    }
    if workers == 0 {
        return None;
    }
    Some(worker(parsed.flow.sport(), workers))
}
