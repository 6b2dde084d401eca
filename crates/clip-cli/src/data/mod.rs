//! `clip data`: commands that make data.

mod shapes;

use anyhow::Result;

#[derive(clap::Subcommand)]
pub(crate) enum Data {
    /// Render the dataset of coloured shapes that training uses when it is given none.
    Shapes(shapes::Args),
}

pub(crate) fn run(data: &Data) -> Result<()> {
    match data {
        Data::Shapes(args) => shapes::run(args),
    }
}
