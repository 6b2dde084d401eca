//! Ctrl-C, and a request to terminate: the program ends with 130.

use anyhow::{Context, Result};

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// From now on an interruption ends the program at once. Files are renamed when complete, so none is left torn.
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| std::process::exit(INTERRUPTED)).context("cannot watch for Ctrl-C")
}
