//! Which interface a receive queue belongs to: the `napi-get` dump of generic netlink's `netdev` family.
//!
//! With [`crate::sys::napi::incoming_id`] it tells a receiver, without any privilege, which slave each stream arrives
//! on. Linux 6.8; older kernels have no such command, and then nothing is known. Must not know streams.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU32;

use netlink_packet_core::{DecodeError, Emitable, NLM_F_DUMP, NlaBuffer, NlasIterator, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::discover::Channel;

/// `NETDEV_CMD_NAPI_GET` and the attributes of its answer (include/uapi/linux/netdev.h, 6.8).
const NAPI_GET: u8 = 11;
const ATTRIBUTE_IFINDEX: u16 = 1;
const ATTRIBUTE_ID: u16 = 2;
const FAMILY: &str = "netdev";

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
        let mut channel = Channel::open(NETLINK_GENERIC, <[u8]>::to_vec)?;
        let Some(family) = resolve(&mut channel)? else {
            return Ok(None);
        };
        let header = GenlHeader { cmd: NAPI_GET, version: 1 };
        let answers = known(channel.ask(GenlMessage::new(header, NapiGet::default(), family), NLM_F_DUMP))?;
        let queue = |answer: GenlMessage<NapiGet>| Some((answer.payload.id?, answer.payload.ifindex?));
        Ok(answers.map(|answers| Self { ifindex_of: answers.into_iter().filter_map(queue).collect() }))
    }

    /// The queues of an interface.
    pub fn of(&self, ifindex: u32) -> Vec<NonZeroU32> {
        let mut queues: Vec<_> = self.ifindex_of.iter().filter(|(_, of)| **of == ifindex).map(|(id, _)| *id).collect();
        queues.sort_unstable();
        queues
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
fn resolve(channel: &mut Channel) -> io::Result<Option<u16>> {
    let ask = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())] };
    let answers = known(channel.ask(GenlMessage::from_payload(ask), 0))?.unwrap_or_default();
    let number = |attribute: GenlCtrlAttrs| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(id),
        _ => None,
    };
    Ok(answers.into_iter().flat_map(|answer| answer.payload.nlas).find_map(number))
}

/// An error that only says "I do not know that family or command" is an answer, too: `None`.
fn known<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(None),
        other => other.map(Some),
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
        let of = |number| known::<()>(Err(io::Error::from_raw_os_error(number)));
        assert!(of(libc::ENOENT).unwrap().is_none());
        assert!(of(libc::EOPNOTSUPP).unwrap().is_none());
        assert_eq!(of(libc::EPERM).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
