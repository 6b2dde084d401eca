//! Where the tools write: a folder that appears when it is whole, shards in it, and their index.

mod file;
mod folder;
mod index;
mod sha256;
mod shard_file;
mod writer;

pub(crate) use file::write_atomically;
pub(crate) use folder::OutputFolder;
pub use folder::abandon_folders;
pub use index::{INDEX_FILE, SIZES_FILE, ShardIndex, ShardRecord};
pub(crate) use sha256::{hash_file, hex};
pub(crate) use shard_file::ShardFile;
pub use writer::ShardLayout;
pub(crate) use writer::{SampleWriter, image_extension};
