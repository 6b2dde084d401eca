//! timm's `FastVit`: `MobileCLIP`'s convolutional image encoders.

mod attention;
mod conv_mlp;
mod kernel;
mod layers;
mod mobile_one;
mod network;
mod rep_mixer;
mod shape;
mod stage;

pub use attention::{AttentionBlock, FastVitNorm};
pub use conv_mlp::ConvMlp;
pub use layers::{ChannelScale, ConvNorm, PositionEncoding, SqueezeExcite};
pub use mobile_one::MobileOneBlock;
pub use network::{FastVit, FastVitHead, FastVitTrunk};
pub use rep_mixer::{RepMixer, RepMixerBlock};
pub use shape::{FASTVIT_EPSILON, FastVitShape, FastVitStageShape};
pub use stage::{FastVitBlock, FastVitDownsample, FastVitStage, LargeKernelConvolution};
