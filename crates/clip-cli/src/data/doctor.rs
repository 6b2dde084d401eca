//! `clip data doctor`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clip_data::{Diagnosis, DoctorConfig, ShardSet, Summary, Tokenizer, examine};
use clip_metrics::percent;

use crate::{numbers, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shards to look at.
    #[arg(value_name = "SHARDS")]
    data: String,
    /// Fail if a larger share of the samples is bad. A shard that is cut off or can't be read to its end fails at any
    /// share: what is missing isn't counted.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = numbers::share)]
    max_bad: f64,
    /// The tokenizer that captions are measured with: a tokenizer.json, a folder with vocab.json and merges.txt, or
    /// OpenAI's list of merges (.txt.gz). CLIP's own by default.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Tokens that the model sees of a caption.
    #[arg(long, value_name = "TOKENS", default_value_t = DoctorConfig::default().context_length)]
    context_length: usize,
    /// Bad samples that are listed at most, and duplicates of each kind.
    #[arg(long, value_name = "N", default_value_t = DoctorConfig::default().listed)]
    list: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let shards = ShardSet::parse(&args.data)?;
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::load(path)?,
        None => Tokenizer::clip(),
    };
    let config = DoctorConfig {
        context_length: args.context_length,
        listed: args.list,
    };
    let found = examine(&shards, &tokenizer, &config)?;
    if args.json {
        output::line(&serde_json::to_string(&found)?)?;
    } else {
        print(&found)?;
    }
    if found.bad == found.samples {
        bail!("{} holds no usable sample", args.data);
    }
    if found.bad_share > args.max_bad {
        bail!(
            "{} of {} samples are bad, more than the allowed share of {} (--max-bad)",
            found.bad,
            found.samples,
            args.max_bad
        );
    }
    if let Some(shards) = found.broken_shards() {
        bail!(
            "not whole: {shards}; what is missing counts as one bad sample a shard, however many it was. \
             Fetch or pack these shards again, or leave them out"
        );
    }
    Ok(())
}

fn print(found: &Diagnosis) -> Result<()> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("samples", found.samples.to_string()),
        row(
            "bad",
            format!("{} ({})", found.bad, percent(found.bad_share)),
        ),
    ];
    for (kind, count) in &found.kinds {
        rows.push(row(&format!("  {kind}"), count.to_string()));
    }
    let captions = &found.captions;
    rows.extend([
        row("with a class", found.classes.to_string()),
        row("image width, pixels", summary(found.images.width)),
        row("image height, pixels", summary(found.images.height)),
        row("shorter side, pixels", summary(found.images.shorter_side)),
        row("image size, bytes", summary(found.images.bytes)),
        row("captions", captions.captions.to_string()),
        row("caption length, tokens", summary(captions.tokens)),
        row(
            &format!("longer than {} tokens", captions.context_length),
            format!(
                "{} ({})",
                captions.truncated,
                percent(captions.truncated_share)
            ),
        ),
        row("exact duplicates", found.duplicates.exact.to_string()),
        row("near-duplicates", found.duplicates.near.to_string()),
    ]);
    output::table(&rows)?;
    if !found.bad_samples.is_empty() {
        output::line(&format!(
            "\nthe first {} bad samples:",
            found.bad_samples.len()
        ))?;
    }
    for bad in &found.bad_samples {
        output::line(&format!("  {}: `{}`: {}", bad.shard, bad.key, bad.kind))?;
    }
    if !found.duplicates.twins.is_empty() {
        output::line(&format!(
            "\nthe first {} duplicates:",
            found.duplicates.twins.len()
        ))?;
    }
    for twin in &found.duplicates.twins {
        let likeness = if twin.exact { "is" } else { "looks like" };
        output::line(&format!(
            "  {}: `{}` {likeness} `{}` of {}",
            twin.shard, twin.key, twin.first_key, twin.first_shard
        ))?;
    }
    Ok(())
}

fn summary(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "-".to_owned(),
        |s| {
            format!(
                "min {}, 5% {}, median {}, 95% {}, max {}, mean {:.1}",
                s.min, s.p5, s.median, s.p95, s.max, s.mean
            )
        },
    )
}
