//! Image-caption shards, read so that nothing is lost silently.
//!
//! A [`ShardSet`] names WebDataset tars; a [`ShardReader`] yields each shard's samples and, for every
//! sample it can't use, the reason and the key.

mod decode;
mod error;
mod faults;
mod source;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use decode::{MAX_PIXELS, RgbImage, decode};
pub use error::DataError;
pub use faults::{FaultKind, FaultSummary};
pub use source::{RawSample, ShardItem, ShardReader, ShardSet};
pub use tokenizer::{Encoded, TOKENIZER_CONFIG_FILE, Tokenizer, clean_caption};
