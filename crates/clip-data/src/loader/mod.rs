//! Batches from shards: threads read, decode, crop and tokenize; batches come in order, whatever the timing.

mod batch;
mod config;
mod eval;
mod iter;
mod pipeline;
#[cfg(test)]
mod tests;
mod train;

pub use batch::{EvalBatch, ImageTextBatch};
pub use config::LoaderConfig;
pub use eval::{EvalLoader, EvalNeeds};
pub use train::TrainLoader;
