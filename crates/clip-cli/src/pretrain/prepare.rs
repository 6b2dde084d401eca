use std::sync::Arc;

use anyhow::Result;
use clip_data::{ShardItem, ShardReader, ShardSet, Tokenizer};
use clip_model::{ClipConfig, presets::CLIP_VOCAB_SIZE};
use clip_train::RunDir;

/// Captions that a vocabulary is learned from at most: word frequencies don't change after that many.
const TOKENIZER_CAPTIONS: usize = 1_000_000;

/// The run's tokenizer: the one it began with, CLIP's own for models of its vocabulary, or one learned from the
/// training captions.
pub(super) fn tokenizer(
    run: &RunDir,
    model: &ClipConfig,
    shards: &ShardSet,
) -> Result<Arc<Tokenizer>> {
    let path = run.tokenizer();
    if path.exists() {
        return Ok(Arc::new(Tokenizer::load(&path)?));
    }
    let vocab_size = model.text_cfg.vocab_size;
    let tokenizer = if vocab_size == CLIP_VOCAB_SIZE {
        Tokenizer::clip()
    } else {
        Tokenizer::train(captions(shards)?.into_iter(), vocab_size)?
    };
    tokenizer.save(&path)?;
    Ok(Arc::new(tokenizer))
}

/// The captions of all samples, in shard order.
fn captions(shards: &ShardSet) -> Result<Vec<String>> {
    let mut captions = Vec::new();
    for (number, path) in shards.paths().iter().enumerate() {
        for item in ShardReader::open(path, number)? {
            if let ShardItem::Sample(sample) = item {
                captions.extend(sample.captions);
            }
            if captions.len() >= TOKENIZER_CAPTIONS {
                return Ok(captions);
            }
        }
    }
    Ok(captions)
}
