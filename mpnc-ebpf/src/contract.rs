//! What the kernel programs and user space must agree on: names of programs, maps and globals, and the layout of map
//! values.
//!
//! Knows nothing of aya, sockets or sessions. Keys and values cross the border as plain byte or word arrays, so that
//! user space needs no `unsafe` to read them.

use crate::flow::Flow;

/// Names of the programs in the object.
pub mod program {
    /// Classifier: returns the bond's hash of the frame. For `BPF_PROG_TEST_RUN` only: attached, the hash would be
    /// taken for a verdict.
    pub const HASH_ASK: &str = "mpnc_hash_ask";
    /// Classifier on a bond's egress: computes the bond's hash of the session's frames, counts whether it leads where
    /// each stream is planned to go, and, if it is told to, sends them there.
    pub const BOND_EGRESS: &str = "mpnc_bond_egress";
    /// Classifier on a slave's egress: counts the session's frames.
    pub const OBSERVE_EGRESS: &str = "mpnc_observe_egress";
    /// Classifier on a slave's ingress: counts the session's frames.
    pub const OBSERVE_INGRESS: &str = "mpnc_observe_ingress";
    /// Socket filter on a packet socket of a slave: counts both directions, keeps nothing (kernels without tcx).
    pub const OBSERVE_TAP: &str = "mpnc_observe_tap";
    /// Socket filter as selector of a reuseport group: by receive queue where user space has given that a worker, else
    /// lane modulo workers.
    pub const STEER: &str = "mpnc_steer";
}

/// Names of the maps in the object.
pub mod map {
    /// Array of one: [`super::BondNow`].
    pub const BOND: &str = "BOND";
    /// Array, index = what the bond's hash gives: interface index of that slave, `u32`.
    pub const USABLE: &str = "USABLE";
    /// Array, index = slot: interface index of the slave that its streams are to leave by, `u32`; 0: as the bond does.
    pub const SLOTS: &str = "SLOTS";
    /// Hash: [`super::StreamKey`] to the slot that the stream is planned for, `u32`.
    pub const PLANNED: &str = "PLANNED";
    /// Per-CPU hash: [`super::StreamKey`] to [`super::Agreement`].
    pub const AGREED: &str = "AGREED";
    /// Per-CPU hash: [`super::FlowKey`] to [`super::Traffic`].
    pub const FLOWS: &str = "FLOWS";
    /// Per-CPU array with one `u64`: frames of the session that found [`FLOWS`] full.
    pub const FLOWS_MISSED: &str = "FLOWS_MISSED";
    /// Per-CPU array, index = worker: connections (SYNs) that the selector sent there, as `u64`.
    pub const STEERED: &str = "STEERED";
    /// The same, but only those that went by their receive queue.
    pub const STEERED_BY_QUEUE: &str = "STEERED_BY_QUEUE";
    /// Hash: receive queue (`napi_id`) to worker, both `u32`.
    pub const QUEUES: &str = "QUEUES";
}

/// Names of the read-only globals that user space sets before loading. All are `u32`.
pub mod global {
    /// `xmit_hash_policy` by the kernel's number (sysfs prints it after the name).
    pub const HASH_POLICY: &str = "HASH_POLICY";
    /// Which formula: [`crate::Era`] by number.
    pub const HASH_ERA: &str = "HASH_ERA";
    /// The session's one well-known TCP port.
    pub const SESSION_PORT: &str = "SESSION_PORT";
    /// 1: the session port is the local one (the listener); 0: it is the peer's (the connector).
    pub const PORT_IS_LOCAL: &str = "PORT_IS_LOCAL";
    /// Members of the reuseport group.
    pub const WORKERS: &str = "WORKERS";
}

/// Slaves that `USABLE` and `SLOTS` have room for.
pub const MAX_SLAVES: u32 = 64;
/// Streams that `PLANNED` has room for.
pub const MAX_STREAMS: u32 = 4096;
/// Workers that the selector has room for. The lane code has 32 values, so more could not be told apart.
pub const MAX_WORKERS: u32 = 32;
/// Receive queues that `QUEUES` has room for.
pub const MAX_QUEUES: u32 = 4096;
/// Entries of `FLOWS`: streams x directions x slaves, with room for streams that moved.
pub const MAX_FLOWS: u32 = 2048;

/// Direction of a counted frame, seen from this host.
pub const EGRESS: u8 = 0;
/// See [`EGRESS`].
pub const INGRESS: u8 = 1;

/// One stream in one direction on one slave: the key of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The other host's address: four words as they stand in the header; IPv4 in the first, the rest 0.
    pub peer: [u32; 4],
    /// Interface index of the slave.
    pub ifindex: u32,
    /// This host's TCP port.
    pub local_port: u16,
    /// The other host's TCP port.
    pub peer_port: u16,
    /// [`EGRESS`] or [`INGRESS`].
    pub direction: u8,
    /// IP version, 4 or 6.
    pub version: u8,
    /// Always 0: the kernel compares keys byte by byte, so there must be no padding.
    pub zero: u16,
}

/// Size of [`FlowKey`] in bytes.
pub const FLOW_KEY_LEN: usize = size_of::<FlowKey>();

impl FlowKey {
    /// Reads a key as the kernel's map holds it (host byte order).
    pub fn from_bytes(bytes: &[u8; FLOW_KEY_LEN]) -> Self {
        let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let half = |i: usize| u16::from_ne_bytes([bytes[i], bytes[i + 1]]);
        Self {
            peer: [word(0), word(4), word(8), word(12)],
            ifindex: word(16),
            local_port: half(20),
            peer_port: half(22),
            direction: bytes[24],
            version: bytes[25],
            zero: half(26),
        }
    }
}

/// One stream as a bond's egress sees it: the key of `PLANNED` and `AGREED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// The other host's address: four words as they stand in the header; IPv4 in the first, the rest 0.
    pub peer: [u32; 4],
    /// This host's TCP port.
    pub local_port: u16,
    /// The other host's TCP port.
    pub peer_port: u16,
    /// IP version, 4 or 6. A whole word, so that there is no padding.
    pub version: u32,
}

/// Size of [`StreamKey`] in bytes.
pub const STREAM_KEY_LEN: usize = size_of::<StreamKey>();

impl StreamKey {
    /// Of a flow that leaves this host.
    #[inline(always)]
    pub const fn leaving(flow: &Flow) -> Self {
        Self { peer: flow.dst, local_port: flow.sport(), peer_port: flow.dport(), version: flow.family as u32 }
    }

    /// As the kernel's map holds it (host byte order).
    pub fn to_bytes(&self) -> [u8; STREAM_KEY_LEN] {
        let mut bytes = [0; STREAM_KEY_LEN];
        for (to, word) in bytes.chunks_exact_mut(4).zip(self.peer) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes[16..18].copy_from_slice(&self.local_port.to_ne_bytes());
        bytes[18..20].copy_from_slice(&self.peer_port.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.version.to_ne_bytes());
        bytes
    }
}

/// A bond as it is at the moment: the value of `BOND`. Every number is a `u64`, so that user space writes it as
/// `[u64; 5]`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BondNow {
    /// How many slaves its hash is taken modulo of; 0: no hash decides (a round robin).
    pub slaves: u64,
    /// `xmit_hash_policy` by the kernel's number.
    pub policy: u64,
    /// Which formula: [`crate::Era`] by number.
    pub era: u64,
    /// Until when streams are sent where they are planned to go, in nanoseconds of `CLOCK_MONOTONIC`; past it, as the
    /// bond does. 0: never.
    pub lease: u64,
    /// 1: the hash is the packet's own (encap3+4 takes that of the socket, where there is one).
    pub by_socket: u64,
}

impl BondNow {
    /// As the kernel's map holds it.
    pub const fn words(&self) -> [u64; 5] {
        [self.slaves, self.policy, self.era, self.lease, self.by_socket]
    }
}

/// What the bond program has counted of a stream: the value of `AGREED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Frames, as the stack hands them over.
    pub frames: u64,
    /// Of these, whose hash leads where the stream is planned to go.
    pub agreed: u64,
    /// Of these, that were sent there against the hash.
    pub placed: u64,
    /// Interface index of the slave that the hash of the last frame leads to; 0: unknown.
    pub would: u64,
}

impl Agreement {
    /// From the words of the kernel's map.
    pub const fn from_words([frames, agreed, placed, would]: [u64; 4]) -> Self {
        Self { frames, agreed, placed, would }
    }
}

/// Frames counted: the value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of the frames, Ethernet header included. A frame that the stack hands over as one and the NIC cuts (GSO),
    /// or the NIC joined (GRO), has its headers counted once.
    pub bytes: u64,
    /// Frames as the stack hands them over; a GSO or GRO frame is one.
    pub packets: u64,
}

/// The stream's lane: bits 1 to 5 of its source port. The sender plans it as the stream's index modulo 32; bit 0 is
/// left out because today's bonds drop the lowest bit of the hash, so that ports p and p^1 share a slave.
#[inline(always)]
pub const fn lane(source_port: u16) -> u32 {
    ((source_port >> 1) & 31) as u32
}

/// The worker of a stream, `workers` > 0.
#[inline(always)]
pub const fn worker(source_port: u16, workers: u32) -> u32 {
    lane(source_port) % workers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_padding() {
        assert_eq!(FLOW_KEY_LEN, 16 + 4 + 2 + 2 + 1 + 1 + 2);
    }

    #[test]
    fn a_key_is_read_back_field_by_field() {
        let mut bytes = [0u8; FLOW_KEY_LEN];
        for (i, b) in bytes.iter_mut().enumerate() {
            *b = u8::try_from(i).unwrap();
        }
        let key = FlowKey::from_bytes(&bytes);
        assert_eq!(key.peer[3].to_ne_bytes(), [12, 13, 14, 15]);
        assert_eq!(key.ifindex.to_ne_bytes(), [16, 17, 18, 19]);
        assert_eq!(key.local_port.to_ne_bytes(), [20, 21]);
        assert_eq!(key.peer_port.to_ne_bytes(), [22, 23]);
        assert_eq!((key.direction, key.version), (24, 25));
    }

    #[test]
    fn a_stream_is_named_by_the_other_host_and_both_ports() {
        let flow = Flow::new("10.1.2.3".parse().unwrap(), "10.1.2.77".parse().unwrap(), 30001, 5001).unwrap();
        let bytes = StreamKey::leaving(&flow).to_bytes();
        assert_eq!(STREAM_KEY_LEN, 24);
        assert_eq!((&bytes[..4], &bytes[4..16]), (&[10, 1, 2, 77][..], &[0; 12][..]));
        assert_eq!(bytes[16..18], 30001u16.to_ne_bytes());
        assert_eq!(bytes[18..20], 5001u16.to_ne_bytes());
        assert_eq!(bytes[20..], 4u32.to_ne_bytes());
    }

    #[test]
    fn sixteen_lanes_fill_four_workers_evenly() {
        let mut counts = [0; 4];
        for i in 0..16u16 {
            counts[worker(20_000 + 2 * i, 4) as usize] += 1;
        }
        assert_eq!(counts, [4; 4]);
    }
}
