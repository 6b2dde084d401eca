//! Hugging Face's `CLIPModel`: its names and its configuration, both ways.

mod config;
mod names;
mod preprocessor;

pub use self::config::TextTokens;
pub(super) use self::{
    config::{from_config, mlp_ratio, to_config},
    names::{from_names, is_hugging_face, to_names},
    preprocessor::{from_preprocessor, to_preprocessor},
};
