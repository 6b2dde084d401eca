//! `clip weights interpolate`: a model between two.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clip_model::{
    ClipConfig,
    weights::{Checkpoint, ModelDir, ReadOptions, create_directory, refuse_existing},
};
use serde_json::Value;

use super::{tell, tokenizer};
use crate::{
    device::{self, DeviceName},
    numbers, output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model directory, or other weights that `import` reads, such as a model before fine-tuning.
    #[arg(value_name = "A")]
    from: PathBuf,
    /// Another of the same architecture, such as the same after it. The tokenizer is its.
    #[arg(value_name = "B")]
    to: PathBuf,
    /// How far to go from A to B: 0 is A, 1 is B.
    #[arg(long, value_name = "SHARE", value_parser = numbers::share)]
    share: f64,
    /// The model directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    // Before a long reading that would be for nothing.
    refuse_existing(&args.out)?;
    let device = device::open(device)?.device;
    let read = |path: &Path| Checkpoint::read(path, &ReadOptions::default(), &device);
    let (from, to) = (read(&args.from)?, read(&args.to)?);
    let mut differences = differences(&from.config, &to.config);
    if from.preprocess != to.preprocess {
        differences.push("images are resized or normalised otherwise".to_owned());
    }
    if !differences.is_empty() {
        bail!(
            "{} and {} are not of one architecture: {}",
            args.from.display(),
            args.to.display(),
            differences.join("; ")
        );
    }
    if tokenizer::differ(&from, &to)? {
        bail!(
            "{} and {} have different tokenizers: their token embeddings don't mean the same words",
            args.from.display(),
            args.to.display()
        );
    }
    let tokenizer = tokenizer::of(&to)?;
    let between = clip_model::interpolate(&from.model(&device), to.model(&device), args.share);
    create_directory(&args.out, |folder| {
        ModelDir::save(folder, &to.config, to.preprocess, &between)?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.save_dir(folder)?;
        }
        anyhow::Ok(())
    })?;
    if args.json {
        return tell(&args.out, to.config.num_params());
    }
    output::line(&args.out.display().to_string())
}

/// `key is VALUE and VALUE`, of keys that say what a model computes.
fn differences(from: &ClipConfig, to: &ClipConfig) -> Vec<String> {
    /// How training began, and where a tokenizer is found.
    const OTHERS: [&str; 7] = [
        "init_logit_scale",
        "custom_text",
        "vision_cfg.patch_dropout",
        "vision_cfg.timm_drop_path",
        "text_cfg.hf_model_pretrained",
        "text_cfg.hf_tokenizer_name",
        "text_cfg.tokenizer_kwargs",
    ];
    let [from, to] = [from, to].map(|config| {
        // invariant: a configuration is a tree of plain values under string keys.
        serde_json::to_value(config).expect("invariant: plain values")
    });
    let mut found = Vec::new();
    walk("", &from, &to, &mut |key, from, to| {
        if !OTHERS.contains(&key) {
            found.push(format!("`{key}` is {from} and {to}"));
        }
    });
    found
}

fn walk(path: &str, from: &Value, to: &Value, differ: &mut impl FnMut(&str, &Value, &Value)) {
    let (Value::Object(a), Value::Object(b)) = (from, to) else {
        if from != to {
            differ(path, from, to);
        }
        return;
    };
    let absent = a.keys().filter(|key| !b.contains_key(*key));
    for key in b.keys().chain(absent) {
        let dot = if path.is_empty() { "" } else { "." };
        let [a, b] = [a, b].map(|side| side.get(key).unwrap_or(&Value::Null));
        walk(&format!("{path}{dot}{key}"), a, b, differ);
    }
}
