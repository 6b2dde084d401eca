//! CLIP's encoders and contrastive losses, on [Burn](https://burn.dev).
//!
//! | the paper's term | here |
//! |---|---|
//! | image encoder | [`encoder::modified_resnet::ModifiedResNet`], [`encoder::VisionTransformer`] |
//! | text encoder | [`encoder::TextTransformer`]; others' models: [`encoder::TextEncoder`] |
//! | joint multi-modal embedding | [`Clip::encode_image`], [`Clip::encode_text`], then [`l2_normalize`] |
//! | temperature | [`Clip::logit_scale`] |
//! | symmetric cross-entropy over similarity scores (figure 3) | [`loss::InfoNce`] |
//! | captions of images (CoCa) | [`encoder::coca::MultimodalTransformer`], [`loss::caption_loss`], [`Captioner`] |
//! | pairwise sigmoid loss (SigLIP) | [`loss::SigLip`], [`Clip::logit_bias`] |
//! | RN50, ..., ViT-L/14@336px (tables 19 and 20) | [`presets`], [`ClipConfig`] |
//!
//! A model lives on a [`Device`](burn::tensor::Device), whose backend the program chooses.
//!
//! # References
//! Radford et al. 2021, [Learning Transferable Visual Models From Natural Language
//! Supervision](https://arxiv.org/abs/2103.00020).

#![forbid(unsafe_code)]

mod captioning;
mod clip;
mod config;
pub mod encoder;
mod error;
mod image_norm;
mod init;
#[cfg(test)]
mod init_tests;
mod interpolate;
pub mod loss;
mod precision;
mod preprocess;
pub mod presets;
mod products;
pub mod published;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod vision_variant_tests;
pub mod weights;

pub use captioning::{Captioner, Captioning, Draws, Search};
pub use clip::{
    Clip, INITIAL_LOGIT_SCALE, MAX_LOGIT_SCALE, SIGLIP_LOGIT_BIAS, SIGLIP_LOGIT_SCALE, l2_normalize,
};
pub use config::{
    ActKwargs, Approximate, ClipConfig, Difference, HfPooler, HfProjType, Layers, MultimodalConfig,
    NormKwargs, ProjType, TextConfig, TextPool, Tower, VisionConfig, VisionPool,
};
pub use error::ModelError;
pub use image_norm::{ImageNorm, SentPixels};
pub use init::Init;
pub use interpolate::interpolate;
pub use precision::Precision;
pub use preprocess::{Interpolation, Preprocess, ResizeMode};
