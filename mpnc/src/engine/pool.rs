//! Buffers of one size, a bounded number of them: the memory of the window.
//!
//! On the sending side the bound is the back pressure: the reader thread waits in [`Pool::take`] until the peer has confirmed an older
//! block. On the receiving side the session's window bounds what is asked for, and [`Pool::take_now`] never waits.
//! A closed pool keeps nothing, whoever still holds it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

struct State {
    free: Vec<Box<[u8]>>,
    /// Buffers in use.
    used: usize,
    closed: bool,
}

/// See the module documentation.
pub(super) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
    /// Bytes of each buffer.
    size: usize,
    /// Most buffers kept or, for [`Pool::take`], in use.
    limit: usize,
}

impl Pool {
    pub(super) fn new(size: usize, limit: usize) -> Arc<Self> {
        let state = State { free: Vec::new(), used: 0, closed: false };
        Arc::new(Self { state: Mutex::new(state), returned: Condvar::new(), size, limit })
    }

    /// Waits for a buffer; `None` once the pool is closed.
    pub(super) fn take(self: &Arc<Self>) -> Option<Buffer> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |state: &mut State| state.used >= self.limit && !state.closed;
        let mut state = self.returned.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| self.hand_out(&mut state))
    }

    /// A buffer for `len` bytes at once: a pooled one, or for a short block one of its own size.
    pub(super) fn take_now(self: &Arc<Self>, len: usize) -> Buffer {
        if len <= self.size / 4 {
            return Buffer { bytes: vec![0; len].into_boxed_slice(), len, pool: Arc::clone(self) };
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = self.hand_out(&mut state);
        buffer.len = len;
        buffer
    }

    /// Whether [`Pool::take`] would not wait.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used < self.limit
    }

    fn hand_out(self: &Arc<Self>, state: &mut State) -> Buffer {
        state.used += 1;
        let bytes = state.free.pop().unwrap_or_else(|| vec![0; self.size].into_boxed_slice());
        Buffer { bytes, len: self.size, pool: Arc::clone(self) }
    }

    /// Lets every waiting and future [`Pool::take`] return `None`, and gives back the memory, of what is on loan as it returns.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let free = std::mem::take(&mut state.free);
        drop(state);
        drop(free);
        self.returned.notify_all();
    }
}

/// A buffer on loan; it goes back when dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Keeps the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Short blocks have a buffer of their own.
        if self.bytes.len() != self.pool.size {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used -= 1;
        if !state.closed && state.free.len() + state.used < self.pool.limit {
            state.free.push(bytes);
        }
        drop(state);
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_until_a_buffer_returns() {
        let pool = Pool::new(4096, 1);
        let first = pool.take().unwrap();
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take().is_some()
        });
        drop(first);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_pool_lets_its_waiter_go() {
        let pool = Pool::new(4096, 0);
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take().is_none()
        });
        pool.close();
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_pool_keeps_nothing() {
        let pool = Pool::new(4096, 4);
        let mut buffers: Vec<Buffer> = (0..4).map(|_| pool.take_now(4096)).collect();
        buffers.truncate(2);
        pool.close();
        drop(buffers);
        assert_eq!(pool.state.lock().unwrap().free.len(), 0);
    }

    #[test]
    fn a_short_block_takes_only_its_own_length() {
        let pool = Pool::new(4096, 1);
        let buffer = pool.take_now(10);
        assert_eq!((buffer.len(), buffer.bytes.len()), (10, 10));
        drop(buffer);
        assert_eq!(pool.state.lock().unwrap().free.len(), 0);
    }

    #[test]
    fn more_than_the_limit_is_not_kept() {
        let pool = Pool::new(4096, 2);
        let buffers: Vec<Buffer> = (0..5).map(|_| pool.take_now(4096)).collect();
        drop(buffers);
        assert_eq!(pool.state.lock().unwrap().free.len(), 2);
    }
}
