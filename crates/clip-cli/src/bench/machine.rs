//! What a measurement was made on.

use std::process::Command;

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
        "gpus": nvidia_smi(&["--query-gpu=name,memory.total,driver_version"]),
        "os": field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.to_owned()),
    })
}

/// Processes that wanted to run during the last minute, on average: what else the machine was doing.
pub(super) fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Memory of NVIDIA's GPUs that a process holds, by its number. What an allocator keeps for later counts as held.
pub(super) fn gpu_bytes_of(process: u32) -> Option<u64> {
    let held = nvidia_smi(&["--query-compute-apps=pid,used_gpu_memory"])?;
    let of_process = held.iter().filter_map(|line| {
        let (pid, mebibytes) = line.split_once(',')?;
        let is_its = pid.trim().parse() == Ok(process);
        is_its.then(|| mebibytes.trim().trim_end_matches(" MiB").parse::<u64>())
    });
    let mebibytes = of_process.map(Result::ok).sum::<Option<u64>>()?;
    (mebibytes > 0).then_some(mebibytes << 20)
}

/// What NVIDIA's tool answers, if it is there.
fn nvidia_smi(query: &[&str]) -> Option<Vec<String>> {
    let mut command = Command::new("nvidia-smi");
    let output = command
        .args(query)
        .arg("--format=csv,noheader")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.lines().map(str::to_owned).collect())
}
