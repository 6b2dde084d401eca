/// The most memory that this process has had at once, in bytes; `None` where the system doesn't tell it as a file.
pub fn peak_memory() -> Option<u64> {
    peak_memory_of("self")
}

/// The same of another process, by its number.
pub fn peak_memory_of(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
    Some(1024 * kibibytes)
}
