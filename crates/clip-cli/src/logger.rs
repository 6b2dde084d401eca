//! Logs on stderr, for people: one line each, the level in front unless it is mere information. While a run trains, its
//! directory keeps them too, and on a terminal that shows the dashboard they wait for its end.

use std::sync::OnceLock;

use clip_train::{RunLog, progress::say_on_stderr};
use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr {
    /// For the project's own crates.
    own: LevelFilter,
    /// For everything else, which says much that only its authors understand.
    others: LevelFilter,
}

/// That of the run that this program does.
static RUN: OnceLock<RunLog> = OnceLock::new();

/// From now on, what is logged is also kept with a run, and what ends this program too.
pub(crate) fn keep(log: &RunLog) {
    // A program does one run.
    let _ = RUN.set(log.clone());
}

/// Keeps what ends this program, which is told already.
pub(crate) fn fail(lines: &[String]) {
    if let Some(run) = RUN.get() {
        run.fail(lines);
    }
}

/// Keeps that something panicked, which is told already, and whether that ends this program.
pub(crate) fn panicked(told: &str, ends: bool) {
    let Some(run) = RUN.get() else { return };
    if ends {
        run.fail(&[told.to_owned()]);
    } else {
        run.say(told);
    }
}

/// Starts logging; `verbose` counts the `-v`.
pub(crate) fn init(verbose: u8, quiet: bool) {
    let (own, others) = match (quiet, verbose) {
        (true, _) => (LevelFilter::Error, LevelFilter::Error),
        (false, 0) => (LevelFilter::Info, LevelFilter::Error),
        (false, 1) => (LevelFilter::Debug, LevelFilter::Warn),
        (false, _) => (LevelFilter::Trace, LevelFilter::Debug),
    };
    log::set_max_level(own.max(others));
    // The only failure is a logger that was set before, and then that one logs.
    let _ = log::set_boxed_logger(Box::new(Stderr { own, others }));
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("clip");
        metadata.level() <= if own { self.own } else { self.others }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            Level::Info => "",
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        let line = format!("{level}{}", record.args());
        if let Some(run) = RUN.get() {
            run.say(&line);
        }
        say_on_stderr(line);
    }

    fn flush(&self) {}
}
