//! How new shards are laid out, and what is said of them: shared by the commands that write shards.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clip_data::{FaultReport, ShardIndex, ShardLayout};
use serde_json::{Value, json};

use crate::{numbers, output, usage::WrongUsage};

#[derive(clap::Args)]
pub(crate) struct LayoutArgs {
    /// The folder to write: new or empty. It appears when it is whole.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// What the shards' names begin with.
    #[arg(long, value_name = "NAME", default_value_t = ShardLayout::default().name)]
    name: String,
    /// Most samples of a shard.
    #[arg(long, value_name = "N", default_value_t = ShardLayout::default().max_samples,
        value_parser = numbers::from_one::<usize>())]
    shard_samples: usize,
    /// Most megabytes (10^6 bytes) of a shard; no limit by default.
    #[arg(long, value_name = "MB", value_parser = numbers::from_one::<u64>())]
    shard_mb: Option<u64>,
    /// Number the samples anew instead of keeping their keys, which several sources may share.
    #[arg(long)]
    renumber: bool,
}

impl LayoutArgs {
    pub(crate) fn layout(&self) -> Result<ShardLayout, WrongUsage> {
        let megabytes = |mb: u64| mb.saturating_mul(1_000_000);
        let layout = ShardLayout {
            name: self.name.clone(),
            max_samples: self.shard_samples,
            max_bytes: self.shard_mb.map_or(u64::MAX, megabytes),
            renumber: self.renumber,
        };
        match layout.validate() {
            Ok(()) => Ok(layout),
            Err(error) => Err(WrongUsage(format!("--{error}"))),
        }
    }

    /// The new shards, as other commands take them.
    pub(crate) fn pattern(&self, index: &ShardIndex) -> String {
        let pattern = match index.shards.len() {
            1 => format!("{}-000000.tar", self.name),
            shards => format!("{}-{{000000..{:06}}}.tar", self.name, shards - 1),
        };
        self.out.join(pattern).display().to_string()
    }
}

/// What every command says of the shards that it wrote, as JSON.
pub(crate) fn to_json(pattern: &str, index: &ShardIndex, faults: &FaultReport) -> Value {
    json!({
        "shards": pattern,
        "samples": index.samples(),
        "bytes": index.bytes(),
        "read": faults.samples,
        "bad": faults.bad(),
        "kinds": faults.kinds(),
    })
}

/// The same for people.
pub(crate) fn rows(pattern: &str, index: &ShardIndex, faults: &FaultReport) -> Vec<[String; 2]> {
    let mut rows = vec![
        ["shards".to_owned(), pattern.to_owned()],
        ["samples".to_owned(), index.samples().to_string()],
        [
            "megabytes".to_owned(),
            format!("{:.1}", index.bytes() as f64 / 1e6),
        ],
        ["left out".to_owned(), faults.bad().to_string()],
    ];
    for (kind, count) in faults.kinds() {
        rows.push([format!("  {kind}"), count.to_string()]);
    }
    rows
}

/// Prints one or the other.
pub(crate) fn print(as_json: bool, json: &Value, rows: &[[String; 2]]) -> Result<()> {
    if as_json {
        return output::line(&json.to_string());
    }
    output::table(rows)
}

/// The folder of a shard, for messages and for the index.
pub(crate) fn shown(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() {
        return Path::new(".");
    }
    folder
}
