//! How the C library hands out memory.

/// Has blocks of at least `size` bytes go back to the system as soon as they are freed. Without this glibc's threshold
/// rises with the first block freed (mallopt(3), `M_MMAP_THRESHOLD`), and what follows stays with the process. musl
/// gives large blocks back anyway.
#[cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "mallopt has no safe form"))]
pub fn give_back_from(size: u32) {
    #[cfg(target_env = "gnu")]
    {
        let size = i32::try_from(size).unwrap_or(i32::MAX);
        // SAFETY: mallopt changes a number that the allocator reads under its own lock; a value that it refuses changes
        // nothing.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, size) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = size;
}
