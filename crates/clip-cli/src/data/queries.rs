//! `clip data queries`.

use std::path::PathBuf;

use anyhow::Result;
use clip_data::{QueryConfig, build_queries};
use serde_json::json;

use super::{corpus::CorpusArgs, layout};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// A file of titles, one a line, that are queries too.
    #[arg(long, value_name = "FILE")]
    titles: Option<PathBuf>,
    /// Times that a word or a pair of words must occur.
    #[arg(long, value_name = "N", default_value_t = QueryConfig::default().min_count)]
    min_count: u64,
    /// Word pairs at most: those with the most mutual information.
    #[arg(long, value_name = "N", default_value_t = QueryConfig::default().max_bigrams)]
    bigrams: usize,
    /// The list to write, a query a line.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = QueryConfig {
        min_count: args.min_count,
        max_bigrams: args.bigrams,
    };
    let list = build_queries(&args.corpus.open()?, args.titles.as_deref(), config)?;
    let mut text = list.queries.join("\n");
    text.push('\n');
    clip_files::replace(&args.out, text.as_bytes())?;
    let out = args.out.display().to_string();
    let row = |name: &str, value: usize| [name.to_owned(), value.to_string()];
    layout::print(
        args.json,
        &json!({
            "out": out,
            "queries": list.queries.len(),
            "words": list.words,
            "bigrams": list.bigrams,
            "titles": list.titles,
        }),
        &[
            ["list".to_owned(), out.clone()],
            row("queries", list.queries.len()),
            row("  words", list.words),
            row("  word pairs", list.bigrams),
            row("  titles", list.titles),
        ],
    )
}
