//! `clip weights`: what weights there are, and others' weights in and out.

mod export;
#[cfg(feature = "hub")]
mod hub;
mod import;
mod inspect;
mod interpolate;
mod list;
mod read;
mod source;
pub(crate) mod tokenizer;

use std::path::Path;

use anyhow::Result;
use serde_json::json;

pub(crate) use read::{encoders, read};
pub(crate) use source::{hub_config, preset_of_tag};

use crate::{device::DeviceName, output};

#[derive(clap::Subcommand)]
pub(crate) enum Weights {
    /// Make a model directory of others' weights: OpenCLIP's, OpenAI's or Hugging Face's, here or on its hub.
    Import(import::Args),
    /// Write a model for OpenCLIP, for transformers, or as ONNX.
    Export(export::Args),
    /// Make the model between two of one architecture, such as before and after fine-tuning (WiSE-FT).
    Interpolate(interpolate::Args),
    /// List the published weights that can be named as PRESET:TAG, as OpenCLIP's `pretrained` tags.
    List(list::Args),
    /// Count parameters and list tensors, of a preset or of any weights that `import` reads.
    Inspect(inspect::Args),
}

pub(crate) fn run(weights: &Weights, device: Option<DeviceName>) -> Result<()> {
    match weights {
        Weights::Import(args) => import::run(args, device),
        Weights::Export(args) => export::run(args, device),
        Weights::Interpolate(args) => interpolate::run(args, device),
        Weights::List(args) => list::run(args),
        Weights::Inspect(args) => inspect::run(args),
    }
}

/// Prints where a model was written and how large it is, as JSON.
fn tell(out: &Path, params: usize) -> Result<()> {
    output::line(&json!({ "out": out.display().to_string(), "params": params }).to_string())
}
