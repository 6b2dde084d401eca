//! How a run is seen while it goes: Burn's dashboard on a terminal, plain lines elsewhere, and
//! `metrics.jsonl` for programs.

mod display;
mod metrics;
mod metrics_log;
mod output;
mod plain;
mod terminal;

pub use display::Display;
pub(crate) use display::{Notes, RunPlan, renderer_for_run};
pub(crate) use metrics::{
    BatchLossMetric, CaptionLossMetric, DataWaitMetric, DistillLossMetric, GradNormMetric,
    ImagesPerSecondMetric, LearningRateMetric, LogitScaleMetric, NamedMetric,
};
pub(crate) use metrics_log::{MetricsLog, last_step};
pub use output::EvalOutput;
pub(crate) use output::StepOutput;
pub(crate) use plain::PlainRenderer;
pub use terminal::{end_dashboard, say_on_stderr};
