//! `clip devices`: which devices this build has and whether they work.

use anyhow::{Result, bail};
use serde_json::json;

use crate::{device, output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object a device.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (started, failed) = device::open_all();
    for error in &failed {
        output::print_error(error);
    }
    if started.is_empty() {
        bail!("no device of this build works");
    }
    let rows = started
        .iter()
        .map(|started| [started.name.to_string(), started.what.clone()]);
    if args.json {
        for [device, what] in rows {
            output::line(&json!({ "device": device, "what": what }).to_string())?;
        }
        return Ok(());
    }
    output::table(&rows.collect::<Vec<_>>())
}
