//! timm's `VisionTransformer` with a class token: those of `MobileCLIP` and `MobileCLIP2`.

mod network;
mod patch_embed;
mod shape;

pub use network::{TimmVisionTransformer, TimmVitTrunk};
pub use patch_embed::{ConvStem, ConvStemLayer, TimmPatchEmbed};
pub use shape::{TimmVitShape, TimmVitStem};
