//! `clip data filter`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clip_data::{PackConfig, ShardSet, pack_some};
use clip_zeroshot::PairScores;

use super::layout::{self, LayoutArgs};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("limit").required(true).args(["least", "best"])))]
pub(crate) struct Args {
    /// The shards.
    #[arg(value_name = "SHARDS")]
    data: String,
    /// What `clip data score` wrote of them; several, where several passes did.
    #[arg(long, value_name = "DIR", required = true, num_args = 1..)]
    scores: Vec<PathBuf>,
    /// Keep pairs of at least this cosine. LAION-400M's is 0.3, by ViT-B-32 of `OpenAI`.
    #[arg(long, value_name = "COSINE", allow_negative_numbers = true, value_parser = cosine)]
    least: Option<f32>,
    /// Keep what is among this share of all pairs in the folders of scores, the best, or as good as the last of them:
    /// parts of a set that are filtered one by one are held to one score. DataComp's is 0.3, by ViT-L-14 of `OpenAI`.
    #[arg(long, value_name = "SHARE", value_parser = part)]
    best: Option<f64>,
    #[command(flatten)]
    layout: LayoutArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// From -1 to 1.
fn cosine(text: &str) -> Result<f32, String> {
    let cosine = text.parse::<f32>().ok();
    cosine
        .filter(|cosine| (-1.0..=1.0).contains(cosine))
        .ok_or_else(|| "it must be a number from -1 to 1".to_owned())
}

/// Above 0, to 1.
fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok();
    part.filter(|part| *part > 0.0 && *part <= 1.0)
        .ok_or_else(|| "it must be a number above 0, and 1 at most".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = PackConfig {
        layout: args.layout.layout()?,
        ..PackConfig::default()
    };
    let shards = ShardSet::parse(&args.data)?;
    let scores = PairScores::read(&args.scores)?;
    let least = match (args.least, args.best) {
        (Some(least), _) => least,
        (None, share) => scores
            .least_of_best(share.unwrap_or(1.0))
            .context("none of the pairs had a score: are the shards empty?")?,
    };
    let mut unscored = 0_u64;
    let packed = pack_some(&shards, &config, &args.layout.out, |sample| {
        let score = scores.get(sample.pair_id());
        unscored += u64::from(score.is_none());
        score.is_some_and(|score| score >= least)
    });
    let packed =
        packed.with_context(|| format!("least score {least:.4}, {unscored} without one"))?;
    if unscored > 0 {
        log::warn!(
            "{unscored} samples have no score and are left out: they could not be used when their shard was scored, or are new \
             or changed since"
        );
    }
    let below = packed.unwanted - unscored;
    let pattern = args.layout.pattern(&packed.index);
    let mut json = layout::to_json(&pattern, &packed.index, &packed.faults);
    json["least"] = least.into();
    json["below"] = below.into();
    json["unscored"] = unscored.into();
    let mut rows = layout::rows(&pattern, &packed.index, &packed.faults);
    rows.push(["least score".to_owned(), format!("{least:.4}")]);
    rows.push(["pairs below it".to_owned(), below.to_string()]);
    rows.push(["pairs without one".to_owned(), unscored.to_string()]);
    layout::print(args.json, &json, &rows)
}
