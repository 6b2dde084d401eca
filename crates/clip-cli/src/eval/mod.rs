//! `clip eval`: the paper's evaluations on shards.

mod probe;
mod retrieval;
mod zeroshot;

use anyhow::Result;

use crate::device::DeviceName;

#[derive(clap::Subcommand)]
pub(crate) enum Eval {
    /// Fit a linear classifier to frozen image features: the paper's linear probe.
    Probe(Box<probe::Args>),
    /// Find each image's captions, and each caption's image, among all of the shards.
    Retrieval(retrieval::Args),
    /// Classify images by the names of their classes.
    Zeroshot(Box<zeroshot::Args>),
}

pub(crate) fn run(eval: &Eval, device: Option<DeviceName>) -> Result<()> {
    match eval {
        Eval::Probe(args) => probe::run(args, device),
        Eval::Retrieval(args) => retrieval::run(args, device),
        Eval::Zeroshot(args) => zeroshot::run(args, device),
    }
}
