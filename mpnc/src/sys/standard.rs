//! Whether a standard file was closed when the program started.
//!
//! The Rust run-time opens /dev/null in place of a closed one before `main`, which would make `mpnc -l PORT >&-` a
//! success that has written nothing. So the question is asked earlier, among the constructors that the C library runs
//! before anything of Rust's.

use std::sync::atomic::{AtomicBool, Ordering};

static INPUT_CLOSED: AtomicBool = AtomicBool::new(false);
static OUTPUT_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    for (fd, closed) in [(libc::STDIN_FILENO, &INPUT_CLOSED), (libc::STDOUT_FILENO, &OUTPUT_CLOSED)] {
        #[expect(unsafe_code, reason = "fcntl on a descriptor that may not be open has no safe form")]
        // SAFETY: F_GETFD takes no argument, touches no memory, and answers EBADF for a descriptor that is not open
        // (fcntl(2)).
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        closed.store(flags == -1, Ordering::Relaxed);
    }
}

#[used]
#[expect(unsafe_code, reason = "the linker has to put it where the C library looks for constructors")]
// SAFETY: glibc and musl call every entry of .init_array once, as a C function, before main; `look` needs no
// initialised run-time.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether standard input was closed.
pub fn is_input_closed() -> bool {
    INPUT_CLOSED.load(Ordering::Relaxed)
}

/// Whether standard output was closed.
pub fn is_output_closed() -> bool {
    OUTPUT_CLOSED.load(Ordering::Relaxed)
}
