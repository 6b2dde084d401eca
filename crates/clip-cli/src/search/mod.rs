//! `clip search`: a folder's images, found by text or by image.

mod check;
mod folder;
mod opened;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clip_zeroshot::{ClipEncoders, EncodeTexts};
use serde_json::json;

pub(crate) use self::{
    folder::{index_file, resolve, unchanged},
    opened::{Index, open},
};
use crate::{
    device::DeviceName,
    model::ModelArgs,
    numbers, output,
    pictures::{self, Pictures},
};

#[derive(clap::Subcommand)]
pub(crate) enum Search {
    /// Encode the images below a folder, or bring its index up to date: only new and changed ones are encoded.
    Index(IndexArgs),
    /// Find the images of an indexed folder that are nearest to a text or an image.
    Query(QueryArgs),
    /// Compare an approximate index with an exact search of all its features: what share of the nearest it finds, and how
    /// much faster.
    Check(check::CheckArgs),
}

#[derive(clap::Args)]
pub(crate) struct IndexArgs {
    /// The folder; its index is written into it, as `.clip-index.safetensors`.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// The index file, in place of the one in the folder.
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Keep codes of the features too, a sixteenth of their size: queries compare those, and in full only the likeliest
    /// images. For hundreds of thousands of images and more. Later updates keep the codes.
    #[arg(long, conflicts_with = "exact")]
    approximate: bool,
    /// Keep no codes: queries compare all features.
    #[arg(long)]
    exact: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(crate) struct QueryArgs {
    /// A text, or an image: it is an image if its name ends as an image's.
    #[arg(value_name = "TEXT|IMAGE")]
    query: String,
    /// The query is a text, whatever it ends in.
    #[arg(long)]
    text: bool,
    /// The indexed folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The index file, in place of the one in the folder.
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// The model, in place of where the one of the index was.
    #[arg(long, value_name = "DIR|PRESET")]
    model: Option<String>,
    /// Images shown, the nearest first.
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = numbers::from_one::<usize>())]
    top: usize,
    /// Compare all features, of an approximate index too.
    #[arg(long)]
    exact: bool,
    /// Print one JSON object an image.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(search: &Search, device: Option<DeviceName>) -> Result<()> {
    match search {
        Search::Index(args) => index(args, device),
        Search::Query(args) => query(args, device),
        Search::Check(args) => check::check(args),
    }
}

fn index(args: &IndexArgs, device: Option<DeviceName>) -> Result<()> {
    ensure!(
        args.dir.is_dir(),
        "{} is no folder: give the one whose images are to be found",
        args.dir.display()
    );
    let file = index_file(&args.dir, args.index.as_deref());
    // Before the model, which takes seconds to load.
    let _lock = folder::lock(&file)?;
    let encoders = args.model.load(device)?;
    let mut index = folder::open_or_new(&file, &encoders, args.model.name())?;
    if args.approximate || args.exact {
        index.set_approximate(args.approximate);
    }
    let (changes, unreadable) = folder::update(&mut index, &file, &args.dir, &encoders)?;
    let images = index.images().len();
    if args.json {
        let object = json!({
            "index": file.display().to_string(), "images": images, "kept": changes.kept,
            "encoded": changes.encoded, "removed": changes.removed, "unreadable": unreadable,
            "approximate": index.is_approximate(),
        });
        output::line(&object.to_string())?;
    } else {
        output::line(&format!(
            "{images} images in {}: {} as before, {} encoded, {} gone, {unreadable} unreadable",
            file.display(),
            changes.kept,
            changes.encoded,
            changes.removed
        ))?;
    }
    ensure!(
        unreadable == 0,
        "{unreadable} images or folders could not be read: {} has the others, and what it had below such folders",
        file.display()
    );
    Ok(())
}

/// A text's feature on the host.
pub(crate) fn text_feature(encoders: &ClipEncoders, text: &str) -> Result<Vec<f32>> {
    let feature = encoders.encode_texts(&[text.to_owned()])?;
    Ok(feature.try_into_vec_as::<f32>()?)
}

fn query(args: &QueryArgs, device: Option<DeviceName>) -> Result<()> {
    let path = Path::new(&args.query);
    let is_image = !args.text && pictures::is_image(path);
    ensure!(
        !is_image || path.is_file(),
        "there is no image {}: check its path, or add --text to search for these words",
        args.query
    );
    let file = index_file(&args.dir, args.index.as_deref());
    let (index, encoders) = open(&file, args.exact, args.model.as_deref(), device)?;
    let feature = if is_image {
        let pixels = Pictures::new(&encoders).read(path)?;
        encoders.encode_images(pixels).try_into_vec_as::<f32>()?
    } else {
        ensure!(
            !args.query.trim().is_empty(),
            "the query is empty: give a text or an image file"
        );
        text_feature(&encoders, &args.query)?
    };
    ensure!(
        feature.iter().all(|value| value.is_finite()),
        "the query's feature is not finite: the model's weights are damaged"
    );
    let search = |k| index.search(&feature, k);
    let (found, others) = unchanged(&args.dir, index.images(), args.top, search)?;
    if others > 0 {
        log::warn!(
            "{others} of the nearest images are gone or have changed since they were indexed: run `clip search index`"
        );
    }
    let mut rows = Vec::new();
    for found in found {
        let image = &index.images()[found.position];
        let path = args.dir.join(&image.path).display().to_string();
        if args.json {
            output::line(&json!({ "image": path, "cosine": found.cosine }).to_string())?;
        } else {
            rows.push([format!("{:.4}", found.cosine), path]);
        }
    }
    output::table(&rows).context("cannot print the images found")
}
