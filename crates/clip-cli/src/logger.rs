//! Logs on stderr, for people: one line each, the level in front unless it is mere information.

use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr {
    /// For the project's own crates.
    own: LevelFilter,
    /// For everything else, which says much that only its authors understand.
    others: LevelFilter,
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
        // Nobody is left to tell that stderr is closed.
        let _ = writeln!(std::io::stderr(), "{level}{}", record.args());
    }

    fn flush(&self) {}
}
