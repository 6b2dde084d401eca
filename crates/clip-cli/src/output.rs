//! What the program prints: results on stdout, errors on stderr. Never `println!`, which panics on a closed pipe.

use std::{
    io::{self, ErrorKind, Write},
    iter,
    path::Path,
};

use anyhow::Result;
use clip_report::Evaluation;
use unicode_width::UnicodeWidthStr;

/// Prints a line of results.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(Closed::or_error)
}

/// Prints rows with their columns aligned.
pub(crate) fn table<Row: AsRef<[String]>>(rows: &[Row]) -> Result<()> {
    let columns = rows.iter().map(|row| row.as_ref().len()).max();
    let mut widths = vec![0; columns.unwrap_or(0)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = cell.width().max(*width);
        }
    }
    for row in rows {
        let mut text = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            text.push_str(cell);
            // What a terminal shows, which `{:width$}` does not count.
            text.extend(std::iter::repeat_n(' ', width - cell.width() + 2));
        }
        line(text.trim_end())?;
    }
    Ok(())
}

/// Writes an evaluation's page and its drawings, where they are asked for.
pub(crate) fn page(page: &Evaluation, html: Option<&Path>, svg: Option<&Path>) -> Result<()> {
    if let Some(path) = html {
        page.write(path)?;
        log::info!("wrote {}", path.display());
    }
    if let Some(folder) = svg {
        let drawings = page.write_drawings(folder)?;
        log::info!("wrote {drawings} drawings into {}", folder.display());
    }
    Ok(())
}

/// Prints an error and its causes, and what to do about a disk that is full, which no place that writes says.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut stderr = io::stderr().lock();
    for line in told(error) {
        // Nobody is left to tell that stderr is closed.
        let _ = writeln!(stderr, "{line}");
    }
}

/// The lines of an error: one for itself, and one for each cause.
pub(crate) fn told(error: &anyhow::Error) -> Vec<String> {
    let reasons = clip_files::reasons(error.as_ref());
    let leads = iter::once("error").chain(iter::repeat("  cause"));
    let lines = leads.zip(reasons);
    let mut lines: Vec<String> = lines
        .map(|(lead, text)| format!("{lead}: {text}"))
        .collect();
    if error.chain().any(is_full_disk) {
        let remedy = if error.is::<ToStdout>() {
            "free some space where stdout goes, or send it elsewhere"
        } else {
            "free some space on that disk, or let it be written to another (such as by `--out`)"
        };
        lines.push(format!("  remedy: {remedy}"));
    }
    lines
}

fn is_full_disk(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    })
}

/// What was being done when stdout refused it.
#[derive(Debug)]
struct ToStdout;

impl std::fmt::Display for ToStdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot write to stdout")
    }
}

/// Whoever read stdout has closed it.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl std::error::Error for Closed {}

impl Closed {
    fn or_error(error: io::Error) -> anyhow::Error {
        if error.kind() == ErrorKind::BrokenPipe {
            return Self.into();
        }
        anyhow::Error::new(error).context(ToStdout)
    }
}

/// Whether the program failed because nobody reads its results any more.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.is::<Closed>()
}

#[cfg(test)]
mod tests {
    use clip_data::DataError;
    use clip_files::io as refused;
    use clip_train::TrainError;

    use super::*;

    #[test]
    fn a_full_disk_comes_with_its_remedy_whatever_was_written() {
        let failed = |kind| io::Error::new(kind, "the system's reason");
        let shard = |kind| DataError::from(refused("write", "out.tar")(failed(kind)));
        let full = ErrorKind::StorageFull;
        for error in [
            anyhow::Error::new(shard(full)),
            anyhow::Error::new(TrainError::Data(shard(ErrorKind::QuotaExceeded))),
            anyhow::Error::new(TrainError::Record(refused("write", "metrics.jsonl")(
                failed(full),
            )))
            .context("step 3"),
        ] {
            let lines = told(&error);
            assert!(
                lines[lines.len() - 1].contains("free some space"),
                "{lines:?}"
            );
        }
        let lines = told(&Closed::or_error(failed(full)).context("the scores"));
        assert_eq!(
            lines[lines.len() - 1],
            "  remedy: free some space where stdout goes, or send it elsewhere"
        );
        let lines = told(&shard(ErrorKind::PermissionDenied).into());
        let told = [
            "error: cannot write out.tar",
            "  cause: the system's reason",
        ];
        assert_eq!(lines, told);
    }
}
