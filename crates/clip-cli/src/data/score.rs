//! `clip data score`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clip_data::ShardSet;
use clip_zeroshot::{ScoreConfig, ScoredShard, least_of_best, score_shards};
use serde_json::json;

use super::layout;
use crate::{device::DeviceName, model::EncoderArgs, numbers};

/// Shares of the pairs whose least score is told: DataComp's best 30%, and those around it.
const BEST: [f64; 5] = [0.1, 0.2, 0.3, 0.5, 0.9];

/// How often it is said how far the shards are.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shards.
    #[arg(value_name = "SHARDS")]
    data: String,
    #[command(flatten)]
    model: EncoderArgs,
    /// The folder of the scores, new or empty, a file a shard. An interrupted pass goes on when it is given again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images encoded at once. 64 fill a processor; a GPU wants more.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = numbers::from_one::<usize>())]
    batch: usize,
    /// Keep `image_features` and `text_features` in files beside them too, L2-normalised, as f32.
    #[arg(long)]
    features: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let shards = ShardSet::parse(&args.data)?;
    let encoders = args.model.load(device)?;
    let config = ScoreConfig {
        batch: args.batch,
        features: args.features,
    };
    let mut all = Vec::new();
    let (mut bad, mut there) = (0, 0);
    let mut told = Instant::now();
    let take = |shard: usize, of: usize, scored: &ScoredShard| {
        all.extend_from_slice(&scored.scores);
        bad += scored.bad;
        there += usize::from(scored.was_there);
        if told.elapsed() >= TELL_EVERY {
            log::info!("{} of {of} shards scored, {} pairs", shard + 1, all.len());
            told = Instant::now();
        }
    };
    score_shards(&encoders, &shards, &config, &args.out, take)?;
    if there > 0 {
        log::info!("{there} shards had their scores");
    }
    let (pairs, sum) = (
        all.len(),
        all.iter().map(|score| f64::from(*score)).sum::<f64>(),
    );
    let mean = sum / pairs.max(1) as f64;
    let least = BEST.map(|share| (share, least_of_best(&mut all, share)));
    let out = args.out.display().to_string();
    let best = least.map(|(share, least)| json!({ "best": share, "least": least }));
    let json = json!({
        "scores": out, "pairs": pairs, "bad": bad, "mean": mean, "of_best": best,
    });
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("scores", out),
        row("pairs", pairs.to_string()),
        row("bad", bad.to_string()),
        row("mean score", format!("{mean:.4}")),
    ];
    rows.extend(least.into_iter().filter_map(|(share, least)| {
        let name = format!("  least of the best {:.0}%", 100.0 * share);
        Some([name, format!("{:.4}", least?)])
    }));
    layout::print(args.json, &json, &rows)
}
