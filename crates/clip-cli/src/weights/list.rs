//! `clip weights list`: weights that others publish.

use anyhow::Result;
use clip_model::{ClipConfig, published};
use serde_json::json;

use crate::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Those of these presets only.
    #[arg(value_name = "PRESET")]
    presets: Vec<String>,
    /// Print one JSON object each.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    for name in &args.presets {
        // Refuses a name that isn't known, with those that are.
        ClipConfig::load(name)?;
    }
    let asked =
        |preset: &str| args.presets.is_empty() || args.presets.iter().any(|name| name == preset);
    let found: Vec<_> = published::all().filter(|it| asked(it.preset)).collect();
    if args.json {
        for it in &found {
            let source = format!("{}:{}", it.preset, it.tag);
            let object =
                json!({ "source": source, "preset": it.preset, "tag": it.tag, "hub": it.hub });
            output::line(&object.to_string())?;
        }
        return Ok(());
    }
    let rows = found
        .iter()
        .map(|it| [format!("{}:{}", it.preset, it.tag), it.hub.to_owned()]);
    let head = ["weights", "on the Hugging Face hub"].map(str::to_owned);
    output::table(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}
