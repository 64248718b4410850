//! The checksum of the whole: what every block's own cannot show. A sender that speaks the protocol here sends blocks
//! that are right, and a whole that is not.

use crate::common::process::Side;
use mpnc::wire::{
    Directions, Fault, Frame, HEADER_LEN, Header, Hello, Kind, PREAMBLE_LEN, SessionId, StreamId, preamble,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

const BLOCK: u32 = 4096;

/// Sends blocks filled with these bytes, then an End with `crc`; answers the first Error, or Done.
fn send(port: u16, blocks: &[u8], crc: u32) -> Frame {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    let mut bytes = preamble().to_vec();
    let hello = Hello {
        stream: StreamId(0),
        session: SessionId([7; 16]),
        directions: Directions::Send,
        established: false,
        window: 1 << 20,
        block: BLOCK,
        bond: None,
    };
    Frame::Hello(hello).encode(&mut bytes);
    socket.write_all(&bytes).unwrap();
    socket.read_exact(&mut [0; PREAMBLE_LEN]).unwrap();
    assert!(matches!(receive(&mut socket), Frame::Welcome(_)));
    bytes.clear();
    for (byte, place) in blocks.iter().zip(0u64..) {
        let block = vec![*byte; BLOCK as usize];
        let header =
            Header { kind: Kind::Data, len: BLOCK, arg: place * u64::from(BLOCK), body_crc: crc32fast::hash(&block) };
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&block);
    }
    Frame::End { total: blocks.len() as u64 * u64::from(BLOCK), crc }.encode(&mut bytes);
    socket.write_all(&bytes).unwrap();
    let last = loop {
        let frame = receive(&mut socket);
        if matches!(frame, Frame::Error(_) | Frame::Done { .. }) {
            break frame;
        }
    };
    bytes.clear();
    Frame::Bye.encode(&mut bytes);
    let _ = socket.write_all(&bytes);
    last
}

fn receive(socket: &mut TcpStream) -> Frame {
    let mut head = [0; HEADER_LEN];
    socket.read_exact(&mut head).unwrap();
    let header = Header::decode(&head, BLOCK).unwrap();
    let mut body = vec![0; header.len as usize];
    socket.read_exact(&mut body).unwrap();
    Frame::decode(&header, &body).unwrap().expect("this version knows its own frames")
}

fn crc_of(blocks: &[u8]) -> u32 {
    let bytes: Vec<u8> = blocks.iter().flat_map(|byte| vec![*byte; BLOCK as usize]).collect();
    crc32fast::hash(&bytes)
}

#[test]
fn a_whole_that_is_what_was_sent_is_confirmed() {
    let (receiver, port) = Side::receiver_to(&[], Stdio::null());
    assert_eq!(send(port, b"abc", crc_of(b"abc")), Frame::Done { total: 3 * u64::from(BLOCK) });
    receiver.end().with_code(0);
}

#[test]
fn blocks_that_are_right_and_a_whole_that_is_not_are_never_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    // Two blocks changed places, one is there twice, one is missing.
    for (number, wrong) in [&b"acb"[..], b"abbc", b"ab"].into_iter().enumerate() {
        let to = dir.path().join(number.to_string());
        let (receiver, port) = Side::receiver_to(&["-o", to.to_str().unwrap()], Stdio::null());
        let Frame::Error(fault) = send(port, b"abc", crc_of(wrong)) else { panic!("confirmed") };
        assert_eq!(fault.code, Fault::CHECKSUM);
        receiver.end().with_code(4).saying(&["is not what was sent", to.to_str().unwrap()]);
    }
}
