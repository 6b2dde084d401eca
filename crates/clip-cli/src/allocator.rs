//! How the C library's allocator treats what a training step frees.
//!
//! A step frees gigabytes that the next one asks for again. glibc gives large blocks back to the system at once, which
//! then clears each page again, and keeps a heap for each thread that the others can't use: a fifth of a small model's
//! time on a CPU, and 3.66 GiB in a long run that needs 2.60 without (docs/benchmarks.md). It reads its settings before `main`, so the program starts itself once more.

/// Blocks below 1 GiB stay in the one heap, which doesn't shrink. Names and units: `mallopt(3)`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const SETTINGS: [(&str, &str); 4] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
    ("MALLOC_TRIM_THRESHOLD_", "4294967296"),
    ("MALLOC_TOP_PAD_", "67108864"),
];

/// Starts the program again with these settings, unless some are set; where that can't be done, it goes on without.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn keep_freed_memory() {
    use std::os::unix::process::CommandExt;
    let is_set = |(name, _): &(&str, &str)| std::env::var_os(name).is_some();
    if SETTINGS.iter().any(is_set) || std::env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    // Comes back only if it fails.
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .envs(SETTINGS)
        .exec();
    log::debug!("the allocator keeps its own settings: {error}");
}

/// Other C libraries have no such settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn keep_freed_memory() {}
