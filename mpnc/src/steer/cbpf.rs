//! The selector as a classic BPF program, for which no privilege is needed.
//!
//! When it runs, the packet's data begins behind TCP's header; the headers are reached through `SKF_NET_OFF`, from the
//! network header on (include/uapi/linux/filter.h). Pure: builds instructions, attaches nothing.

use crate::sys::reuseport::Instruction;

/// Loads relative to the network header.
const NET: u32 = 0xfff0_0000;
/// Where IPv6's fixed header ends, bytes.
const V6_HEADER: u32 = 40;
/// Where IPv4's header names the protocol, bytes.
const V4_PROTO: u32 = 9;
/// Where IPv6's header names the next one, bytes.
const V6_NEXT: u32 = 6;
const PROTO_TCP: u32 = mpnc_ebpf::flow::PROTO_TCP as u32;
/// No member has this index: the kernel falls back to its own hash.
const NOBODY: u32 = u32::MAX;

// Codes of include/uapi/linux/bpf_common.h.
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const H: u16 = 0x08;
const B: u16 = 0x10;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MSH: u16 = 0xa0;
const RSH: u16 = 0x70;
const AND: u16 = 0x50;
const MOD: u16 = 0x90;
const JEQ: u16 = 0x10;
const RET_A: u16 = 0x10;

/// Length of the program in instructions.
pub(super) const LEN: usize = 17;

/// `worker = ((source port >> 1) & 31) % workers` for TCP over IPv4 (with options) and IPv6; [`NOBODY`] for anything
/// else. The same rule as [`mpnc_ebpf::contract::worker`]. `workers` > 0, or the kernel refuses the program.
pub(super) const fn program(workers: u32) -> [Instruction; LEN] {
    [
        load(LD | B | ABS, NET), // A = version and header length
        alu(RSH, 4),             // A = version
        jump_unless(6, 4),       // not IPv6: to the IPv4 part
        load(LD | B | ABS, NET + V6_NEXT),
        jump_unless(PROTO_TCP, 11),          // an extension header: to NOBODY
        load(LD | H | ABS, NET + V6_HEADER), // A = source port
        jump(5),                             // to the lane
        jump_unless(4, 8),                   // IPv4 part; neither version: to NOBODY
        load(LD | B | ABS, NET + V4_PROTO),
        jump_unless(PROTO_TCP, 6), // to NOBODY
        load(LDX | B | MSH, NET),  // X = header length in bytes
        load(LD | H | IND, NET),   // A = source port
        alu(RSH, 1),
        alu(AND, 31), // A = lane
        alu(MOD, workers),
        statement(RET | RET_A, 0),
        statement(RET, NOBODY),
    ]
}

const fn statement(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn load(code: u16, k: u32) -> Instruction {
    statement(code, k)
}

const fn alu(operation: u16, k: u32) -> Instruction {
    statement(ALU | operation, k)
}

const fn jump(skip: u32) -> Instruction {
    statement(JMP, skip)
}

/// Skips `skip` instructions unless A equals `k`.
const fn jump_unless(k: u32, skip: u8) -> Instruction {
    Instruction { code: JMP | JEQ, jt: 0, jf: skip, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpnc_ebpf::contract::worker;

    const LDB: u16 = LD | B | ABS;
    const LDH: u16 = LD | H | ABS;
    const LDH_X: u16 = LD | H | IND;
    const LDX_MSH: u16 = LDX | B | MSH;

    /// What the kernel does with the instructions used here (`__bpf_prog_run` of old, net/core/filter.c). `packet`
    /// begins at the network header. A load past the end ends the program with 0, as there.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
        let bytes = |at: u32, n: usize| -> Option<u32> {
            let at = usize::try_from(at.wrapping_sub(NET)).unwrap();
            let bytes = packet.get(at..at + n)?;
            Some(bytes.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
        };
        loop {
            let Instruction { code, jt, jf, k } = program[pc];
            pc += 1;
            let loaded = match code {
                LDH => bytes(k, 2),
                LDH_X => bytes(k.wrapping_add(x), 2),
                LDB | LDX_MSH => bytes(k, 1),
                _ => Some(0),
            };
            let Some(loaded) = loaded else { return 0 };
            match code {
                LDB | LDH | LDH_X => a = loaded,
                LDX_MSH => x = (loaded & 15) * 4,
                c if c == ALU | RSH => a >>= k,
                c if c == ALU | AND => a &= k,
                c if c == ALU | MOD => a %= k,
                c if c == JMP => pc += usize::try_from(k).unwrap(),
                c if c == JMP | JEQ => pc += usize::from(if a == k { jt } else { jf }),
                c if c == RET | RET_A => return a,
                c if c == RET => return k,
                other => panic!("instruction {other:#x} is not in the interpreter"),
            }
        }
    }

    fn v4(port: u16, header_words: u8) -> Vec<u8> {
        let mut packet = vec![0xa5; usize::from(header_words) * 4 + 20];
        packet[0] = 0x40 | header_words;
        packet[9] = 6;
        let tcp = usize::from(header_words) * 4;
        packet[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
        packet
    }

    fn v6(port: u16, next: u8) -> Vec<u8> {
        let mut packet = vec![0xa5; 60];
        packet[0] = 0x60;
        packet[6] = next;
        packet[40..42].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn every_port_goes_where_the_shared_rule_says() {
        for workers in 1..=32 {
            let program = program(workers);
            for port in 0..=u16::MAX {
                let want = worker(port, workers);
                assert_eq!(run(&program, &v4(port, 5)), want, "{port} of {workers}");
                if port % 61 == 0 {
                    assert_eq!(run(&program, &v6(port, 6)), want, "{port} of {workers}");
                }
            }
        }
    }

    #[test]
    fn options_of_ipv4_are_stepped_over() {
        for words in 5..=15 {
            for port in [1, 20_000, 20_002, 65_535] {
                assert_eq!(run(&program(4), &v4(port, words)), worker(port, 4));
            }
        }
    }

    #[test]
    fn what_is_not_plain_tcp_is_left_to_the_kernel() {
        assert_eq!(run(&program(4), &v6(20_002, 0)), NOBODY);
        let mut udp = v4(20_002, 5);
        udp[9] = 17;
        assert_eq!(run(&program(4), &udp), NOBODY);
        let mut other = v4(20_002, 5);
        other[0] = 0x55;
        assert_eq!(run(&program(4), &other), NOBODY);
    }
}
