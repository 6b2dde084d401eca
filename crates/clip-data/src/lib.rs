//! Image-caption shards, read so that nothing is lost silently.
//!
//! A [`ShardSet`] names WebDataset tars; a [`ShardReader`] yields each shard's samples and, for every
//! sample it can't use, the reason and the key. A [`TrainLoader`] makes batches of them in an order that
//! depends on the seed alone, and an [`EvalLoader`] in the shards' own.

mod augment;
mod decode;
mod error;
mod faults;
mod loader;
mod order;
mod sequence;
pub mod shapes;
mod source;
mod stream;
#[cfg(test)]
mod testing;
mod tokenizer;
mod transform;
mod watch;

pub use augment::{Adjustment, Augment};
pub use decode::{MAX_PIXELS, RgbImage, decode, read_image};
pub use error::DataError;
pub use faults::{FaultKind, FaultReport};
pub use loader::{EvalBatch, EvalLoader, EvalNeeds, ImageTextBatch, LoaderConfig, TrainLoader};
pub use order::Cursor;
pub use source::{RawSample, ShardCount, ShardItem, ShardReader, ShardSet};
pub use tokenizer::{Encoded, TOKENIZER_CONFIG_FILE, Tokenizer, clean_caption};
pub use transform::{CropBox, CropDraws, ImageResizer, RandomResizedCrop};
