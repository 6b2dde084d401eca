//! The embedded default dataset: rendered scenes of coloured shapes with varied captions, made from a seed alone.
//!
//! Some pairs of colour and shape never occur in training, so that zero-shot classification of them asks whether the
//! model composes what it learned.

mod caption;
mod config;
mod dataset;
mod distance;
mod draw;
mod generate;
mod manifest;
mod palette;
mod render;
mod scene;
mod shard;
mod split;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use config::ShapesConfig;
pub use dataset::ShapesDataset;
pub use generate::generate;
