//! Ctrl-C, a request to terminate and a terminal that hangs up: the program ends with 130.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use burn::train::Interrupter;

/// What a shell reports for a program that Ctrl-C ended.
pub(crate) const INTERRUPTED: u8 = 130;

/// The training that an interruption asks to stop.
static TRAINING: Mutex<Option<Interrupter>> = Mutex::new(None);

/// From now on an interruption ends the program at once, except while something trains: then it ends the step or the
/// evaluation at hand and writes a checkpoint, and a second one ends the program. Files and folders are renamed when
/// complete, so none is torn, and nothing is left of those that aren't.
pub(crate) fn install() -> Result<()> {
    watch().context("cannot watch for Ctrl-C")
}

/// Has a thread answer each interruption.
fn watch() -> io::Result<()> {
    #[cfg(unix)]
    watch_termination()?;
    ctrlc::set_handler(interrupted).map_err(io::Error::other)
}

#[cfg(unix)]
fn watch_termination() -> io::Result<()> {
    use signal_hook::{
        consts::{SIGHUP, SIGTERM},
        iterator::Signals,
    };

    let mut signals = Signals::new([SIGTERM])?;
    // What `nohup` has it ignore is not to be heard again.
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    let answer = move || signals.forever().for_each(|_| interrupted());
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(answer).map(drop)
}

/// Whether this program was started to ignore a signal; `false` where the system has no file that tells it, as Linux has.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn interrupted() {
    let training = TRAINING.lock().unwrap_or_else(PoisonError::into_inner);
    match &*training {
        Some(interrupter) if !interrupter.should_stop() => {
            log::info!("stopping after this step, with a checkpoint; once more to quit at once");
            interrupter.stop(Some("interrupted"));
        }
        begun => {
            // Until the end, so that nothing is drawn over what comes now.
            let _stdout = clip_train::progress::end_dashboard();
            if begun.is_some() {
                log::warn!(
                    "quitting before the checkpoint was written; `--resume` goes on from the one before"
                );
            }
            clip_files::abandon();
            std::process::exit(i32::from(INTERRUPTED))
        }
    }
}

/// Lets an interruption stop a training through what is returned, until [`training_ended`].
pub(crate) fn training_begins() -> Interrupter {
    let interrupter = Interrupter::new();
    *TRAINING.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupter.clone());
    interrupter
}

/// From now on an interruption ends the program at once.
pub(crate) fn training_ended() {
    *TRAINING.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The program did what Ctrl-C asked for.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
