//! What a measurement was made on.

use serde_json::{Value, json};

/// Processor, memory and system, as far as the system tells them in files.
pub(super) fn describe() -> Value {
    let field = |file: &str, key: &str, separator: char| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        let (_, value) = line.split_once(separator)?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    json!({
        "cpu": field("/proc/cpuinfo", "model name", ':'),
        "architecture": std::env::consts::ARCH,
        "cores": std::thread::available_parallelism().ok(),
        "memory": field("/proc/meminfo", "MemTotal", ':'),
        "os": field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned()),
    })
}

/// Processes that wanted to run during the last minute, on average: what else the machine was doing.
pub(super) fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}
