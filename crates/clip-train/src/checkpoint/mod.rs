//! The state of a run as one unit on disk, which is whole or not there.
//!
//! A checkpoint is a folder `step-00000120` with the weights (`model.safetensors`, `OpenCLIP`'s names), the optimizer
//! (`optimizer.bpk`), averaged weights and adapters if the run has them (`ema.safetensors`, `adapters.safetensors`) and
//! `state.json`: position in the data, counters, and size and SHA-256 of the others. It is written under another name,
//! synced, and renamed when complete; what doesn't match its checksums is never used. A [`Mirror`] has copies of them
//! elsewhere.

mod bring;
mod copier;
mod folder;
mod mirror;
mod restore;
mod unit;
mod writer;

pub use copier::Copier;
pub use folder::Checkpoints;
pub(crate) use mirror::CHECKPOINTS;
pub use mirror::Mirror;
pub(crate) use unit::weights_of;
pub use unit::{Best, Checkpoint, Contents, Part, RunState};
pub(crate) use writer::Writer;
