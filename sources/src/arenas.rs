//! How the C library keeps memory.
#![allow(unsafe_code)]

/// Has glibc keep two heaps ("arenas") and not up to eight a core, and take blocks of half a MiB and more from
/// the system itself, so that they go back when they are freed; elsewhere nothing is done. To be called before
/// threads begin: those that have a heap keep it.
///
/// What is read from the ring, decoded and packed for a sink is allocated by whichever of tokio's blocking
/// threads takes the work, and freed by another. Each heap keeps the most it ever had: resident memory then
/// grows with the number of threads that ever worked at the same time and not with what is in use. The page
/// about the ring has both measured, and what it costs.
pub fn few() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (what, value) in [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 512 << 10)] {
        // SAFETY: `mallopt` takes two integers by value, reads no memory of ours and takes the allocator's lock.
        let done = unsafe { libc::mallopt(what, value) };
        if done == 0 {
            tracing::debug!(what, "the C library keeps its way with memory");
        }
    }
}
