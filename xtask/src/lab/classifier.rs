//! The bond's layer3+4 transmit hash as a classic BPF program for `tc`, which sorts packets into classes as a bond
//! sorts them onto slaves. Written apart from mpnc's own hash on purpose: the two must agree, and a shared mistake
//! would not show. Pure: makes instructions, loads nothing.

/// One classic BPF instruction: code, jump if true, jump if false, constant (linux/filter.h `sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction(pub u16, pub u8, pub u8, pub u32);

const LD_WORD: u16 = 0x20;
const LD_HALF: u16 = 0x28;
const LD_BYTE: u16 = 0x30;
const LD_WORD_X: u16 = 0x40;
const LD_MEM: u16 = 0x60;
const LDX_MEM: u16 = 0x61;
const LDX_IP_HEADER: u16 = 0xb1;
const ST: u16 = 0x02;
const TAX: u16 = 0x07;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const OR_X: u16 = 0x4c;
const LSH: u16 = 0x64;
const RSH: u16 = 0x74;
const XOR_X: u16 = 0xac;
const MOD: u16 = 0x94;
const JEQ: u16 = 0x15;
const RET_A: u16 = 0x16;
const RET: u16 = 0x06;

const ETHERNET: u32 = 14;
const TCP: u32 = 6;

/// The class of the first slave, 1:1; the others follow.
pub const FIRST_CLASS: u32 = 0x0001_0001;

/// The program that answers `FIRST_CLASS + (hash mod slaves)` for TCP over IPv4 and IPv6, and the first class for all
/// else. The formula is that of Linux 5.18 and newer (`drivers/net/bonding/bond_main.c`, `bond_xmit_hash`).
pub fn program(slaves: u32) -> Vec<Instruction> {
    let i = |code, k| Instruction(code, 0, 0, k);
    let tail = finish(slaves);

    // P ^ S ^ D of IPv6: ports behind the fixed header, then eight words of addresses.
    let mut ipv6 = vec![i(LD_WORD, ETHERNET + 40)];
    for word in 0..8 {
        ipv6.extend([i(TAX, 0), i(LD_WORD, ETHERNET + 8 + 4 * word), i(XOR_X, 0)]);
    }
    // Of IPv4: the header's length says where the ports are.
    let ipv4 = [
        i(LDX_IP_HEADER, ETHERNET),
        i(LD_WORD_X, ETHERNET),
        i(TAX, 0),
        i(LD_WORD, ETHERNET + 12),
        i(XOR_X, 0),
        i(TAX, 0),
        i(LD_WORD, ETHERNET + 16),
        i(XOR_X, 0),
    ];

    let skip = |instructions: usize| u8::try_from(instructions).expect("a short program");
    let jump = |code_if: u32, forward: usize| Instruction(JEQ, 0, skip(forward), code_if);
    // ja does not fit the pattern: `jeq 0` with equal targets is the same jump.
    let over_ipv6 = Instruction(JEQ, skip(ipv6.len() + 3), skip(ipv6.len() + 3), 0);
    let mut code = vec![i(LD_HALF, 12), jump(0x0800, 2 + ipv4.len() + 1), i(LD_BYTE, ETHERNET + 9)];
    // Not TCP: to the last instruction.
    code.push(jump(TCP, ipv4.len() + 1 + 3 + ipv6.len() + tail.len()));
    code.extend(ipv4);
    code.push(over_ipv6);
    code.push(jump(0x86dd, 2 + ipv6.len() + tail.len()));
    code.push(i(LD_BYTE, ETHERNET + 6));
    code.push(jump(TCP, ipv6.len() + tail.len()));
    code.extend(ipv6);
    code.extend(tail);
    code.push(i(RET, FIRST_CLASS));
    code
}

/// From P ^ S ^ D in A, as read in network order, to the class.
fn finish(slaves: u32) -> Vec<Instruction> {
    let i = |code, k| Instruction(code, 0, 0, k);
    let mut code = vec![i(ST, 0)];
    if cfg!(target_endian = "little") {
        // The bond works on the words as the processor reads them; a BPF load turns them round.
        code.extend([i(LSH, 24), i(ST, 1)]);
        for (shift, amount) in [(LSH, 8), (RSH, 8), (RSH, 24)] {
            code.push(i(LD_MEM, 0));
            match (shift, amount) {
                (LSH, _) => code.extend([i(AND, 0xff00), i(LSH, amount)]),
                (_, 8) => code.extend([i(RSH, amount), i(AND, 0xff00)]),
                _ => code.push(i(RSH, amount)),
            }
            code.extend([i(LDX_MEM, 1), i(OR_X, 0), i(ST, 1)]);
        }
        code.push(i(ST, 0));
    }
    for fold in [16, 8] {
        code.extend([i(RSH, fold), i(TAX, 0), i(LD_MEM, 0), i(XOR_X, 0), i(ST, 0)]);
    }
    code.extend([i(RSH, 1), i(MOD, slaves), i(ADD, FIRST_CLASS), i(RET_A, 0)]);
    code
}

/// The program in the form that `tc filter add ... bpf bytecode` takes.
pub fn bytecode(program: &[Instruction]) -> String {
    let instructions = program.iter().map(|Instruction(code, t, f, k)| format!("{code} {t} {f} {k}"));
    format!("{},{}", program.len(), instructions.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    /// What the kernel's interpreter would answer.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let load = |at: u32, size: usize| {
            packet[at as usize..at as usize + size].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
        };
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 16], 0);
        loop {
            let Instruction(code, yes, no, k) = program[at];
            at += 1;
            match code {
                LD_WORD => a = load(k, 4),
                LD_HALF => a = load(k, 2),
                LD_BYTE => a = load(k, 1),
                LD_WORD_X => a = load(x + k, 4),
                LDX_IP_HEADER => x = 4 * (load(k, 1) & 15),
                LD_MEM => a = memory[k as usize],
                LDX_MEM => x = memory[k as usize],
                ST => memory[k as usize] = a,
                TAX => x = a,
                ADD => a = a.wrapping_add(k),
                AND => a &= k,
                OR_X => a |= x,
                LSH => a <<= k,
                RSH => a >>= k,
                XOR_X => a ^= x,
                MOD => a %= k,
                JEQ => at += usize::from(if a == k { yes } else { no }),
                RET_A => return a,
                RET => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn packet(source: &str, destination: &str, ports: (u16, u16), protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 12];
        let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                packet.extend([0x08, 0x00, 0x46, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
                packet.extend(s.octets());
                packet.extend(d.octets());
                // One word of options, which must be skipped.
                packet.extend([1, 1, 1, 1]);
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
                packet.extend(s.octets());
                packet.extend(d.octets());
            }
            _ => unreachable!(),
        }
        packet.extend(ports.0.to_be_bytes());
        packet.extend(ports.1.to_be_bytes());
        packet
    }

    /// Seen on real kernels: (addresses, ports, index of 2, 3 and 4 slaves), for a little-endian host.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_classes_are_those_of_real_bonds() {
        let (a4, b4, a6, b6) = ("10.1.2.3", "10.1.2.77", "fd00::1:2:3", "fd00::9:8:77");
        let seen = [
            (a4, b4, (30001, 5001), [0, 2, 0]),
            (a4, b4, (30002, 5001), [1, 2, 1]),
            (a4, b4, (30003, 5001), [1, 1, 1]),
            (a4, b4, (30004, 5001), [0, 0, 2]),
            (a4, b4, (41002, 5001), [1, 0, 3]),
            (b4, a4, (5001, 30001), [0, 2, 0]),
            (b4, a4, (5001, 30003), [1, 0, 1]),
            (a6, b6, (30001, 5001), [0, 0, 0]),
            (a6, b6, (41004, 5001), [0, 2, 0]),
            (b6, a6, (5001, 41006), [1, 2, 1]),
        ];
        for (source, destination, ports, indices) in seen {
            for (slaves, index) in [2, 3, 4].into_iter().zip(indices) {
                let class = run(&program(slaves), &packet(source, destination, ports, 6));
                assert_eq!(class, FIRST_CLASS + index, "{source} {destination} {ports:?} of {slaves}");
            }
        }
    }

    #[test]
    fn all_but_tcp_goes_to_the_first_class() {
        assert_eq!(run(&program(4), &packet("10.1.2.3", "10.1.2.77", (1, 2), 1)), FIRST_CLASS);
        assert_eq!(run(&program(4), &packet("fd00::1", "fd00::2", (1, 2), 58)), FIRST_CLASS);
        let arp = [[0; 12].as_slice(), &[0x08, 0x06], &[0; 40]].concat();
        assert_eq!(run(&program(4), &arp), FIRST_CLASS);
    }
}
