//! `clip weights export`: a model for OpenCLIP, transformers or runtimes of ONNX.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clip_data::Tokenizer;
use clip_files::NewFolder;
use clip_model::weights::{FloatType, ImportedWeights, ReadOptions, TextTokens};

use super::{read, tell, tokenizer};
use crate::{
    device::{self, DeviceName},
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model directory, or other weights that `import` reads.
    #[arg(value_name = "DIR")]
    model: String,
    /// Whose layout: OpenCLIP's hub layout, transformers' CLIPModel and CLIPProcessor, or an ONNX file for each encoder.
    #[arg(long, value_enum)]
    format: Format,
    /// How the numbers are written. bf16 and f16 are half as large, and not exact.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    #[value(name = "openclip")]
    OpenClip,
    #[value(name = "hf")]
    HuggingFace,
    Onnx,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

impl From<Dtype> for FloatType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    // Before a long reading that would be for nothing.
    clip_files::check_new(&args.out)?;
    let name = &args.model;
    let device = device::open(device)?.device;
    let checkpoint = read(name, ReadOptions::default(), &device)?;
    let tokenizer = tokenizer::of(&checkpoint)?;
    for note in &checkpoint.notes {
        log::debug!("{note}");
    }
    // Kernels of an ONNX file are sums of these, which its writer looks at.
    let written = |_: &str| !matches!(args.format, Format::Onnx);
    if let Some((tensor, number)) = checkpoint.beyond(args.dtype.into(), written) {
        bail!(
            "{tensor} of {name} has {number}, more than the `--dtype` can hold: `f32` and `bf16` do"
        );
    }
    let out = NewFolder::create(&args.out)?;
    let folder = out.path();
    match (args.format, &tokenizer) {
        (Format::OpenClip, tokenizer) => {
            checkpoint.save_open_clip(folder, args.dtype.into())?;
            save_tokenizer(tokenizer.as_ref(), folder)
        }
        (Format::Onnx, tokenizer) => {
            clip_onnx::export(&checkpoint, folder, args.dtype.into())?;
            checkpoint.save_config(folder)?;
            checkpoint.save_preprocessor(folder)?;
            save_tokenizer(tokenizer.as_ref(), folder)
        }
        (Format::HuggingFace, Some(tokenizer)) => {
            export_hugging_face(&checkpoint, tokenizer, args.dtype, folder)
        }
        (Format::HuggingFace, None) => bail!(
            "transformers needs the model's tokenizer: put its tokenizer.json beside {}",
            checkpoint.path.display()
        ),
    }?;
    out.publish()?;
    if args.json {
        return tell(&args.out, checkpoint.config.num_params());
    }
    output::line(&args.out.display().to_string())
}

/// Where the model has one.
fn save_tokenizer(tokenizer: Option<&Tokenizer>, folder: &Path) -> Result<()> {
    if let Some(tokenizer) = tokenizer {
        tokenizer.save_dir(folder)?;
    }
    Ok(())
}

fn export_hugging_face(
    checkpoint: &ImportedWeights,
    tokenizer: &Tokenizer,
    dtype: Dtype,
    folder: &Path,
) -> Result<()> {
    let [start, end] = tokenizer.start_and_end().context(
        "transformers' CLIPModel has a tokenizer of CLIP's kind, and this model another",
    )?;
    let tokens = TextTokens { start, end };
    checkpoint.save_hugging_face(folder, dtype.into(), tokens)?;
    let context_length = checkpoint.config.text_cfg.context_length;
    Ok(tokenizer.save_for_transformers(folder, context_length)?)
}
