//! `cargo xtask bench`: a virtual environment with OpenCLIP, and `clip bench` against it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, clip};

/// What is installed, each version pinned.
const REQUIREMENTS: &str = "tests/reference/requirements.txt";

/// Builds `clip` for the backend that `--backend` names and runs `clip bench ARGS...`, with a peer of its own unless
/// one is given.
pub(crate) fn run(mut args: Vec<String>) -> Result<ExitCode> {
    let given = |flag: &str| args.iter().any(|arg| arg.split('=').next() == Some(flag));
    let mut rest = Vec::new();
    if !["--peer", "--list", "--help", "-h"].into_iter().any(given) {
        match environment() {
            Ok(python) => rest = vec!["--peer".to_owned(), python.display().to_string()],
            Err(error) => eprintln!(
                "xtask: measuring clip alone: {error:#}; install python3 with its venv module, or give a Python that \
                 has {REQUIREMENTS} installed: --peer PYTHON"
            ),
        }
    }
    args.insert(0, "bench".to_owned());
    args.extend(rest);
    clip::run_with(args, &[("CLIP_BENCH_COMMIT", commit())])
}

/// The Python of `.venv`, made and filled if it isn't what the requirements say.
fn environment() -> Result<PathBuf> {
    let folder = cargo::root().join(".venv");
    let python = folder.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let requirements = cargo::root().join(REQUIREMENTS);
    let wanted = fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    // Written last: what holds it was filled to the end.
    let stamp = folder.join("clip-requirements.txt");
    if fs::read_to_string(&stamp).is_ok_and(|filled| filled == wanted) {
        return Ok(python);
    }
    cargo::step(
        "make .venv",
        Command::new("python3").args(["-m", "venv"]).arg(&folder),
    )?;
    cargo::step(
        "install OpenCLIP and PyTorch into .venv",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(&requirements),
    )?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(python)
}

/// The commit that is measured, with a plus if files differ from it; empty outside of a git repository.
fn commit() -> String {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        let out = git.current_dir(cargo::root()).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|files| !files.is_empty());
    hash + if changed { "+" } else { "" }
}
