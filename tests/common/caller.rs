//! A connector written out by hand, frame by frame: it says what mpnc would never say, and keeps silent where mpnc
//! would speak.

use mpnc::wire::{
    Directions, Frame, HEADER_LEN, Header, Hello, PREAMBLE_LEN, SessionId, StreamId, Verdict, Welcome, preamble,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One connection.
pub(crate) struct Caller(TcpStream);

impl Caller {
    /// Connects and greets as stream `stream` of a session; the answer.
    pub(crate) fn hello(port: u16, session: u8, stream: u32, directions: Directions) -> (Self, Welcome) {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        socket.set_read_timeout(Some(Duration::from_mins(1))).expect("SO_RCVTIMEO");
        let mut caller = Self(socket);
        let hello = Hello {
            stream: StreamId(stream),
            session: SessionId([session; 16]),
            directions,
            established: false,
            window: 64 << 20,
            block: 256 << 10,
            bond: None,
        };
        caller.0.write_all(&preamble()).expect("the listener reads");
        caller.say(&Frame::Hello(hello));
        caller.0.read_exact(&mut [0; PREAMBLE_LEN]).expect("a preamble");
        match caller.hear() {
            Frame::Welcome(welcome) => (caller, welcome),
            other => panic!("no welcome, but {other:?}"),
        }
    }

    pub(crate) fn say(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.0.write_all(&bytes).expect("the listener reads");
    }

    /// The next frame; it must not be Data.
    pub(crate) fn hear(&mut self) -> Frame {
        let mut head = [0; HEADER_LEN];
        self.0.read_exact(&mut head).expect("a frame");
        let header = Header::decode(&head, 0).expect("a small frame");
        let mut body = vec![0; header.len as usize];
        self.0.read_exact(&mut body).expect("its body");
        Frame::decode(&header, &body).expect("a frame").expect("one that is known")
    }
}

/// Whether a greeting was accepted.
pub(crate) fn is_accepted(welcome: &Welcome) -> bool {
    welcome.verdict == Verdict::Accepted
}
