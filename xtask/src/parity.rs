//! Full-size parity with OpenCLIP, which needs Python: not part of `ci`.

use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Usage};

/// The paper's models, one with each of timm's image encoders, and one that writes captions.
const PRESETS: [&str; 19] = [
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-L-14",
    "ViT-L-14-336",
    "ViT-B-16-SigLIP",
    "convnext_base_w",
    "EVA01-g-14",
    "EVA02-B-16",
    "PE-Core-B-16",
    "MobileCLIP-S1",
    "MobileCLIP-B",
    "MobileCLIP2-S4",
    "ViTamin-B",
    "coca_ViT-B-32",
];

/// `[--python PYTHON] [PRESET...]`
pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (python, presets) = match args {
        [flag, python, presets @ ..] if flag == "--python" => (python.as_str(), presets),
        presets => ("python3", presets),
    };
    if let Some(flag) = presets.iter().find(|preset| preset.starts_with('-')) {
        return Err(Usage(format!(
            "parity takes --python PYTHON and presets, not {flag}"
        ))
        .into());
    }
    let built = cargo::command([
        "build",
        "--release",
        "--workspace",
        "--example=parity",
        "--message-format=json-render-diagnostics",
    ])
    .stdin(Stdio::null())
    .stderr(Stdio::inherit())
    .output()
    .context("cannot start cargo")?;
    if !built.status.success() {
        bail!("building the example `parity` failed");
    }
    let program = cargo::executable(&String::from_utf8_lossy(&built.stdout), "parity")
        .context("cargo built the example but named no program")?;
    let mut command = Command::new(python);
    command
        .arg(cargo::root().join("tests/reference/openclip_features.py"))
        .arg(program);
    if presets.is_empty() {
        command.args(PRESETS);
    } else {
        command.args(presets);
    }
    cargo::step("parity with OpenCLIP", &mut command)?;
    Ok(ExitCode::SUCCESS)
}
