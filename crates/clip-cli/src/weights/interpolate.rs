//! `clip weights interpolate`: a model between two.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clip_files::NewFolder;
use clip_model::weights::{ModelDir, ReadOptions};

use super::{read, tell, tokenizer};
use crate::{
    device::{self, DeviceName},
    numbers, output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model directory, or other weights that `import` reads, such as a model before fine-tuning.
    #[arg(value_name = "A")]
    from: String,
    /// Another of the same architecture, such as the same after it. The tokenizer is its.
    #[arg(value_name = "B")]
    to: String,
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
    clip_files::check_new(&args.out)?;
    let device = device::open(device)?.device;
    let read = |source: &str| read(source, ReadOptions::default(), &device);
    let (from, to) = (read(&args.from)?, read(&args.to)?);
    let mut differences: Vec<String> = from
        .config
        .differences(&to.config)
        .into_iter()
        .map(|found| format!("`{}` is {}", found.key, found.shown().join(" and ")))
        .collect();
    if from.preprocess != to.preprocess {
        differences.push("images are resized or normalised otherwise".to_owned());
    }
    if !differences.is_empty() {
        bail!(
            "{} and {} are not of one architecture: {}",
            args.from,
            args.to,
            differences.join("; ")
        );
    }
    let [of_from, tokenizer] = [tokenizer::of(&from)?, tokenizer::of(&to)?];
    if let (Some(a), Some(b)) = (&of_from, &tokenizer)
        && !a.has_same_words(b)
    {
        bail!(
            "{} and {} have different tokenizers: their token embeddings don't mean the same words",
            args.from,
            args.to
        );
    }
    let between = clip_model::interpolate(&from.model(&device), to.model(&device), args.share);
    let out = NewFolder::create(&args.out)?;
    ModelDir::save(out.path(), &to.config, to.preprocess, &between)?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer.save_dir(out.path())?;
    }
    out.publish()?;
    if args.json {
        return tell(&args.out, to.config.num_params());
    }
    output::line(&args.out.display().to_string())
}
