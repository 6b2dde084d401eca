//! Which crate may depend on which, and who may name a backend.

use std::{fs, path::Path};

use anyhow::{Context, bail};

/// Each crate, and the crates of the workspace it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("clip-model", &[]),
    ("clip-data", &[]),
    ("clip-train", &["clip-model", "clip-data"]),
    ("clip-zeroshot", &["clip-model", "clip-data"]),
    (
        "clip-cli",
        &["clip-model", "clip-data", "clip-train", "clip-zeroshot"],
    ),
];

/// Features of Burn that choose a backend; only the program may ask for them outside its tests.
const BACKENDS: &[&str] = &[
    "flex", "ndarray", "tch", "cpu", "cuda", "rocm", "wgpu", "vulkan", "metal", "webgpu",
];

/// Checks the manifests under `crates/`.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent")?;
    for (name, allowed) in ALLOWED {
        let path = root.join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if let Some(reason) = violation(name, allowed, &manifest) {
            bail!("{}: {reason}", path.display());
        }
    }
    eprintln!("layering: ok");
    Ok(())
}

fn violation(name: &str, allowed: &[&str], manifest: &str) -> Option<String> {
    let dependencies = manifest
        .split("\n[")
        .find(|part| part.starts_with("dependencies]"))?;
    for line in dependencies.lines() {
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let ours = ALLOWED.iter().any(|(known, _)| *known == dependency);
        if ours && !allowed.contains(&dependency) {
            return Some(format!("{name} must not depend on {dependency}"));
        }
        let named = BACKENDS
            .iter()
            .find(|backend| line.contains(&format!("\"{backend}\"")));
        if let (Some(backend), true) = (named, dependency == "burn" && name != "clip-cli") {
            return Some(format!(
                "{name} names the backend {backend}; only clip-cli may"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_direction_and_a_backend_are_found() {
        let manifest = "[package]\n\n[dependencies]\nclip-train.workspace = true\n";
        assert!(
            violation("clip-model", &[], manifest)
                .unwrap()
                .contains("clip-train")
        );
        let manifest = "[package]\n\n[dependencies]\nburn = { features = [\"wgpu\"] }\n";
        assert!(
            violation("clip-model", &[], manifest)
                .unwrap()
                .contains("wgpu")
        );
        let manifest = "[package]\n\n[dependencies]\nburn = 1\n\n[dev-dependencies]\nburn = { features = [\"flex\"] }\n";
        assert_eq!(violation("clip-model", &[], manifest), None);
    }
}
