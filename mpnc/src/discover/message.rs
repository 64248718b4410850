//! Netlink messages as bytes, before a library reads them: where each ends, and what of a link's is worth reading.
//!
//! Must not know what any of it means.

use super::names::printable;

/// Size of `struct nlmsghdr`, and of `struct ifinfomsg` behind it in a link's message, bytes.
const HEADER: usize = 16;
/// `RTM_NEWLINK` and `RTM_DELLINK` (include/uapi/linux/rtnetlink.h).
const OF_LINK: [u16; 2] = [16, 17];
const IFLA_IFNAME: u16 = 3;
/// `IFLA_ADDRESS`, `IFNAME`, `MTU`, `LINK`, `MASTER`, `LINKINFO`, `CARRIER`, `CARRIER_CHANGES`, `LINK_NETNSID`,
/// `GSO_MAX_SIZE` (include/uapi/linux/if_link.h).
const READ: [u16; 10] = [1, IFLA_IFNAME, 4, 5, 10, 18, 33, 35, 37, 41];

/// The messages of a datagram, each with its header; lengths are checked against what is there.
pub(super) fn split(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        let len = usize::try_from(u32::from_ne_bytes(head)).ok()?;
        if len < HEADER || len > bytes.len() {
            return None;
        }
        let (message, rest) = bytes.split_at(len);
        // The next one starts at a multiple of 4.
        bytes = rest.get(len.next_multiple_of(4) - len..).unwrap_or(&[]);
        Some(message)
    })
}

/// A link's message with only those attributes that are read here, and its name made printable; other messages as they
/// are. A library that insists on UTF-8, or on knowing every attribute, would give up the whole device for a name, an
/// alias or a driver's new field.
pub(super) fn lean(message: &[u8]) -> Vec<u8> {
    let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    let Some((head, mut rest)) =
        message.split_at_checked(2 * HEADER).filter(|_| kind.is_some_and(|k| OF_LINK.contains(&k)))
    else {
        return message.to_vec();
    };
    let mut lean = head.to_vec();
    while let Some((kind, value, after)) = attribute(rest) {
        rest = after;
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or(&[]);
                push(&mut lean, kind, printable(name).as_bytes());
            }
            kind if READ.contains(&kind) => push(&mut lean, kind, value),
            _ => {}
        }
    }
    // Shorter than a datagram, but for a name of at most 15 bytes made four times as long.
    let len = u32::try_from(lean.len()).unwrap_or(u32::MAX);
    lean[..4].copy_from_slice(&len.to_ne_bytes());
    lean
}

/// The first attribute (`struct nlattr`), its kind without flags, and what follows it.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    /// Of a kind, without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const KIND: u16 = 0x3fff;
    let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (len, kind) = (usize::from(number(0)?), number(2)? & KIND);
    let value = bytes.get(4..len)?;
    Some((kind, value, bytes.get(len.next_multiple_of(4)..).unwrap_or(&[])))
}

fn push(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_split_at_aligned_lengths_and_never_past_their_end() {
        let mut bytes = vec![0u8; 40];
        bytes[0..4].copy_from_slice(&17u32.to_ne_bytes());
        bytes[20..24].copy_from_slice(&16u32.to_ne_bytes());
        assert_eq!(split(&bytes).map(<[u8]>::len).collect::<Vec<_>>(), [17, 16]);
        bytes[20..24].copy_from_slice(&21u32.to_ne_bytes());
        assert_eq!(split(&bytes).count(), 1);
        assert_eq!(split(&bytes[..3]).count(), 0);
        assert_eq!(split(&[0; 16]).count(), 0);
    }

    #[test]
    fn a_links_message_keeps_what_is_read_and_a_name_that_can_be() {
        let mut message = vec![0; 2 * HEADER];
        message[4..6].copy_from_slice(&16u16.to_ne_bytes());
        push(&mut message, IFLA_IFNAME, b"bond\xff\0");
        push(&mut message, 20, b"an alias \xff\0");
        push(&mut message, 0x8012, b"info");
        let lean = lean(&message);
        assert_eq!(u32::from_ne_bytes(lean[..4].try_into().unwrap()), u32::try_from(lean.len()).unwrap());
        let (kind, name, rest) = attribute(&lean[2 * HEADER..]).unwrap();
        assert_eq!((kind, name), (IFLA_IFNAME, &b"bond\\xff"[..]));
        assert_eq!(attribute(rest).unwrap().0, 18);
        assert_eq!(attribute(attribute(rest).unwrap().2), None);
    }

    #[test]
    fn what_is_cut_short_or_no_link_is_left_as_it_is() {
        let mut message = vec![0; 2 * HEADER + 3];
        assert_eq!(lean(&message), message);
        message[4..6].copy_from_slice(&16u16.to_ne_bytes());
        assert_eq!(lean(&message).len(), 2 * HEADER);
        assert_eq!(lean(&message[..20]), message[..20]);
    }
}
