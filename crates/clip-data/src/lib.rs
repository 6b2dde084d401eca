//! Image-caption shards, read so that nothing is lost silently.
//!
//! A [`ShardSet`] names WebDataset tars; a [`ShardReader`] yields each shard's samples and, for every
//! sample it can't use, the reason and the key. A [`TrainLoader`] makes batches of them in an order that
//! depends on the seed alone, and an [`EvalLoader`] in the shards' own.

#![forbid(unsafe_code)]

mod augment;
mod curate;
mod decode;
mod doctor;
mod error;
mod faults;
mod jpeg;
mod loader;
mod order;
mod output;
mod pack;
mod resize;
mod scan;
mod sequence;
pub mod shapes;
mod source;
mod stream;
mod surplus;
#[cfg(test)]
mod testing;
mod tokenizer;
mod transform;
mod watch;

pub use augment::{Adjustment, Augment};
pub use curate::{
    Corpus, CurateConfig, Curated, Queries, QueryConfig, QueryList, TABLE_FILE, build_queries,
    curate,
};
pub use decode::{MAX_NAMED_PIXELS, MAX_PIXELS, RgbImage, decode, decode_within, read_image};
pub use doctor::{
    BadSample, CaptionReport, Diagnosis, DoctorConfig, DuplicateReport, ImageReport, Summary, Twin,
    examine,
};
pub use error::DataError;
pub use faults::{FaultKind, FaultReport};
pub use loader::{EvalBatch, EvalLoader, EvalNeeds, ImageTextBatch, LoaderConfig, TrainLoader};
pub use order::Cursor;
pub use output::{INDEX_FILE, ShardIndex, ShardLayout, ShardRecord};
pub use pack::{PackConfig, Packed, pack, pack_some};
pub use source::{
    RawSample, RemoteFolder, SIZES_FILE, ShardCount, ShardItem, ShardReader, ShardSet,
};
pub use tokenizer::{Encoded, LEAST_VOCABULARY, TOKENIZER_CONFIG_FILE, Tokenizer, clean_caption};
pub use transform::{CropBox, CropDraws, ImageResizer, RandomResizedCrop, Resize};
