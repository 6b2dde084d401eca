//! `cargo xtask ci`: everything that a change must pass, the cheap checks first.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, Usage, step};
use crate::{layers, test};

/// Runs the checks in order and stops at the first that fails; the tests come last.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        bail!(Usage(format!(
            "`cargo xtask ci` takes no arguments, but got {arg}"
        )));
    }
    step(
        "formatting",
        &mut cargo::command(["fmt", "--all", "--check"]),
    )?;
    layers::run(&[])?;
    dependency_policy()?;
    lint("lints", &["--workspace", "--all-targets"])?;
    // What no test here is built with: the code of GPUs without that of the CPU, and its tests, which want a GPU to run.
    lint(
        "lints of a GPU's build",
        &[
            "-p",
            "clip-cli",
            "-p",
            "clip-cube",
            "--all-targets",
            "--no-default-features",
            "--features",
            "clip-cli/wgpu,clip-cli/sources,clip-cli/remote,clip-cube/gpu",
        ],
    )?;
    let mut doc = cargo::command(["doc", "--workspace", "--no-deps", "--release", "--locked"]);
    step("documentation", doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    // With the tests of other machines' devices, for a quarter more crates.
    let features = "clip-cli/remote,clip-tests/remote";
    test::run(&["--locked", "--features", features].map(str::to_owned))
}

fn lint(name: &str, what: &[&str]) -> Result<()> {
    let clippy = ["clippy", "--release", "--locked"].iter().chain(what);
    let args = clippy.chain(&["--", "-D", "warnings"]);
    step(name, &mut cargo::command(args.copied()))
}

/// Licences, sources and bans by cargo-deny, which `.ci/run` installs; known vulnerabilities too, where their list can be fetched.
fn dependency_policy() -> Result<()> {
    let program = cargo_deny()?;
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(cargo::root())
            .args(["--locked", "check", "--hide-inclusion-graph"])
            .args(checks);
        command
    };
    step(
        "dependency policy: licences, bans, sources",
        &mut deny(&["licenses", "bans", "sources"]),
    )?;
    eprintln!("xtask: dependency policy: advisories");
    let out = deny(&["advisories"])
        .output()
        .context("cannot start cargo-deny")?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() && said.contains("failed to fetch advisory database") {
        eprintln!("xtask: advisories were NOT checked: their list could not be fetched");
        return Ok(());
    }
    eprint!("{said}");
    ensure!(
        out.status.success(),
        "dependency policy: advisories failed ({})",
        out.status
    );
    Ok(())
}

/// cargo-deny: the one `.ci/run` put beside the build, or the one on the path.
fn cargo_deny() -> Result<PathBuf> {
    let own = cargo::root().join("target/ci-tools/bin/cargo-deny");
    if own.exists() {
        return Ok(own);
    }
    let found = Command::new("cargo-deny")
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success());
    ensure!(
        found,
        "the dependency policy needs cargo-deny: run .ci/run, which installs it, or `cargo install --locked cargo-deny`"
    );
    Ok(Path::new("cargo-deny").to_path_buf())
}
