//! Peers that are not what mpnc expects, on either side of a connection: other protocols, other versions, silence,
//! garbage.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What opens every stream of a later, incompatible version.
pub(crate) const OTHER_VERSION: &[u8] = b"\x89mpnc\r\n\x09";
/// A web browser, and a web server.
pub(crate) const HTTP_REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n";
pub(crate) const HTTP_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// A listener that says the same to everybody.
pub(crate) struct Impostor {
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Impostor {
    /// Says `words` to whoever connects and has said something, and keeps the connection open.
    pub(crate) fn saying(words: &'static [u8]) -> Self {
        Self::start(words, true)
    }

    /// Closes whatever connects and has said something.
    pub(crate) fn closing() -> Self {
        Self::start(b"", false)
    }

    fn start(words: &'static [u8], keeps: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        thread::spawn(move || {
            let mut held = Vec::new();
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut socket, _)) => {
                        let _ = socket.set_nonblocking(false);
                        let _ = socket.read(&mut [0; 512]);
                        let _ = socket.write_all(words);
                        held.extend(Some(socket).filter(|_| keeps));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { port, over }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Connects, says `words`, and answers all that comes back until the other side closes.
pub(crate) fn call(port: u16, words: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let _ = socket.set_read_timeout(Some(Duration::from_mins(1)));
    let _ = socket.write_all(words);
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        // Closed with our words unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the other side never closed: {error}"),
    }
    answer
}

/// `count` connections that are up to no good, one after the other: garbage, HTTP, half a greeting, a greeting and then
/// garbage, a lie about a length, silence. Those that are `held` stay open until the result is dropped.
pub(crate) fn pester(port: u16, count: usize) -> Vec<TcpStream> {
    let mut half_greeting = mpnc::wire::preamble().to_vec();
    half_greeting.extend_from_slice(&[1, 0, 0]);
    let greeting_and_garbage = [&mpnc::wire::preamble()[..], &[0xa5; 200]].concat();
    let lie = [&mpnc::wire::preamble()[..], &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &[0; 16]].concat();
    let garbage: Vec<u8> = (0..=255).map(|n: u8| n.wrapping_mul(167) ^ 0x5c).collect();
    let words: [&[u8]; 8] =
        [&garbage, HTTP_REQUEST, &half_greeting, &greeting_and_garbage, &lie, OTHER_VERSION, b"", b"\x89mp"];
    let mut held = Vec::new();
    for n in 0..count {
        // The listener's queue may be full for a moment.
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        let _ = socket.write_all(words[n % words.len()]);
        match n % 3 {
            0 => drop(socket),
            1 => drop(socket.shutdown(Shutdown::Write)),
            _ => held.push(socket),
        }
    }
    held
}
