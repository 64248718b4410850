//! Somebody between the two sides who deals with each new connection in a way of its own: lets it through, or does it a
//! misdeed before the listener's first word.

use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Relayed, both ways.
    Passes,
    /// Closed when it has said something.
    Closed,
    /// Reset when it has said something.
    Reset,
    /// Answered by a web server.
    Garbled,
    /// Kept, without a word.
    Ignored,
}

/// See the module documentation. It lives as long as the test's process.
pub(crate) struct Porter {
    pub(crate) port: u16,
    came: Arc<AtomicUsize>,
}

impl Porter {
    /// In front of a port of this host; `fates` are those of the first connections, all later ones pass.
    pub(crate) fn before(target: u16, fates: Vec<Fate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let came = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&came);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let fate = fates.get(count.fetch_add(1, Ordering::Relaxed)).copied().unwrap_or(Fate::Passes);
                thread::spawn(move || deal(socket, fate, target));
            }
        });
        Self { port, came }
    }

    /// Connections so far.
    pub(crate) fn count(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }
}

fn deal(mut socket: TcpStream, fate: Fate, target: u16) {
    if fate != Fate::Passes {
        let _ = socket.read(&mut [0; 512]);
    }
    match fate {
        Fate::Passes => relay(&socket, target),
        Fate::Closed => {}
        Fate::Reset => drop(SockRef::from(&socket).set_linger(Some(Duration::ZERO))),
        Fate::Garbled => {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            let _ = socket.read_to_end(&mut Vec::new());
        }
        Fate::Ignored => drop(socket.read_to_end(&mut Vec::new())),
    }
}

fn relay(client: &TcpStream, target: u16) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let pump = |mut from: &TcpStream, mut to: &TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| pump(client, &server));
        pump(&server, client);
    });
}
