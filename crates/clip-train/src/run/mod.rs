//! A training run: its directory, and the loop that Burn's learner drives.

mod ahead;
mod checkpoint_model;
mod dir;
mod learner;
mod log;
mod plan;
mod records;
mod recover;
mod standing;
mod steps;
mod strategy;
mod tell;
mod train;
mod unlogged;

pub use checkpoint_model::CheckpointModel;
pub use dir::RunDir;
pub(crate) use dir::{CHECKPOINTED, CONFIG};
pub(crate) use learner::ContrastiveLearner;
pub use learner::NamedDevice;
pub use log::RunLog;
pub use standing::Standing;
pub use train::{Evaluate, EvaluateError, EvaluationStopped, NotFinite, Trained, Training};
