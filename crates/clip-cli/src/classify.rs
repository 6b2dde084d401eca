//! `clip classify`: probabilities of your own labels.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clip_zeroshot::{ClassNames, Classifier, ClipEncoders, Prediction};
use serde_json::json;

use crate::{
    classes::{self, TemplateArgs},
    device::DeviceName,
    model::EncoderArgs,
    numbers, output,
    pictures::{self, Pictures},
    usage::WrongUsage,
};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("names").required(true).args(["labels", "classes"])))]
pub(crate) struct Args {
    /// Images (jpg, png, webp, gif or bmp): files, folders, globs, or `-` for a list on stdin, a path a line.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// The labels, joined by commas.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    labels: Vec<String>,
    /// The labels, one a line of a file, or a Python or JSON list.
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Let two labels of `--classes` have the same name, as some published lists need.
    #[arg(long, conflicts_with = "labels")]
    allow_duplicates: bool,
    #[command(flatten)]
    templates: TemplateArgs,
    #[command(flatten)]
    model: EncoderArgs,
    /// Labels shown of each image, the most probable first.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = numbers::from_one::<usize>())]
    top: usize,
    /// Print one JSON object an image.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let templates = args.templates.read()?;
    let names = match &args.classes {
        Some(path) => classes::read_names(path, args.allow_duplicates)?,
        None => ClassNames::from_list(&args.labels, "--labels")
            .map_err(|error| WrongUsage(error.to_string()))?,
    };
    let images = pictures::find(&args.images)?;
    let encoders = args.model.load(device)?;
    let classifier = classes::classifier(&encoders, &names, &templates, None)?;
    let classifier = classifier.with_bias(encoders.logit_bias());
    let bad = pictures::in_batches(&images, Pictures::new(&encoders), |positions, pixels| {
        let found = predict(&encoders, &classifier, pixels, args.top)?;
        for (&at, found) in positions.iter().zip(&found) {
            print(&images[at].display().to_string(), found, args.json)?;
        }
        Ok(())
    })?;
    if bad > 0 {
        bail!("{bad} of {} images could not be classified", images.len());
    }
    Ok(())
}

fn predict(
    encoders: &ClipEncoders,
    classifier: &Classifier,
    pixels: Vec<u8>,
    top: usize,
) -> Result<Vec<Vec<Prediction>>> {
    Ok(classifier.top_k(encoders.encode_images(pixels), top)?)
}

fn print(path: &str, found: &[Prediction], as_json: bool) -> Result<()> {
    if as_json {
        let labels: Vec<_> = found
            .iter()
            .map(|found| json!({ "label": found.name, "probability": found.probability }))
            .collect();
        return output::line(&json!({ "image": path, "labels": labels }).to_string());
    }
    output::line(path)?;
    let rows: Vec<_> = found
        .iter()
        .map(|found| {
            let percent = format!("{:5.1}%", 100.0 * found.probability);
            [format!(" {percent}"), found.name.clone()]
        })
        .collect();
    output::table(&rows)
}
