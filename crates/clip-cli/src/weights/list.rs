//! `clip weights list`: weights that others publish.

use anyhow::Result;
use clip_model::{ClipConfig, presets, published};
use serde_json::json;

use crate::output;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Those of these presets only.
    #[arg(value_name = "PRESET")]
    names: Vec<String>,
    /// List the presets instead, the smallest first, with how many parameters each has.
    #[arg(long, conflicts_with = "names")]
    presets: bool,
    /// Print one JSON object each.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.presets {
        return list_presets(args.json);
    }
    for name in &args.names {
        // Refuses a name that isn't known, with the nearest that are.
        ClipConfig::load(name)?;
    }
    let asked =
        |preset: &str| args.names.is_empty() || args.names.iter().any(|name| name == preset);
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

fn list_presets(as_json: bool) -> Result<()> {
    let mut rows = vec![["preset", "parameters"].map(str::to_owned)];
    for preset in presets::names() {
        let params = ClipConfig::load(preset)?.num_params();
        if as_json {
            output::line(&json!({ "preset": preset, "params": params }).to_string())?;
        } else {
            rows.push([preset.to_owned(), params.to_string()]);
        }
    }
    if as_json {
        Ok(())
    } else {
        output::table(&rows)
    }
}
