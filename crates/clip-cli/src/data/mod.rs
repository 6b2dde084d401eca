//! `clip data`: commands that make, check and balance data.

mod corpus;
mod curate;
mod doctor;
mod filter;
mod index;
mod layout;
mod pack;
mod queries;
mod score;
mod shapes;
mod tokenizer;

use anyhow::Result;

use crate::device::DeviceName;

#[derive(clap::Subcommand)]
pub(crate) enum Data {
    /// Render the dataset of coloured shapes that training uses when it is given none.
    Shapes(shapes::Args),
    /// Write samples as shards of a given size, with their images reduced or as they are.
    Pack(pack::Args),
    /// Count and hash shards into sizes.json and index.json beside them, or check them against it.
    Index(index::Args),
    /// Report what a set of shards holds and what is wrong with it; fails where too much is.
    Doctor(doctor::Args),
    /// Keep the pairs whose captions hold a query, and no more of a query than wanted.
    Curate(curate::Args),
    /// Say how well captions fit their images, by a model; features are kept too, where they are asked for.
    Score(score::Args),
    /// Keep the pairs whose scores are the best.
    Filter(filter::Args),
    /// Make a list of queries from text.
    Queries(queries::Args),
    /// Make vocabularies.
    #[command(subcommand)]
    Tokenizer(tokenizer::TokenizerCommand),
}

pub(crate) fn run(data: &Data, device: Option<DeviceName>) -> Result<()> {
    match data {
        Data::Shapes(args) => shapes::run(args),
        Data::Pack(args) => pack::run(args),
        Data::Index(args) => index::run(args),
        Data::Doctor(args) => doctor::run(args),
        Data::Curate(args) => curate::run(args),
        Data::Score(args) => score::run(args, device),
        Data::Filter(args) => filter::run(args),
        Data::Queries(args) => queries::run(args),
        Data::Tokenizer(command) => tokenizer::run(command),
    }
}
