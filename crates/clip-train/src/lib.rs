//! How a training run is seen: progress, metrics, TensorBoard events and `report.html`.

pub mod progress;
pub mod report;
pub mod tensorboard;
