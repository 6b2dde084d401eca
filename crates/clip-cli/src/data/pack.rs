//! `clip data pack`.

use anyhow::Result;
use clip_data::{PackConfig, ShardSet, pack};

use super::layout::{self, LayoutArgs};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to pack.
    #[arg(value_name = "DATA")]
    data: String,
    #[command(flatten)]
    layout: LayoutArgs,
    /// Reduce images whose shorter side is longer than this, to JPEG; others keep their bytes. By default all do, and
    /// are told by their first bytes alone: with this, images that can't be decoded are left out.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..))]
    resize: Option<u32>,
    /// Quality of the JPEGs that reduced images become, from 1 to 100.
    #[arg(long, value_name = "Q", requires = "resize", default_value_t = PackConfig::default().jpeg_quality,
        value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = PackConfig {
        layout: args.layout.layout()?,
        resize: args.resize,
        jpeg_quality: args.quality,
    };
    let packed = pack(&ShardSet::parse(&args.data)?, &config, &args.layout.out)?;
    let pattern = args.layout.pattern(&packed.index);
    layout::print(
        args.json,
        &layout::to_json(&pattern, &packed.index, &packed.faults),
        &layout::rows(&pattern, &packed.index, &packed.faults),
    )
}
