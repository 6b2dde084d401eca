//! Hugging Face's `CLIPModel`: its names and its configuration, both ways.

mod config;
mod names;

pub use self::config::TextTokens;
pub(super) use self::{
    config::{from_config, image_norm, mlp_ratio, to_config, to_preprocessor},
    names::{from_names, is_hugging_face, to_names},
};
