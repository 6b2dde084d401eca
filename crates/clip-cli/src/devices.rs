//! `clip devices`: which devices this build has and whether they work.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    device::{self, DeviceName, Started},
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object a device.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, device: Option<DeviceName>) -> Result<()> {
    let started = match device {
        Some(_) => vec![device::open(device)?],
        None => all()?,
    };
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

/// Those that work; what is wrong with the others is told.
fn all() -> Result<Vec<Started>> {
    let (started, failed) = device::open_all();
    for error in &failed {
        output::print_error(error);
    }
    ensure!(!started.is_empty(), "no device of this build works");
    Ok(started)
}
