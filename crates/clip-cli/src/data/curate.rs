//! `clip data curate`.

use std::path::PathBuf;

use anyhow::Result;
use clip_data::{CurateConfig, Queries, ShardSet, TABLE_FILE, curate};

use super::layout::{self, LayoutArgs};
use crate::numbers;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The raw shards.
    #[arg(value_name = "SHARDS")]
    data: String,
    /// The queries: one a line, or a JSON list. `clip data queries` makes such a list.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Pairs that a query takes at most, in expectation.
    #[arg(long, value_name = "T", default_value_t = CurateConfig::default().per_query,
        value_parser = numbers::from_one::<u64>())]
    per_query: u64,
    /// Decides which pairs.
    #[arg(long, default_value_t = CurateConfig::default().seed)]
    seed: u64,
    #[command(flatten)]
    layout: LayoutArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = CurateConfig {
        per_query: args.per_query,
        seed: args.seed,
        layout: args.layout.layout()?,
    };
    let shards = ShardSet::parse(&args.data)?;
    let queries = Queries::load(&args.queries)?;
    if queries.repeated() > 0 {
        let (repeated, path) = (queries.repeated(), args.queries.display());
        log::warn!(
            "{path}: {repeated} queries stand in it before, in lower case and without extra spaces"
        );
    }
    let made = curate(&shards, &queries, &config, &args.layout.out)?;
    let pattern = args.layout.pattern(&made.index);
    let table = args.layout.out.join(TABLE_FILE).display().to_string();
    let mut json = layout::to_json(&pattern, &made.index, &made.faults);
    json["matched"] = made.matched.into();
    json["queries"] = queries.queries().len().into();
    json["unused_queries"] = made.unused.into();
    json["frequent_queries"] = made.frequent.into();
    json["table"] = table.clone().into();
    let mut rows = layout::rows(&pattern, &made.index, &made.faults);
    let row = |name: &str, value: String| [name.to_owned(), value];
    rows.extend([
        row("pairs with a query", made.matched.to_string()),
        row("queries", queries.queries().len().to_string()),
        row("  in no pair", made.unused.to_string()),
        row(
            &format!("  in more than {}", args.per_query),
            made.frequent.to_string(),
        ),
        row("table", table),
    ]);
    layout::print(args.json, &json, &rows)
}
