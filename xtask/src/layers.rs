//! `cargo xtask layers`: the crates depend on each other in one direction, and only the binary and the kernels name a
//! backend.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cargo::{self, Usage};

/// The workspace's crates and those of them that each may depend on, for tests too.
const LAYERS: [(&str, &[&str]); 14] = [
    ("clip-alloc", &[]),
    ("clip-cube", &[]),
    ("clip-kernels", &[]),
    ("clip-files", &[]),
    ("clip-metrics", &[]),
    (
        "clip-model",
        &["clip-alloc", "clip-cube", "clip-files", "clip-kernels"],
    ),
    ("clip-data", &["clip-files"]),
    ("clip-onnx", &["clip-files", "clip-model"]),
    ("clip-report", &["clip-files", "clip-metrics"]),
    (
        "clip-train",
        &[
            "clip-alloc",
            "clip-cube",
            "clip-data",
            "clip-files",
            "clip-kernels",
            "clip-metrics",
            "clip-model",
        ],
    ),
    (
        "clip-zeroshot",
        &["clip-data", "clip-files", "clip-metrics", "clip-model"],
    ),
    (
        "clip-cli",
        &[
            "clip-alloc",
            "clip-data",
            "clip-files",
            "clip-kernels",
            "clip-metrics",
            "clip-model",
            "clip-onnx",
            "clip-report",
            "clip-train",
            "clip-zeroshot",
        ],
    ),
    ("clip-tests", &["clip-data", "clip-model", "clip-zeroshot"]),
    ("xtask", &[]),
];

/// The crates that are kernels for backends: what depends on them does so by choice.
const KERNELS: [&str; 2] = ["clip-cube", "clip-kernels"];

/// Burn's features that bring a backend, or kernels for one.
const BACKEND_FEATURES: [&str; 17] = [
    "accelerate",
    "candle",
    "cpu",
    "cuda",
    "flex",
    "metal",
    "ndarray",
    "openblas",
    "openblas-system",
    "rocm",
    "simd",
    "tch",
    "vulkan",
    "webgpu",
    "wgpu",
    "wgpu-spirv",
    "x86-v4",
];

/// Burn's crates that are backends.
const BACKEND_CRATES: [&str; 10] = [
    "burn-candle",
    "burn-cpu",
    "burn-cubecl",
    "burn-cuda",
    "burn-flex",
    "burn-ndarray",
    "burn-rocm",
    "burn-tch",
    "burn-wgpu",
    "cubecl",
];

/// Checks the workspace as `cargo metadata` describes it.
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        bail!(Usage(format!(
            "`cargo xtask layers` takes no arguments, but got {arg}"
        )));
    }
    let out = cargo::command(["metadata", "--no-deps", "--format-version=1", "--locked"])
        .output()
        .context("cannot start cargo")?;
    ensure!(
        out.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&out.stderr).trim_end()
    );
    let metadata: Value =
        serde_json::from_slice(&out.stdout).context("cargo metadata printed no JSON")?;
    let broken = violations(&metadata);
    ensure!(
        broken.is_empty(),
        "the layering of ARCHITECTURE.md is broken:\n  {}",
        broken.join("\n  ")
    );
    eprintln!("xtask: layers hold");
    Ok(ExitCode::SUCCESS)
}

/// Every dependency that breaks the layering, in words.
fn violations(metadata: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    for package in items(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == name) else {
            broken.push(format!(
                "{name} has no place yet: give it one in xtask/src/layers.rs"
            ));
            continue;
        };
        for dependency in items(&package["dependencies"]) {
            let on = text(&dependency["name"]);
            let ours = LAYERS.iter().any(|(layer, _)| *layer == on);
            if ours && !allowed.contains(&on) {
                broken.push(format!(
                    "{name} depends on {on}; it may depend on {allowed:?} only"
                ));
            }
            if text(&dependency["kind"]) == "dev" {
                continue;
            }
            if KERNELS.contains(&on) && dependency["optional"] != true {
                broken.push(format!(
                    "{name} always depends on {on}, which brings a backend; make it optional"
                ));
            }
            if KERNELS.contains(&name) {
                continue;
            }
            // Even clip-cli names its backends in `[features]` only, so that a build holds just the one asked for.
            if BACKEND_CRATES.contains(&on) {
                broken.push(format!(
                    "{name} depends on the backend {on}; backends are features of clip-cli"
                ));
            }
            if on == "burn" {
                for feature in items(&dependency["features"])
                    .map(text)
                    .filter(|feature| BACKEND_FEATURES.contains(feature))
                {
                    broken.push(format!("{name} asks for Burn's backend feature {feature}; backends are features of clip-cli"));
                }
            }
        }
    }
    broken
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workspace(name: &str, dependency: Value) -> Vec<String> {
        violations(&json!({ "packages": [{ "name": name, "dependencies": [dependency] }] }))
    }

    #[test]
    fn a_dependency_against_the_layers_is_named() {
        let on_train = json!({ "name": "clip-train", "kind": null, "features": [] });
        assert!(workspace("clip-cli", on_train.clone()).is_empty());
        let broken = workspace("clip-model", on_train.clone());
        assert_eq!(broken.len(), 1);
        assert!(
            broken[0].starts_with("clip-model depends on clip-train"),
            "{broken:?}"
        );
        assert_eq!(workspace("clip-zeroshot", on_train).len(), 1);
    }

    #[test]
    fn backends_belong_to_tests_and_to_the_binarys_features() {
        let burn =
            |kind: Value| json!({ "name": "burn", "kind": kind, "features": ["std", "flex"] });
        assert!(workspace("clip-model", burn(json!("dev"))).is_empty());
        assert_eq!(workspace("clip-model", burn(Value::Null)).len(), 1);
        assert_eq!(workspace("clip-cli", burn(Value::Null)).len(), 1);
        assert_eq!(
            workspace(
                "clip-train",
                json!({ "name": "burn-wgpu", "kind": null, "features": [] })
            )
            .len(),
            1
        );
    }

    #[test]
    fn kernels_bring_a_backend_only_to_who_asks() {
        let kernels = |optional| {
            let dependency = json!({ "name": "clip-kernels", "kind": null, "optional": optional });
            workspace("clip-model", dependency)
        };
        assert!(kernels(true).is_empty());
        assert!(kernels(false)[0].contains("make it optional"));
        let flex = json!({ "name": "burn-flex", "kind": null, "features": [] });
        assert!(workspace("clip-kernels", flex).is_empty());
    }

    #[test]
    fn a_crate_without_a_place_is_refused() {
        let broken =
            violations(&json!({ "packages": [{ "name": "clip-extra", "dependencies": [] }] }));
        assert!(broken[0].contains("layers.rs"), "{broken:?}");
    }
}
