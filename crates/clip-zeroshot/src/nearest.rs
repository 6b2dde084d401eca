//! The best of many rows by a score, on all processors.

use std::{num::NonZero, thread};

/// Products of a row are summed in so many lanes: enough for two registers of the widest vector units, so that one
/// addition doesn't wait for the one before.
const LANES: usize = 32;
/// Rows that are worth a thread of their own: a few milliseconds of work.
pub(crate) const ROWS_PER_THREAD: usize = 16_384;

/// An image of a search's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its position in [`ImageIndex::images`](crate::ImageIndex::images).
    pub position: usize,
    /// Its cosine with the query.
    pub cosine: f32,
}

/// The `k` rows of the highest score, the highest first; of equal ones the first.
pub(crate) fn nearest(rows: usize, k: usize, score: impl Fn(usize) -> f32 + Sync) -> Vec<Found> {
    let k = k.min(rows);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(rows.div_ceil(ROWS_PER_THREAD)).max(1);
    let part = rows.div_ceil(threads).max(1);
    let score = &score;
    let mut found: Vec<Found> = thread::scope(|scope| {
        let parts: Vec<_> = (0..rows)
            .step_by(part)
            .map(|first| scope.spawn(move || best(first..rows.min(first + part), k, score)))
            .collect();
        parts
            .into_iter()
            // invariant: the thread only computes.
            .flat_map(|part| part.join().expect("invariant: no panic in a product"))
            .collect()
    });
    found.sort_unstable_by(before);
    found.truncate(k);
    found
}

/// The best of some rows, in no order.
fn best(rows: std::ops::Range<usize>, k: usize, score: impl Fn(usize) -> f32) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut least = f32::NEG_INFINITY;
    for position in rows {
        let cosine = score(position);
        if cosine > least || found.len() < k {
            found.push(Found { position, cosine });
            // Selected now and then: nearly all rows are below the least.
            if found.len() > 2 * k {
                least = keep(&mut found, k).unwrap_or(f32::INFINITY);
            }
        }
    }
    keep(&mut found, k);
    found
}

/// Keeps the best `k` and returns the least score of them.
fn keep(found: &mut Vec<Found>, k: usize) -> Option<f32> {
    let last = k.checked_sub(1)?;
    if last < found.len() {
        found.select_nth_unstable_by(last, before);
    }
    found.truncate(k);
    found.get(last).map(|found| found.cosine)
}

/// Higher cosines first, then lower positions.
pub(crate) fn before(a: &Found, b: &Found) -> std::cmp::Ordering {
    b.cosine
        .total_cmp(&a.cosine)
        .then(a.position.cmp(&b.position))
}

/// A dot product in independent lanes, which the compiler makes vector instructions of.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_scores_the_first_rows_are_taken() {
        let positions = |k| -> Vec<usize> {
            let found = nearest(1000, k, |row| (row % 10) as f32);
            found.into_iter().map(|found| found.position).collect()
        };
        assert_eq!(positions(3), [9, 19, 29]);
        assert_eq!(positions(0), [] as [usize; 0]);
        assert_eq!(positions(2000).len(), 1000);
        assert_eq!(positions(101)[100], 8);
    }
}
