//! `cargo xtask test`: the whole suite, closed by one line that counts it.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::cargo;

/// How many tests ended how, over all test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Totals {
    /// Adds libtest's closing line of one test program, such as
    /// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(kind)) = (words.next().map(str::parse::<u64>), words.next())
            else {
                continue;
            };
            match kind {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs `cargo test --workspace --release ARGS...`; every test program runs, even after one has failed.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let mut tests = cargo::command(["test", "--workspace", "--release", "--no-fail-fast"]);
    let mut tests = tests
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut totals = Totals::default();
    if let Some(printed) = tests.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(printed).split(b'\n') {
            let line = line.context("cannot read what the tests print")?;
            totals.add(&String::from_utf8_lossy(&line));
            out.write_all(&line)?;
            out.write_all(b"\n")?;
        }
    }
    let status = tests.wait().context("cannot wait for cargo")?;
    // A crash of a test program or a build that fails leaves no failed test to count.
    if !status.success() && totals.failed == 0 {
        eprintln!(
            "xtask: cargo test failed ({status}) before its tests could be counted; see above"
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("{totals}");
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_over_programs() {
        let mut totals = Totals::default();
        totals.add("running 6 tests");
        totals.add("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s");
        totals.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 11.20s");
        assert_eq!(totals.to_string(), "8 passed, 2 failed, 1 skipped");
    }
}
