//! Where samples come from: shard names, and the samples inside a shard.

mod archive;
mod class_folders;
mod columns;
mod folder;
mod input;
mod location;
#[cfg(not(feature = "object-store"))]
mod no_remote;
#[cfg(feature = "parquet")]
mod parquet;
mod pattern;
#[cfg(feature = "object-store")]
mod remote;
mod sample;
mod set;
mod shard;
mod table;
mod tar;
#[cfg(test)]
mod tests;

use input::Input;
use location::Location;
#[cfg(not(feature = "object-store"))]
pub use no_remote::RemoteFolder;
#[cfg(feature = "object-store")]
pub use remote::RemoteFolder;
pub use sample::RawSample;
pub(crate) use sample::is_image_extension;
pub(crate) use set::Source;
pub use set::{SIZES_FILE, ShardCount, ShardSet};
pub(crate) use shard::Bodies;
pub use shard::{ShardItem, ShardReader};
