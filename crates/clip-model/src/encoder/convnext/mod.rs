//! timm's `ConvNeXt`.

mod layers;
mod network;
mod shape;

pub use layers::{
    ConvNeXtBlock, ConvNeXtDownsample, ConvNeXtHead, ConvNeXtNorm, ConvNeXtStage, ConvNeXtStem,
    DepthwiseConvolution,
};
pub use network::{ConvNeXt, ConvNeXtTrunk};
pub use shape::{ConvNeXtProjection, ConvNeXtShape};
