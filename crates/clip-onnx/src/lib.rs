//! CLIP's two encoders as [ONNX](https://onnx.ai) files, for machines with neither Python nor Rust.
//!
//! | file | input | output |
//! |---|---|---|
//! | [`IMAGE_FILE`] | `pixel_values` `[batch, 3, image_size, image_size]` | `image_embeds` `[batch, embed_dim]` |
//! | [`TEXT_FILE`] | `input_ids` `[batch, tokens]` | `text_embeds` `[batch, embed_dim]` |
//!
//! Both outputs are L2-normalised, and inputs and outputs have the names that transformers' exporter gives them. A tower is
//! written from its configuration and the weights by OpenCLIP's names, operator by operator: no tracing, no tensors.

#![forbid(unsafe_code)]

mod convnext;
mod error;
mod export;
mod fastvit;
mod file;
mod graph;
mod layers;
mod modified_resnet;
mod onnx;
mod operators;
mod proto;
mod siglip;
#[cfg(test)]
mod tests;
mod text;
mod timm_vit;
mod transformer;
mod vision;
mod vitamin;
mod weights;

pub use self::{
    error::OnnxError,
    export::{IMAGE_FILE, TEXT_FILE, export},
};
