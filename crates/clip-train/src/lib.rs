//! Training CLIP: the exact contrastive step, its optimizer and schedule, a run with its configuration and
//! checkpoints, and how it is seen: progress, metrics and TensorBoard events.

#![forbid(unsafe_code)]

mod aside;
pub mod checkpoint;
pub mod config;
mod ema;
mod error;
mod guard;
mod memory;
mod optimizer;
mod process;
pub mod progress;
mod run;
mod schedule;
mod step;
mod tensorboard;

pub use aside::{Aside, Pending};
pub use ema::Ema;
pub use error::TrainError;
pub use memory::{ChunkPlan, KeptByBlocks, StepMemory};
pub(crate) use optimizer::HostAdapters;
pub use optimizer::{
    LoraConfig, Optimizer, OptimizerConfig, OptimizerKind, OptimizerState, Target,
};
pub use process::{peak_memory, peak_memory_of};
pub use run::{
    CheckpointModel, Evaluate, EvaluateError, EvaluationStopped, NamedDevice, NotFinite, RunDir,
    RunLog, Standing, Trained, Training,
};
pub use schedule::{Decay, Schedule};
pub use step::{
    Captions, CocaWeights, ContrastiveStep, Images, KeptPatches, KeptPaths, PairBatch,
    PatchDropout, StepGradients, StochasticDepth, Teacher, computes_on_device, innermost_cause,
};
