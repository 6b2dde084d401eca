//! The state of a run as one unit on disk, which is whole or not there.
//!
//! A checkpoint is a folder `step-00000120` with the weights (`model.safetensors`, `OpenCLIP`'s names), the optimizer
//! (`optimizer.bin`) and `state.json`: position in the data, counters, and size and SHA-256 of the other two. It is
//! written under another name, synced, and renamed when complete; what doesn't match its checksums is never used.

mod folder;
mod unit;

pub use folder::Checkpoints;
pub use unit::{Checkpoint, RunState};
