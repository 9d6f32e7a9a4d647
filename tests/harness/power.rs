//! Power failures, from what a process has really asked of the kernel: `strace` notes its system calls ([`trace`]), and
//! [`disk`] goes through them up to any moment and tells what a disk may then hold. What no `fsync` or `fdatasync` has
//! covered may be gone, sector by sector and name by name, whatever the process takes for durable.

pub mod disk;
pub mod image;
pub mod trace;
