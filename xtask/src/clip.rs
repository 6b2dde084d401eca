//! `cargo xtask pretrain` and `cargo xtask clip`: build the program with one backend only, then become it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::backend::{Backend, NAMES, Wish};
use crate::cargo;
use crate::machine::Machine;

/// Builds `clip` with the backend that `--backend` names and runs `clip ARGS...` with it.
pub(crate) fn run(args: Vec<String>) -> Result<ExitCode> {
    run_with(args, &[])
}

/// The same, with more in its environment.
pub(crate) fn run_with(mut args: Vec<String>, environment: &[(&str, String)]) -> Result<ExitCode> {
    let wish = Wish::take(&mut args)?;
    let machine = Machine::here();
    let program = match wish {
        Wish::This(backend) => {
            backend.check(&machine)?;
            build(backend)?
        }
        Wish::Auto => build_strongest(&machine)?,
    };
    become_program(
        Command::new(program)
            .args(args)
            .envs(environment.iter().cloned()),
    )
}

/// Builds the strongest backend that works; whatever stops a GPU one, the CPU one takes its place.
fn build_strongest(machine: &Machine) -> Result<PathBuf> {
    let (backend, why) = Backend::strongest(machine);
    eprintln!(
        "xtask: backend {} ({why}); another: --backend {NAMES}",
        backend.name()
    );
    if backend == Backend::Cpu {
        return build(backend);
    }
    match build(backend).and_then(|program| device_starts(&program).map(|()| program)) {
        Ok(program) => Ok(program),
        Err(error) => {
            eprintln!(
                "xtask: the {} backend does not work here ({error:#}); going on with cpu",
                backend.name()
            );
            build(Backend::Cpu)
        }
    }
}

/// Runs `clip devices`, which starts each device of the build and fails where there is none.
fn device_starts(program: &Path) -> Result<()> {
    let status = Command::new(program)
        .arg("devices")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    let status = status.with_context(|| format!("cannot start {}", program.display()))?;
    if !status.success() {
        bail!("its device did not start: `clip devices` ended with {status}");
    }
    Ok(())
}

/// Builds `clip` in release with one backend and returns the program's path.
fn build(backend: Backend) -> Result<PathBuf> {
    let mut args = vec![
        "build",
        "--release",
        "--package",
        "clip-cli",
        "--message-format=json-render-diagnostics",
    ];
    // The default features are the cpu backend: naming no feature shares every object with the tests' build.
    if backend != Backend::Cpu {
        args.extend(["--no-default-features", "--features", backend.name()]);
    }
    let built = cargo::command(args)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !built.status.success() {
        bail!("building clip for the {} backend failed", backend.name());
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    cargo::executable(&messages, "clip").context("cargo built clip but named no program")
}

/// Replaces this process, so that signals, the terminal and the exit code are clip's own.
#[cfg(unix)]
fn become_program(program: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let error = program.exec();
    Err(error).with_context(|| format!("cannot start {}", program.get_program().display()))
}

/// Runs the program to its end. The console sends Ctrl-C to both: it is clip's to answer, so this process ignores it.
#[cfg(not(unix))]
fn become_program(program: &mut Command) -> Result<ExitCode> {
    #[cfg(windows)]
    ctrlc::set_handler(|| {}).context("cannot leave Ctrl-C to clip")?;
    let status = program
        .status()
        .with_context(|| format!("cannot start {}", program.get_program().display()))?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}
