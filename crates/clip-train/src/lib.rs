//! Training CLIP: the exact contrastive step, its optimizer and schedule, and how a run is seen:
//! progress, metrics, TensorBoard events and `report.html`.

mod error;
mod optimizer;
pub mod progress;
pub mod report;
mod schedule;
mod step;
pub mod tensorboard;

pub use error::TrainError;
pub use optimizer::{Optimizer, OptimizerConfig};
pub use schedule::CosineSchedule;
pub use step::{ContrastiveStep, StepGradients};
