//! timm's `ConvNeXt`.

mod layers;
mod network;
mod shape;

pub use layers::{ConvNeXtBlock, ConvNeXtDownsample, ConvNeXtNorm, ConvNeXtStage, ConvNeXtStem};
pub use network::{ConvNeXt, ConvNeXtTrunk};
pub use shape::ConvNeXtShape;
