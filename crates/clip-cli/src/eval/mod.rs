//! `clip eval`: the paper's evaluations on shards.

mod retrieval;
mod zeroshot;

use anyhow::Result;

use crate::device::DeviceName;

#[derive(clap::Subcommand)]
pub(crate) enum Eval {
    /// Find each image's captions, and each caption's image, among all of the shards.
    Retrieval(retrieval::Args),
    /// Classify images by the names of their classes.
    Zeroshot(zeroshot::Args),
}

pub(crate) fn run(eval: &Eval, device: Option<DeviceName>) -> Result<()> {
    match eval {
        Eval::Retrieval(args) => retrieval::run(args, device),
        Eval::Zeroshot(args) => zeroshot::run(args, device),
    }
}
