//! How the tasks call cargo: the same one that runs them, from the workspace's root.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A mistake in the arguments: exit code 2 instead of 1.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The workspace's root folder: the one that holds `xtask/`.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `cargo ARGS...`, to be run in the workspace's root.
///
/// What `cargo run` says of this package isn't passed on: build scripts that watch it (ring's) would run again, and minutes
/// of builds behind them, whenever `cargo test` and `cargo xtask test` follow each other.
pub(crate) fn command<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(args);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy()))
    {
        command.env_remove(name);
    }
    command
}

fn is_of_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"]
        .iter()
        .any(|start| variable.starts_with(start))
}

/// Runs a step of a task and fails when it does.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("xtask: {name}");
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("{name}: cannot start `{program}`"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// The program among cargo's JSON messages: the `executable` of the artifact named `name`.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| {
            let is_program = message["reason"] == "compiler-artifact"
                && message["target"]["name"] == name
                && ["bin", "example"]
                    .iter()
                    .any(|kind| message["target"]["kind"][0] == *kind);
            is_program
                .then(|| message["executable"].as_str().map(PathBuf::from))
                .flatten()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_found_among_other_messages() {
        let messages = concat!(
            "not json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"clip","kind":["lib"]},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"clip","kind":["bin"]},"executable":"/t/release/clip"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            executable(messages, "clip"),
            Some(PathBuf::from("/t/release/clip"))
        );
        assert_eq!(executable(messages, "other"), None);
    }

    #[test]
    fn cargo_is_not_told_of_this_package() {
        let command = command(["build"]);
        let removed = |name: &str| {
            let mut variables = command.get_envs();
            variables.any(|(variable, value)| variable == name && value.is_none())
        };
        // Cargo sets it for tests, as for `cargo run`.
        assert!(removed("CARGO_MANIFEST_DIR") && removed("CARGO_PKG_NAME"));
        assert!(!removed("CARGO_HOME") && !removed("CARGO_TARGET_DIR"));
    }

    #[test]
    fn root_holds_the_workspace_manifest() {
        assert!(root().join("Cargo.lock").exists());
    }
}
