//! How a run is seen while it goes: Burn's dashboard on a terminal, plain lines elsewhere, and
//! `metrics.jsonl` for programs.

mod display;
mod metrics;
mod metrics_log;
mod output;
mod plain;
mod terminal;

pub use display::{Display, Notes, RunPlan, renderer_for_run};
pub use metrics::{
    BatchLossMetric, CaptionLossMetric, DataWaitMetric, DistillLossMetric, GradNormMetric,
    ImagesPerSecondMetric, LearningRateMetric, LogitScaleMetric, NamedMetric, NamedValues,
    Quantity, QuantityMetric, Reading, quantity,
};
pub(crate) use metrics_log::last_step;
pub use metrics_log::{MetricsLog, Resumed};
pub use output::{EvalOutput, StepOutput};
pub use plain::PlainRenderer;
pub use terminal::{end_dashboard, say_on_stderr};
