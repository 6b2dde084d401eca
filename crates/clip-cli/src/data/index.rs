//! `clip data index`.

use anyhow::{Context, Result, bail};
use clip_data::{INDEX_FILE, ShardIndex, ShardSet};
use serde_json::json;

use super::layout::shown;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shards. Others of their folders that are indexed already stay so.
    #[arg(value_name = "SHARDS")]
    data: String,
    /// Write nothing, and fail if a shard isn't as index.json has it.
    #[arg(long)]
    check: bool,
    /// Print one JSON object a folder.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let folders = ShardIndex::by_folder(&ShardSet::parse(&args.data)?)
        .with_context(|| format!("cannot index {}", args.data))?;
    let mut differences = Vec::new();
    for (folder, mut index) in folders {
        let folder = shown(&folder);
        if args.check {
            let found = index.differences(&ShardIndex::read(folder)?);
            let describe = |(name, how)| format!("{}: {how}", folder.join(name).display());
            differences.extend(found.into_iter().map(describe));
        } else {
            index.merge_into(folder)?;
        }
        print(&folder.display().to_string(), &index, args.json)?;
    }
    if !differences.is_empty() {
        bail!(
            "{} shards aren't as {INDEX_FILE} has them:\n  {}",
            differences.len(),
            differences.join("\n  ")
        );
    }
    Ok(())
}

fn print(folder: &str, index: &ShardIndex, as_json: bool) -> Result<()> {
    if as_json {
        let line = json!({
            "folder": folder,
            "shards": index.shards.len(),
            "samples": index.samples(),
            "bytes": index.bytes(),
        });
        return output::line(&line.to_string());
    }
    output::line(&format!(
        "{folder}: {} samples in {} shards, {:.1} MB",
        index.samples(),
        index.shards.len(),
        index.bytes() as f64 / 1e6
    ))
}
