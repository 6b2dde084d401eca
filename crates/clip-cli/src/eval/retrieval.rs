//! `clip eval retrieval`.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Result;
use burn::tensor::DType;
use clip_data::EvalNeeds;
use clip_metrics::percent;
use clip_zeroshot::{ImagePass, Retrieval, RetrievalReport, ShardFeatures, evaluate_retrieval};
use serde::Serialize;
use serde_json::json;

use crate::{
    device::DeviceName,
    model::{EncoderArgs, ShardArgs},
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: EncoderArgs,
    #[command(flatten)]
    shards: ShardArgs,
    /// Write where each query's right answer stands: one JSON object a line, first the images and then the captions.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Compare 16-bit features: half the memory, but candidates that are nearly equal may change places.
    #[arg(long)]
    half: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    report: RetrievalReport,
    /// Samples that could not be used.
    skipped: u64,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    if let Some(path) = &args.per_query {
        clip_files::check_writable(path)?;
    }
    let shards = args.shards.find()?;
    let encoders = args.model.load(device)?;
    let pass = ImagePass::default();
    let reading = &args.shards.reading;
    let features = reading.encode(shards, &encoders, EvalNeeds::Captions, pass)?;
    let precision = if args.half { DType::F16 } else { DType::F32 };
    let retrieval = evaluate_retrieval(&encoders, &features, precision)?;
    print(&retrieval.report, &features, args.json)?;
    // After what was asked for first: a disk that is full by now costs only this.
    if let Some(path) = &args.per_query {
        clip_files::replace_with(path, |path| write_queries(path, &features, &retrieval))?;
    }
    Ok(())
}

fn print(report: &RetrievalReport, features: &ShardFeatures, as_json: bool) -> Result<()> {
    if as_json {
        let skipped = features.faults.bad();
        let report = report.clone();
        return output::line(&serde_json::to_string(&Found { report, skipped })?);
    }
    let row = |name: &str, recalls: [f64; 3], median: f64| {
        let [r1, r5, r10] = recalls.map(percent);
        [name.to_owned(), r1, r5, r10, median.to_string()]
    };
    output::line(&format!(
        "{} images, {} captions",
        report.images, report.captions
    ))?;
    output::table(&[
        ["", "R@1", "R@5", "R@10", "median rank"].map(str::to_owned),
        row(
            "image to text",
            [report.i2t_r1, report.i2t_r5, report.i2t_r10],
            report.i2t_median_rank,
        ),
        row(
            "text to image",
            [report.t2i_r1, report.t2i_r5, report.t2i_r10],
            report.t2i_median_rank,
        ),
    ])
}

/// The mean rank of the first right answer, ties included, and how many candidates are better and as good.
fn write_queries(path: &Path, features: &ShardFeatures, retrieval: &Retrieval) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for (key, rank) in features.keys.iter().zip(&retrieval.images) {
        let object = json!({
            "query": "image", "key": key, "rank": rank.rank(), "better": rank.better, "tied": rank.tied,
        });
        writeln!(file, "{object}")?;
    }
    let captions = features.captions.iter().zip(&features.image_of_caption);
    for ((caption, &image), rank) in captions.zip(&retrieval.captions) {
        let object = json!({
            "query": "caption", "key": features.keys[image], "caption": caption, "rank": rank.rank(),
            "better": rank.better, "tied": rank.tied,
        });
        writeln!(file, "{object}")?;
    }
    file.flush()
}
