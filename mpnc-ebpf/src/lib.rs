//! The bond's transmit hash, in one place for user space and the kernel.
#![no_std]
