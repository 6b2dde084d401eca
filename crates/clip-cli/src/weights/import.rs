//! `clip weights import`: a model directory of others' weights.

use std::path::PathBuf;

use anyhow::Result;
use clip_files::NewFolder;
use clip_model::{
    ClipConfig,
    weights::{FloatType, ReadOptions},
};

use super::{read, tell, tokenizer};
use crate::{
    device::{self, DeviceName},
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file of weights, or a folder with one: OpenCLIP's safetensors, .bin, .pt and training checkpoints, OpenAI's
    /// TorchScript archives, and Hugging Face's CLIPModel. Recognised by content. Or a model of the Hugging Face hub,
    /// which is downloaded into its cache first: hf-hub:ORG/NAME, hf-hub:ORG/NAME@REVISION, or PRESET:TAG as in `clip
    /// weights list`. Or a checkpoint of a run, RUN/checkpoints/step-N: what its weights mean is read from the run's directory.
    #[arg(value_name = "FILE|DIR|hf-hub:ORG/NAME")]
    source: String,
    /// The model directory to make.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The architecture, if it is neither beside the file nor told by its shapes: a preset or a JSON file of one.
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// Side of the square input in pixels, if other than the weights'. Positional embeddings are resized.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    image_size: Option<u16>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    // Before a long reading that would be for nothing.
    clip_files::check_new(&args.out)?;
    let preset = args.preset.as_deref().map(ClipConfig::load);
    let options = ReadOptions {
        config: preset.transpose()?,
        image_size: args.image_size.map(usize::from),
        ..ReadOptions::default()
    };
    let device = device::open(device)?.device;
    let mut checkpoint = read(&args.source, options, &device)?;
    let tokenizer = tokenizer::of(&checkpoint)?;
    for note in &checkpoint.notes {
        log::info!("{note}");
    }
    tokenizer::name_it(&mut checkpoint.config, tokenizer.as_ref());
    let out = NewFolder::create(&args.out)?;
    checkpoint.save_open_clip(out.path(), FloatType::F32)?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer.save_dir(out.path())?;
    }
    out.publish()?;
    let (out, params) = (args.out.display(), checkpoint.config.num_params());
    if args.json {
        return tell(&args.out, params);
    }
    output::line(&format!("{out}: {params} parameters"))
}
