//! How the C library treats what is freed.

/// Makes glibc keep what is freed in one heap, for whatever asks next; for a process that asks for the same again and again,
/// at its start, before it has other threads.
///
/// A training step frees gigabytes that the next one asks for again. glibc would give large blocks back to the system at
/// once, which clears each page again, and keep a heap for each thread that the others can't use: a fifth of a small
/// model's time on a CPU, and 3.66 GiB in a long run that needs 2.60 without (`docs/benchmarks.md`). Whoever has set
/// `MALLOC_ARENA_MAX` and the like, or `GLIBC_TUNABLES`, is left alone. Other C libraries have no such settings.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use libc::{M_ARENA_MAX, M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, c_int};

    /// One heap, of which no block is apart and which doesn't shrink. Meanings and units: `mallopt(3)`.
    const SETTINGS: [(c_int, c_int); 4] = [
        (M_ARENA_MAX, 1),
        (M_MMAP_MAX, 0),
        (M_TRIM_THRESHOLD, -1),
        (M_TOP_PAD, 64 << 20),
    ];

    pub(super) fn keep_freed_memory() {
        let mut names = std::env::vars_os().map(|(name, _)| name);
        let is_setting = |name: &[u8]| name.starts_with(b"MALLOC_") || name == b"GLIBC_TUNABLES";
        if names.any(|name| is_setting(name.as_encoded_bytes())) {
            return;
        }
        for (setting, value) in SETTINGS {
            // SAFETY: it takes the heap's lock, and any values. One that it refuses stays as it was, which is slower.
            #[allow(unsafe_code)]
            unsafe {
                libc::mallopt(setting, value);
            }
        }
    }
}
