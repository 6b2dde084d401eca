//! What the tools write into a new folder: shards, and their index.

mod index;
mod sha256;
mod shard_file;
mod writer;

pub use index::{INDEX_FILE, ShardIndex, ShardRecord};
pub(crate) use sha256::{hash_file, hex};
pub(crate) use shard_file::ShardFile;
pub use writer::ShardLayout;
pub(crate) use writer::{SampleWriter, image_extension};

use std::path::Path;

use crate::DataError;

/// [`clip_files::replace`], with the file in its error.
pub(crate) fn write_atomically(path: &Path, text: &str) -> Result<(), DataError> {
    Ok(clip_files::replace(path, text.as_bytes()).map_err(clip_files::io("write", path))?)
}
