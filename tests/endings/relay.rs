//! A way between two sides that ends at once: every connection over it is reset, and no other can be made.

use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub(crate) struct Relay {
    pub(crate) port: u16,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// To this port.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let Ok((near, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let until = Arc::clone(&until);
                thread::spawn(move || carry(&near, &far, &until));
            }
        });
        Self { port: own, over }
    }

    pub(crate) fn reset(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Until one side closes, or all is over: then both see a reset.
fn carry(near: &TcpStream, far: &TcpStream, over: &AtomicBool) {
    let mut piece = vec![0; 65_536];
    for socket in [near, far] {
        let _ = socket.set_nonblocking(true);
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
    while !over.load(Ordering::Relaxed) {
        let moved = [(near, far), (far, near)].map(|(from, to)| hand_on(from, to, &mut piece, over));
        match moved {
            [None, _] | [_, None] => return,
            [Some(0), Some(0)] => thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

/// How much was there; none when a side is gone.
fn hand_on(mut from: &TcpStream, mut to: &TcpStream, piece: &mut [u8], over: &AtomicBool) -> Option<usize> {
    let len = match from.read(piece) {
        Ok(0) => return None,
        Ok(len) => len,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(0),
        Err(_) => return None,
    };
    let mut done = 0;
    while done < len && !over.load(Ordering::Relaxed) {
        match to.write(&piece[done..len]) {
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(_) => return None,
        }
    }
    Some(len)
}
