//! Where samples come from: shard names, and the samples inside a shard.

mod pattern;
mod sample;
mod shard;
mod tar;

pub use pattern::{ShardCount, ShardSet};
pub use sample::RawSample;
pub use shard::{ShardItem, ShardReader};
