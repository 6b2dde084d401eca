//! `clip eval retrieval`.

use anyhow::Result;
use clip_data::EvalNeeds;
use clip_zeroshot::{RetrievalReport, evaluate_retrieval};
use serde::Serialize;

use crate::{
    device::DeviceName,
    model::{ModelArgs, ShardArgs},
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    shards: ShardArgs,
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
    let shards = args.shards.find()?;
    let encoders = args.model.load(device)?;
    let features = args.shards.encode(shards, &encoders, EvalNeeds::Captions)?;
    let report = evaluate_retrieval(&encoders, &features)?.report;
    if args.json {
        let skipped = features.faults.bad();
        return output::line(&serde_json::to_string(&Found { report, skipped })?);
    }
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
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
