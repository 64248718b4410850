//! What a side holds while nothing moves: the window, whatever the size of the blocks, in both directions together.
//!
//! Measured is what the process has asked of the system (VmData of proc_pid_status(5)), touched or not. What the rest
//! of the process needs is there before the first look.

use super::common::data::{Digest, Noise, drain};
use super::common::process::Side;
use std::fs;
use std::io::{Read, Write};
use std::process::ChildStdin;
use std::thread;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The default of `--window`.
const WINDOW: u64 = 64 * MIB;
/// What may come on top: `engine::pool::SLACK`, and as much again for what is no block.
const BESIDE: u64 = 8 * MIB;
/// Something to begin with: then all threads are there, with the memory that they work in.
const FIRST: &[u8] = b"first";

/// A side whose memory is measured from here on.
struct Measured(u32, u64);

impl Measured {
    fn begin(side: &Side) -> Self {
        Self(side.pid(), data(side.pid()))
    }

    fn grown(&self) -> u64 {
        data(self.0).saturating_sub(self.1)
    }
}

/// Memory of its own that a process may write to, in bytes.
fn data(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).expect("proc_pid_status(5)");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Waits until the sides have grown by `least` in all and grow no more.
fn settle(sides: &[&Measured], least: u64) {
    let all = || sides.iter().map(|side| side.grown()).sum::<u64>();
    let mut before = 0;
    for _ in 0..600 {
        let now = all();
        if now == before && now >= least {
            return;
        }
        before = now;
        thread::sleep(Duration::from_millis(300));
    }
    panic!("{before} bytes, and not {least}, are held");
}

#[test]
fn a_window_full_of_short_blocks_is_no_larger_than_the_window() {
    const PIECE: u64 = 66_000;
    let pieces = 60 * MIB / PIECE;
    let (mut receiver, port) = Side::receiver(&[]);
    let mut sender = Side::start(&["--streams", "2", "127.0.0.1", &port.to_string()]);
    let (mut input, mut output) = (sender.stdin(), receiver.stdout());
    input.write_all(FIRST).unwrap();
    output.read_exact(&mut [0; FIRST.len()]).unwrap();
    let held = Measured::begin(&receiver);
    let mut noise = Noise::new(pieces * PIECE);
    let mut piece = vec![0; usize::try_from(PIECE).unwrap()];
    for _ in 0..pieces {
        noise.read_exact(&mut piece).unwrap();
        input.write_all(&piece).unwrap();
        // Each is a block of its own if it finds nothing queued before it.
        thread::sleep(Duration::from_millis(2));
    }
    settle(&[&held], 55 * MIB);
    let grown = held.grown();
    assert!(grown <= WINDOW + BESIDE, "{grown} bytes are held for blocks that have {}", pieces * PIECE);
    drop(input);
    assert_eq!(Digest::of(output), Digest::of_noise(pieces * PIECE));
    sender.end().with_code(0).saying(&["confirmed"]);
    receiver.end().with_code(0);
}

/// Noise for as long as somebody wants it.
fn flood(mut input: ChildStdin, len: u64) {
    thread::spawn(move || std::io::copy(&mut Noise::new(len), &mut input));
}

#[test]
fn the_window_of_a_side_is_for_both_its_directions() {
    let len = 3 * WINDOW;
    let mut listener = Side::start(&["-l", "-2", "0"]);
    let port = listener.port();
    let mut connector = Side::start(&["-2", "--streams", "2", "127.0.0.1", &port.to_string()]);
    let mut inputs = [connector.stdin(), listener.stdin()];
    let mut outputs = [listener.stdout(), connector.stdout()];
    for (input, output) in inputs.iter_mut().zip(&mut outputs) {
        input.write_all(FIRST).unwrap();
        output.read_exact(&mut [0; FIRST.len()]).unwrap();
    }
    let held = [Measured::begin(&connector), Measured::begin(&listener)];
    for input in inputs {
        flood(input, len);
    }
    settle(&[&held[0], &held[1]], 2 * (WINDOW - 8 * MIB));
    for (side, held) in ["connector", "listener"].into_iter().zip(&held) {
        assert!(held.grown() <= WINDOW + BESIDE, "the {side} holds {} bytes", held.grown());
    }
    for digest in outputs.map(drain) {
        assert_eq!(digest.join().unwrap(), Digest::of_noise(len));
    }
    connector.end().with_code(0);
    listener.end().with_code(0);
}
