//! Where samples come from: shard names, and the samples inside a shard.

mod pattern;
mod shard;

pub use pattern::ShardSet;
pub use shard::{RawSample, ShardItem, ShardReader};
