//! The whole test suite, with one total at its end.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// Runs `cargo test` over the workspace in the profile that the program is built with.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut child = Command::new(env!("CARGO"))
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo could not be started")?;
    let stdout = child
        .stdout
        .take()
        .context("cargo's output could not be read")?;
    let mut total = Total::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's output could not be read")?;
        println!("{line}");
        total.add(&line);
    }
    let status = child.wait().context("cargo could not be awaited")?;
    println!(
        "{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if !status.success() {
        bail!("the tests failed ({status})");
    }
    Ok(())
}

#[derive(Default)]
struct Total {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Total {
    /// Counts a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in counts.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut total = Total::default();
        total.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        total.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured");
        total.add("test some::name ... ok");
        assert_eq!((total.passed, total.failed, total.skipped), (7, 2, 1));
    }
}
