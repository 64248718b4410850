//! The memory of one direction: buffers of one size that come back, for at most so many bytes of blocks.
//!
//! On the sending side the bound is the back pressure: the reader thread waits in [`Pool::take`] until the peer has
//! confirmed an older block. On the receiving side the session's window bounds what is asked for, and
//! [`Pool::take_now`] never waits: it gives a block no more memory than it has bytes, save for [`SLACK`], and nothing
//! beyond the window and [`COPIES`]. A closed pool keeps nothing, whoever still holds it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Room beside the window, in bytes, for what the window does not bound: a block may be on its way on a stream that
/// stalls while a copy of it comes by another. Enough for one of the largest size, or for one of the usual size on each
/// of the most streams.
pub(super) const COPIES: usize = 16 << 20;
/// Bytes of whole buffers that may lie idle behind shorter blocks: so the usual few are read into memory that is there
/// already, and a window full of them takes only what they hold.
pub(super) const SLACK: usize = 4 << 20;

#[derive(Default)]
struct Stock {
    /// Whole buffers that nobody has.
    free: Vec<Box<[u8]>>,
    /// Bytes that buffers on loan were asked for.
    held: usize,
    /// Bytes that they have beyond that.
    slack: usize,
    closed: bool,
}

/// See the module documentation.
pub(super) struct Pool {
    state: Mutex<Stock>,
    returned: Condvar,
    /// Bytes of a whole buffer.
    size: usize,
    /// Bytes that blocks may have, two of them at least.
    window: usize,
}

impl Pool {
    pub(super) fn new(size: usize, window: usize) -> Arc<Self> {
        let window = window.max(2 * size);
        Arc::new(Self { state: Mutex::default(), returned: Condvar::new(), size, window })
    }

    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, state: &Stock) -> bool {
        state.held + self.size > self.window
    }

    /// All that there is.
    fn bytes(&self, state: &Stock) -> usize {
        state.held + state.slack + state.free.len() * self.size
    }

    /// Waits for a whole buffer; `None` once the pool is closed.
    pub(super) fn take(self: &Arc<Self>) -> Option<Buffer> {
        let full = |state: &mut Stock| self.is_full(state) && !state.closed;
        let mut state = self.returned.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        (!state.closed).then(|| self.hand_out(&mut state, self.size))
    }

    /// A buffer for `len` bytes at once; `None` if there is no memory left for it, or it would be larger than a block.
    pub(super) fn take_now(self: &Arc<Self>, len: usize) -> Option<Buffer> {
        let mut state = self.lock();
        let fits = len <= self.size && state.held + len <= self.window.saturating_add(COPIES);
        fits.then(|| self.hand_out(&mut state, len))
    }

    /// Whether [`Pool::take`] would not wait.
    pub(super) fn has_room(&self) -> bool {
        !self.is_full(&self.lock())
    }

    fn hand_out(self: &Arc<Self>, state: &mut Stock, len: usize) -> Buffer {
        let whole = state.slack + self.size - len <= SLACK && len > self.size / 4;
        let bytes = if whole {
            state.free.pop().unwrap_or_else(|| vec![0; self.size].into_boxed_slice())
        } else {
            if self.bytes(state) + len > self.window {
                state.free.pop();
            }
            vec![0; len].into_boxed_slice()
        };
        state.held += len;
        state.slack += bytes.len() - len;
        Buffer { bytes, len, held: len, pool: Arc::clone(self) }
    }

    fn take_back(&self, bytes: Box<[u8]>, held: usize) {
        let mut state = self.lock();
        state.held -= held;
        state.slack -= bytes.len() - held;
        if !state.closed && bytes.len() == self.size && self.bytes(&state) + self.size <= self.window {
            state.free.push(bytes);
        }
        drop(state);
        self.returned.notify_one();
    }

    /// Lets every waiting and future [`Pool::take`] return `None`, and gives back the memory, of what is on loan as it
    /// returns.
    pub(super) fn close(&self) {
        let mut state = self.lock();
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
    /// Bytes that it was asked for.
    held: usize,
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
        self.pool.take_back(std::mem::take(&mut self.bytes), self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 256 << 10;

    /// Bytes that the pool and its borrowers have.
    fn bytes(pool: &Pool) -> usize {
        pool.bytes(&pool.lock())
    }

    fn free(pool: &Pool) -> usize {
        pool.lock().free.len()
    }

    #[test]
    fn the_limit_holds_until_a_buffer_returns() {
        let pool = Pool::new(4096, 8192);
        let [first, _second] = [pool.take().unwrap(), pool.take().unwrap()];
        assert!(!pool.has_room());
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take().is_some()
        });
        drop(first);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_pool_lets_its_waiter_go() {
        let pool = Pool::new(4096, 8192);
        let _all = [pool.take(), pool.take()];
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take().is_none()
        });
        pool.close();
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_closed_pool_keeps_nothing() {
        let pool = Pool::new(4096, 4 * 4096);
        let mut buffers: Vec<Buffer> = (0..4).map(|_| pool.take_now(4096).unwrap()).collect();
        buffers.truncate(2);
        pool.close();
        drop(buffers);
        assert_eq!(bytes(&pool), 0);
    }

    #[test]
    fn a_window_full_of_short_blocks_takes_what_they_hold() {
        let pool = Pool::new(SIZE, 64 << 20);
        for len in [1, 5000, SIZE / 4, 66_000, SIZE / 2 + 1, SIZE - 1, SIZE] {
            let number = (64 << 20) / len.max(4096);
            let blocks: Vec<Buffer> = (0..number).map(|_| pool.take_now(len).unwrap()).collect();
            assert!(blocks.iter().all(|block| block.len() == len));
            assert!(bytes(&pool) <= (64 << 20) + SLACK, "{} of {len}", bytes(&pool));
            drop(blocks);
            assert!(bytes(&pool) <= 64 << 20, "what is kept is no more than the window");
        }
    }

    #[test]
    fn a_few_short_blocks_are_read_into_what_is_there() {
        let pool = Pool::new(SIZE, 64 << 20);
        drop([pool.take_now(SIZE), pool.take_now(SIZE)]);
        let block = pool.take_now(66_000).unwrap();
        assert_eq!((block.bytes.len(), free(&pool)), (SIZE, 1));
        let tiny = pool.take_now(10).unwrap();
        assert_eq!((tiny.bytes.len(), free(&pool)), (10, 1), "of these there may be many");
    }

    #[test]
    fn copies_have_room_beside_the_window_and_no_more() {
        let pool = Pool::new(SIZE, 4 * SIZE);
        let all: Vec<Buffer> = std::iter::from_fn(|| pool.take_now(SIZE)).take(1000).collect();
        assert_eq!(all.len() * SIZE, 4 * SIZE + COPIES);
        drop(all);
        assert_eq!(free(&pool), 4, "more than the window is not kept");
        assert!(pool.take_now(SIZE + 1).is_none(), "no block is larger than was said");
    }
}
