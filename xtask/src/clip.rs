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
            build(backend, &args)?
        }
        Wish::Auto => build_strongest(&machine, &args)?,
    };
    become_program(
        Command::new(program)
            .args(args)
            .envs(environment.iter().cloned()),
    )
}

/// The features of a build: for the CPU those of `cargo xtask test`, so that both share one build of Burn. Remote devices
/// bring a hundred crates more, so they come where the arguments name them.
fn features(backend: Backend, args: &[String]) -> String {
    let named = |mark| args.iter().any(|arg| arg.contains(mark));
    let remote = ["remote://", "serve-device"].into_iter().any(named);
    let remote = if remote { ",remote" } else { "" };
    match backend {
        Backend::Cpu => format!("default{remote}"),
        other => format!("{},sources{remote}", other.name()),
    }
}

/// Builds the strongest backend that works; whatever stops a GPU one, the CPU one takes its place.
fn build_strongest(machine: &Machine, args: &[String]) -> Result<PathBuf> {
    let (backend, why) = Backend::strongest(machine);
    eprintln!(
        "xtask: backend {} ({why}); another: --backend {NAMES}",
        backend.name()
    );
    if backend == Backend::Cpu {
        return build(backend, args);
    }
    match build(backend, args).and_then(|program| device_starts(&program).map(|()| program)) {
        Ok(program) => Ok(program),
        Err(error) => {
            eprintln!(
                "xtask: the {} backend does not work here ({error:#}); going on with cpu",
                backend.name()
            );
            build(Backend::Cpu, args)
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

/// Builds `clip` in release with one backend, and returns the program's path.
fn build(backend: Backend, args: &[String]) -> Result<PathBuf> {
    let features = features(backend, args);
    let args = [
        "build",
        "--release",
        "--package",
        "clip-cli",
        "--message-format=json-render-diagnostics",
        "--no-default-features",
        "--features",
        &features,
    ];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_devices_are_built_in_where_arguments_name_them() {
        let features = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(ToString::to_string).collect();
            features(Backend::Cpu, &args)
        };
        assert_eq!(
            features(&["pretrain", "--train", "s3://a/b.tar"]),
            "default"
        );
        assert_eq!(
            features(&["pretrain", "--devices", "cpu,remote://gpu:7861"]),
            "default,remote"
        );
        assert_eq!(features(&["serve-device"]), "default,remote");
    }
}
