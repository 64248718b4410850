//! What the kernel knows of a TCP connection: `getsockopt(TCP_INFO)`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The fields that mpnc reads, in plain units. A kernel that lacks one leaves it zero. Source: `struct tcp_info`,
/// include/uapi/linux/tcp.h.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Bytes that the peer's TCP has acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order, whether read or not.
    pub bytes_received: u64,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// The shortest that was seen: without queues.
    pub min_rtt: Duration,
    /// Segments sent again, over the life of the connection.
    pub retransmits: u32,
    /// Segments sent and not acknowledged.
    pub segments: u32,
    /// Bytes of a full segment.
    pub mss: u32,
    /// How often in a row the oldest segment was sent again for want of an answer, each time after twice as long.
    pub repeated: u8,
    /// Bytes in the send queue: not acknowledged, or not sent yet (`SIOCOUTQ`, tcp(7)).
    pub queued: u64,
    /// Time spent with data to send.
    pub busy: Duration,
    /// Of that, limited by the peer's receive window.
    pub window_limited: Duration,
    /// Of that, limited by the own send buffer.
    pub buffer_limited: Duration,
    /// Recent goodput, bytes a second.
    pub delivery_rate: u64,
}

/// Reads the state of the connection.
///
/// # Errors
/// Those of getsockopt(2); a socket that is not TCP gives `EOPNOTSUPP`.
#[expect(unsafe_code, reason = "getsockopt has no safe wrapper for this structure")]
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut raw = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the pointer and the length describe `raw`, of which the kernel writes at most `len` bytes.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, raw.as_mut_ptr().cast(), &raw mut len)
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the structure holds only integers; what the kernel did not write is zero from above.
    let raw = unsafe { raw.assume_init() };
    let micros = |us: u64| Duration::from_micros(us);
    Ok(TcpInfo {
        bytes_acked: raw.tcpi_bytes_acked,
        bytes_received: raw.tcpi_bytes_received,
        rtt: micros(u64::from(raw.tcpi_rtt)),
        min_rtt: micros(u64::from(raw.tcpi_min_rtt)),
        retransmits: raw.tcpi_total_retrans,
        segments: raw.tcpi_unacked,
        mss: raw.tcpi_snd_mss,
        repeated: raw.tcpi_backoff,
        queued: queued(socket),
        busy: micros(raw.tcpi_busy_time),
        window_limited: micros(raw.tcpi_rwnd_limited),
        buffer_limited: micros(raw.tcpi_sndbuf_limited),
        delivery_rate: raw.tcpi_delivery_rate,
    })
}

#[expect(unsafe_code, reason = "this ioctl has no safe wrapper")]
fn queued(socket: BorrowedFd<'_>) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while borrowed; TIOCOUTQ, which is SIOCOUTQ's number, writes one int.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if status == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn acknowledged_bytes_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let before = tcp_info(sender.as_fd()).unwrap().bytes_acked;
        sender.write_all(&[7; 1000]).unwrap();
        receiver.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(tcp_info(sender.as_fd()).unwrap().bytes_acked - before, 1000);
        assert_eq!(tcp_info(receiver.as_fd()).unwrap().bytes_received, 1000);
    }

    #[test]
    fn a_file_has_no_tcp_info() {
        assert!(tcp_info(io::stdin().as_fd()).is_err());
    }
}
