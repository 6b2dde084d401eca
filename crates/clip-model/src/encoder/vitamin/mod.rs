//! timm's `ViTamin`: convolutions at first, then a transformer.

mod block;
mod convolutions;
mod network;
mod shape;

pub use block::{GeGlu, ViTaminBlock};
pub use convolutions::{
    HybridEmbed, MbConvBlock, MbConvStages, MbConvStem, PooledPath, StridedConv,
};
pub use network::{ViTamin, ViTaminTrunk};
pub use shape::{VITAMIN_DEPTHS, VITAMIN_EPSILON, ViTaminShape};
