//! See the crate's description.

pub mod progress;
pub mod tensorboard;
