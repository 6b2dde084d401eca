//! What every change must pass, in order of cost.

use std::process::Command;

use anyhow::{Context, bail};

use crate::{layers, test};

/// Runs format check, layering check, lints, docs and tests; stops at the first that fails.
pub(crate) fn run() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"], None)?;
    layers::run()?;
    cargo(
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        None,
    )?;
    let docs = ["doc", "--release", "--workspace", "--no-deps"];
    cargo(&docs, Some(("RUSTDOCFLAGS", "-D warnings")))?;
    test::run(&[])
}

fn cargo(args: &[&str], env: Option<(&str, &str)>) -> anyhow::Result<()> {
    eprintln!("+ cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(args)
        .envs(env)
        .status()
        .context("cargo could not be started")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", args.join(" "));
    }
    Ok(())
}
