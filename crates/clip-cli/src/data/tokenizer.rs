//! `clip data tokenizer`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::builder::RangedU64ValueParser;
use clip_data::{LEAST_VOCABULARY, Tokenizer};
use serde_json::json;

use super::{corpus::CorpusArgs, layout};
use crate::numbers;

#[derive(clap::Subcommand)]
pub(crate) enum TokenizerCommand {
    /// Learn a vocabulary from text, and write its tokenizer.json.
    Train(TrainArgs),
}

#[derive(clap::Args)]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Tokens of the vocabulary, with the special ones: a model's `vocab_size`.
    #[arg(long, value_name = "TOKENS", value_parser = RangedU64ValueParser::<usize>::new().range(LEAST_VOCABULARY as u64..))]
    vocab_size: usize,
    /// Texts to learn from at most: word frequencies don't change after that many.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = numbers::from_one::<usize>())]
    max_texts: usize,
    /// The tokenizer.json to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &TokenizerCommand) -> Result<()> {
    let TokenizerCommand::Train(args) = command;
    let mut texts = Vec::new();
    args.corpus.open()?.read(|text| {
        texts.push(text.to_owned());
        texts.len() < args.max_texts
    })?;
    let read = texts.len();
    let tokenizer = Tokenizer::train(texts.into_iter(), args.vocab_size)
        .with_context(|| format!("cannot learn a vocabulary from {}", args.corpus.named()))?;
    tokenizer.save(&args.out)?;
    let out = args.out.display().to_string();
    let row = |name: &str, value: String| [name.to_owned(), value];
    layout::print(
        args.json,
        &json!({ "out": out, "vocab_size": tokenizer.vocab_size(), "texts": read }),
        &[
            row("tokenizer", out.clone()),
            row("tokens", tokenizer.vocab_size().to_string()),
            row("texts read", read.to_string()),
        ],
    )
}
