//! What the tools write into a new folder: shards, and their index.

mod index;
mod shard_file;
mod writer;

pub use index::{INDEX_FILE, ShardIndex, ShardRecord};
pub(crate) use shard_file::ShardFile;
pub use writer::ShardLayout;
pub(crate) use writer::{SampleWriter, image_extension};
