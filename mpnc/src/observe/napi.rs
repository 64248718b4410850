//! Which interface a receive queue belongs to: the `napi-get` dump of generic netlink's `netdev` family.
//!
//! With [`crate::sys::napi::incoming_id`] it tells a receiver, without any privilege, which slave each stream arrives
//! on. Linux 6.8; older kernels have no such command, and then nothing is known. Must not know streams.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU32;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `NETDEV_CMD_NAPI_GET` and the attributes of its answer (include/uapi/linux/netdev.h, 6.8).
const NAPI_GET: u8 = 11;
const ATTRIBUTE_IFINDEX: u16 = 1;
const ATTRIBUTE_ID: u16 = 2;
const FAMILY: &str = "netdev";
/// Larger than any netlink message of a dump (the kernel caps them at 32 KiB).
const BUFFER: usize = 64 * 1024;

/// Receive queues and their interfaces at one moment. Queues change when a device is taken down and up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    ifindex_of: HashMap<NonZeroU32, u32>,
}

impl Queues {
    /// Asks the kernel. `None`: a kernel before 6.8.
    ///
    /// # Errors
    /// Netlink's own.
    pub fn read() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let Some(family) = resolve(&socket)? else {
            return Ok(None);
        };
        let mut queues = Self::default();
        let message = GenlMessage::new(GenlHeader { cmd: NAPI_GET, version: 1 }, NapiGet::default(), family);
        let known = request(&socket, message, NLM_F_REQUEST | NLM_F_DUMP, |answer| {
            if let (Some(id), Some(ifindex)) = (answer.id, answer.ifindex) {
                queues.ifindex_of.insert(id, ifindex);
            }
        })?;
        Ok(known.then_some(queues))
    }

    /// The interface of a queue, `None` for one that has come since.
    pub fn ifindex(&self, id: NonZeroU32) -> Option<u32> {
        self.ifindex_of.get(&id).copied()
    }
}

/// Request and answer of `napi-get`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct NapiGet {
    id: Option<NonZeroU32>,
    ifindex: Option<u32>,
}

impl GenlFamily for NapiGet {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        NAPI_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for NapiGet {
    fn buffer_len(&self) -> usize {
        0 // a dump of everything has no attributes
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for NapiGet {
    fn parse_with_param(bytes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute: NlaBuffer<&[u8]> = attribute?;
            let value = || attribute.value().try_into().ok().map(u32::from_ne_bytes);
            match attribute.kind() {
                ATTRIBUTE_IFINDEX => found.ifindex = value(),
                ATTRIBUTE_ID => found.id = value().and_then(NonZeroU32::new),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The number that the kernel gave the family; `None`: it has no such family (before 6.3).
fn resolve(socket: &Socket) -> io::Result<Option<u16>> {
    let ask = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())] };
    let mut family = None;
    let message = GenlMessage::from_payload(ask);
    request(socket, message, NLM_F_REQUEST, |answer: GenlCtrl| {
        family = answer.nlas.iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
    })?;
    Ok(family)
}

/// Sends a request and hands each answer to `each`, until the dump is done or, for a plain request, after one message.
/// False: the kernel knows no such family or command.
fn request<F>(socket: &Socket, mut message: GenlMessage<F>, flags: u16, mut each: impl FnMut(F)) -> io::Result<bool>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug,
{
    message.finalize();
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let answer: NetlinkMessage<GenlMessage<F>> = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let taken = (answer.header.length as usize).next_multiple_of(4);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::InnerMessage(found) => each(found.payload),
                NetlinkPayload::Error(error) => return refusal(&error.to_io()),
                _ => {}
            }
            if !dump {
                return Ok(true);
            }
            rest = rest.get(taken..).unwrap_or(&[]);
        }
    }
}

/// An error that only says "I do not know that" is an answer, too.
fn refusal(error: &io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => Ok(false),
        Some(number) => Err(io::Error::from_raw_os_error(number)),
        None => Err(io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_from_its_attributes() {
        let mut bytes = Vec::new();
        for (kind, value) in [(ATTRIBUTE_ID, 8193u32), (3, 77), (ATTRIBUTE_IFINDEX, 4)] {
            bytes.extend(8u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        let header = GenlHeader { cmd: NAPI_GET, version: 1 };
        let answer = NapiGet::parse_with_param(&bytes, header).unwrap();
        assert_eq!(answer.id, NonZeroU32::new(8193));
        assert_eq!(answer.ifindex, Some(4));
    }

    #[test]
    fn the_kernel_answers_or_says_that_it_cannot() {
        let queues = Queues::read().unwrap();
        let new_enough = crate::bpf::privilege::kernel_at_least(6, 8);
        assert!(queues.is_some() || !new_enough);
    }

    #[test]
    fn unknown_is_no_error_but_others_are() {
        let of = |number| refusal(&io::Error::from_raw_os_error(number));
        assert!(!of(libc::ENOENT).unwrap());
        assert!(!of(libc::EOPNOTSUPP).unwrap());
        assert_eq!(of(libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
