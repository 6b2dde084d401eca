//! `clip data score`.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clip_data::ShardSet;
use clip_zeroshot::{ScoreConfig, ScoredShard, score_shards};
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
    /// The folder of the scores, a file a shard. An interrupted pass goes on when it is given again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images encoded at once. 64 fill a processor; a GPU wants more.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = numbers::from_one::<usize>())]
    batch: usize,
    /// Keep `image_features` and `text_features` in the files too, L2-normalised, as f32.
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
    let (mut bad, mut kept) = (0, 0);
    let mut told = Instant::now();
    let take = |shard: usize, scored: &ScoredShard| {
        all.extend_from_slice(&scored.scores);
        bad += scored.bad;
        kept += usize::from(scored.kept);
        if told.elapsed() >= TELL_EVERY {
            let (done, of) = (shard + 1, shards.len());
            log::info!("{done} of {of} shards scored, {} pairs", all.len());
            told = Instant::now();
        }
    };
    score_shards(&encoders, &shards, &config, &args.out, take)?;
    if kept > 0 {
        log::info!("{kept} of {} shards had their scores", shards.len());
    }
    all.sort_unstable_by(|a, b| b.total_cmp(a));
    let least = |share: f64| {
        let best = (all.len() as f64 * share).round() as usize;
        all.get(best.max(1) - 1).copied()
    };
    let mean = all.iter().map(|score| f64::from(*score)).sum::<f64>() / all.len().max(1) as f64;
    let out = args.out.display().to_string();
    let best = BEST.map(|share| json!({ "best": share, "least": least(share) }));
    let json = json!({
        "scores": out, "pairs": all.len(), "bad": bad, "mean": mean, "of_best": best,
    });
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("scores", out),
        row("pairs", all.len().to_string()),
        row("bad", bad.to_string()),
        row("mean score", format!("{mean:.4}")),
    ];
    rows.extend(BEST.iter().filter_map(|share| {
        let name = format!("  least of the best {:.0}%", 100.0 * share);
        Some([name, format!("{:.4}", least(*share)?)])
    }));
    layout::print(args.json, &json, &rows)
}
