//! See the crate's description.

pub mod progress;
pub mod report;
pub mod tensorboard;
