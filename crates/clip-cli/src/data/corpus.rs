//! Where text to learn from comes from: flags of several commands.

use std::path::PathBuf;

use anyhow::Result;
use clip_data::{Corpus, ShardSet};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("corpus").required(true).multiple(true).args(["text", "data"])))]
pub(crate) struct CorpusArgs {
    /// Text files, plain or .gz; each line is a text.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Shards whose captions are texts.
    #[arg(long, value_name = "SHARDS")]
    data: Option<String>,
}

impl CorpusArgs {
    /// All files and shards, for errors.
    pub(crate) fn named(&self) -> String {
        let texts = self.text.iter().map(|path| path.display().to_string());
        let all: Vec<String> = texts.chain(self.data.clone()).collect();
        all.join(", ")
    }

    pub(crate) fn open(&self) -> Result<Corpus> {
        Ok(Corpus {
            texts: self.text.clone(),
            shards: self.data.as_deref().map(ShardSet::parse).transpose()?,
        })
    }
}
