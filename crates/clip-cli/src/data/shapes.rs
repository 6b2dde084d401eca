//! `clip data shapes`.

use std::path::PathBuf;

use anyhow::Result;
use clip_data::shapes::{ShapesConfig, generate};
use serde_json::json;

use crate::{output, usage::WrongUsage};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of shards. One that holds the same dataset already is left as it is.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Decides every scene and caption.
    #[arg(long, default_value_t = ShapesConfig::default().seed)]
    seed: u64,
    /// Images to train on.
    #[arg(long, value_name = "IMAGES", default_value_t = ShapesConfig::default().train)]
    train: usize,
    /// Images with captions to measure retrieval on.
    #[arg(long, value_name = "IMAGES", default_value_t = ShapesConfig::default().val)]
    val: usize,
    /// Images of each of the two zero-shot sets.
    #[arg(long, value_name = "IMAGES", default_value_t = ShapesConfig::default().zeroshot)]
    zeroshot: usize,
    /// Side of the images, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = ShapesConfig::default().image_size)]
    image_size: usize,
    /// Captions of each image.
    #[arg(long, value_name = "N", default_value_t = ShapesConfig::default().captions)]
    captions: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = ShapesConfig {
        seed: args.seed,
        train: args.train,
        val: args.val,
        zeroshot: args.zeroshot,
        image_size: args.image_size,
        captions: args.captions,
    };
    // Its settings are called as the flags.
    config
        .validate()
        .map_err(|error| WrongUsage(format!("--{error}").replace('_', "-")))?;
    let dataset = generate(&config, &args.out)?;
    if args.json {
        let found = json!({
            "train": dataset.train,
            "val": dataset.val,
            "zeroshot_seen": dataset.zeroshot_seen,
            "zeroshot_unseen": dataset.zeroshot_unseen,
            "classes": dataset.classes,
            "templates": dataset.templates,
            "reused": dataset.reused,
        });
        return output::line(&found.to_string());
    }
    let row = |name: &str, value: String| [name.to_owned(), value];
    output::table(&[
        row("train", dataset.train),
        row("val", dataset.val),
        row("seen pairs", dataset.zeroshot_seen),
        row("unseen pairs", dataset.zeroshot_unseen),
        row("class names", dataset.classes.display().to_string()),
        row("templates", dataset.templates.display().to_string()),
    ])
}
