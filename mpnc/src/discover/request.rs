//! A request to the kernel over netlink and all that it answers, for whichever protocol speaks it.
//!
//! Must not know what is asked. Blocking: the kernel answers a request while it is sent.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

use super::message::split;

/// Makes of a message's bytes what the library can read.
type Prepare = fn(&[u8]) -> Vec<u8>;

/// A connection to the kernel, by which it is asked one thing after another.
pub(crate) struct Channel {
    socket: Socket,
    prepare: Prepare,
    sequence: u32,
}

impl Channel {
    /// By one of netlink's protocols; each message of an answer goes through `prepare` before it is read.
    ///
    /// # Errors
    /// The system's own.
    pub(crate) fn open(protocol: isize, prepare: Prepare) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, prepare, sequence: 0 })
    }

    /// One request, and the message of its answer; with `NLM_F_DUMP` all of them. Messages that the library cannot read
    /// are left out.
    ///
    /// # Errors
    /// The kernel's refusal, with its error number; the socket's own.
    pub(crate) fn ask<M>(&mut self, request: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            if self.read(&bytes, flags & NLM_F_DUMP == NLM_F_DUMP, &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Whether the answer is complete with this datagram.
    fn read<M: NetlinkDeserializable>(&self, bytes: &[u8], dump: bool, answers: &mut Vec<M>) -> io::Result<bool> {
        for message in split(bytes).map(self.prepare) {
            let parsed = match NetlinkMessage::<M>::deserialize(&message) {
                Ok(parsed) => parsed,
                Err(e) => {
                    log::debug!("netlink: a message that cannot be read: {e}");
                    continue;
                }
            };
            if parsed.header.sequence_number != self.sequence {
                continue;
            }
            match parsed.payload {
                NetlinkPayload::InnerMessage(inner) => {
                    answers.push(inner);
                    if !dump {
                        return Ok(true);
                    }
                }
                NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }
}
