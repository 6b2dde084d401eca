//! `clip search check`: what an approximate index misses, and what it saves.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use clip_zeroshot::{ApproximateIndex, Found, ImageIndex};
use serde_json::json;

use super::{index_file, opened};
use crate::{numbers, output};

/// Cosines that differ by less are of images equally near: rounding alone makes so much of a difference.
const TIE: f32 = 1e-6;

#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    /// The indexed folder.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The index file, in place of the one in the folder.
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Queries: the features of so many of the images, evenly spaced, each of which searches the others.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = numbers::from_one::<usize>())]
    queries: usize,
    /// Images that a query asks for.
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = numbers::from_one::<usize>())]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let file = index_file(&args.dir, args.index.as_deref());
    opened::exists(&file)?;
    let approximate = ApproximateIndex::open(&file)?.with_context(|| {
        format!(
            "{} has no codes, so every query of it is exact: make them with `clip search index --approximate`",
            file.display()
        )
    })?;
    let exact = ImageIndex::load(&file)?;
    let images = exact.images().len();
    ensure!(images > 1, "there is nothing to check: it takes two images");
    let queries = args.queries.min(images);
    let (mut expected, mut hits) = (0, 0);
    let (mut exact_ms, mut approximate_ms) = (0.0, 0.0);
    for query in (0..queries).map(|query| query * images / queries) {
        // One more than asked for, as the image finds itself.
        let (feature, k) = (exact.feature(query), args.top.saturating_add(1));
        let nearest = timed(&mut exact_ms, || exact.search(feature, k));
        let found = timed(&mut approximate_ms, || approximate.search(feature, k))?;
        let (wanted, hit) = recalled(query, nearest, found);
        expected += wanted;
        hits += hit;
    }
    let recall = hits as f64 / expected as f64;
    let (exact_ms, approximate_ms) = (exact_ms / queries as f64, approximate_ms / queries as f64);
    if args.json {
        let object = json!({
            "images": images, "queries": queries, "top": args.top, "recall": recall, "exact_ms": exact_ms,
            "approximate_ms": approximate_ms,
        });
        return output::line(&object.to_string());
    }
    output::line(&format!(
        "recall@{} {recall:.4} of {queries} images' own features among {images}: {exact_ms:.2} ms a query exactly, \
         {approximate_ms:.2} ms approximately, {:.1} times as fast",
        args.top,
        exact_ms / approximate_ms
    ))
}

fn timed<T>(ms: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *ms += 1000.0 * start.elapsed().as_secs_f64();
    result
}

/// How many images besides the query there are to be found, and how many found ones are as near as those.
fn recalled(query: usize, nearest: Vec<Found>, found: Vec<Found>) -> (usize, usize) {
    let others = |found: Vec<Found>| -> Vec<f32> {
        let others = found.into_iter().filter(|found| found.position != query);
        others.map(|found| found.cosine).collect()
    };
    let nearest = others(nearest);
    let wanted = nearest.len();
    let least = nearest.last().copied().unwrap_or(f32::INFINITY) - TIE;
    let near = others(found).into_iter().filter(|cosine| *cosine >= least);
    (wanted, near.count().min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(all: &[(usize, f32)]) -> Vec<Found> {
        let all = all.iter();
        all.map(|&(position, cosine)| Found { position, cosine })
            .collect()
    }

    #[test]
    fn what_is_as_near_counts_and_the_query_itself_does_not() {
        let nearest = found(&[(7, 1.0), (1, 0.9), (2, 0.8)]);
        let equally_near = found(&[(7, 1.0), (3, 0.9), (4, 0.8)]);
        assert_eq!(recalled(7, nearest.clone(), equally_near), (2, 2));
        let one_missed = found(&[(7, 1.0), (1, 0.9), (5, 0.7)]);
        assert_eq!(recalled(7, nearest.clone(), one_missed), (2, 1));
        assert_eq!(recalled(7, nearest, Vec::new()), (2, 0));
    }
}
