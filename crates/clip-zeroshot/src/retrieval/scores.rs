//! The score of every image with every caption, a tile at a time, on all processors.

use std::{
    num::NonZero,
    ops::Range,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use burn::tensor::{DType, Tensor, TensorReadError};
use clip_model::l2_normalize;
use rayon::ThreadPoolBuilder;

use crate::{ZeroShotError, features::finite_rows};

/// How many features are compared at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileSize {
    /// Images of a tile.
    pub(super) images: usize,
    /// Captions of a tile.
    pub(super) captions: usize,
    /// Tiles of images that are normalised together, and then compared with every caption.
    pub(super) images_at_once: usize,
}

/// Where a tile is among all scores, by numbers of tiles and of rows.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// How many tiles of images come before, and how many of captions.
    pub(super) tile: [usize; 2],
    pub(super) images: Range<usize>,
    pub(super) captions: Range<usize>,
}

/// Cosines of images with captions, none of which is kept.
pub(super) struct Scores {
    /// `[images, embed_dim]`
    pub(super) images: Tensor<2>,
    /// `[captions, embed_dim]`
    pub(super) captions: Tensor<2>,
    pub(super) size: TileSize,
}

impl Scores {
    /// Shows every wanted tile once, row by row: the scores of an image with all captions of the tile.
    ///
    /// Several threads do, in no order, so that one counts while another multiplies. A tile's scores are always of the
    /// same product, whatever else is wanted: equal features have equal scores.
    pub(super) fn each(
        &self,
        wanted: impl Fn([usize; 2]) -> bool + Sync,
        show: impl Fn(&Place, &[f32]) + Sync,
    ) -> Result<(), ZeroShotError> {
        let TileSize {
            images,
            captions,
            images_at_once,
        } = self.size;
        let [image_count, _] = self.images.dims();
        let [caption_count, _] = self.captions.dims();
        let tiles = image_count.div_ceil(images);
        for first in (0..tiles).step_by(images_at_once) {
            let start = first * images;
            let held = start..image_count.min(start + images_at_once * images);
            let normalised = normalised(&self.images, held);
            let rows = |tile: usize| tile * images..image_count.min((tile + 1) * images);
            let tiles: Vec<(usize, Tensor<2>)> = (first..tiles.min(first + images_at_once))
                .map(|tile| {
                    let Range { start: from, end } = rows(tile);
                    (tile, normalised.clone().slice(from - start..end - start))
                })
                .collect();
            on_all_processors(caption_count.div_ceil(captions), |column| {
                let wanted = |row: usize| wanted([row, column]);
                if !tiles.iter().any(|&(row, _)| wanted(row)) {
                    return Ok(());
                }
                let columns = column * captions..caption_count.min((column + 1) * captions);
                let texts = self::normalised(&self.captions, columns.clone()).transpose();
                for (row, images) in tiles.iter().filter(|&&(row, _)| wanted(row)) {
                    let scores = images.clone().matmul(texts.clone()).try_into_data();
                    let scores = scores.map_err(TensorReadError::from)?;
                    let place = Place {
                        tile: [*row, column],
                        images: rows(*row),
                        captions: columns.clone(),
                    };
                    show(&place, scores.as_slice().map_err(TensorReadError::from)?);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Refuses features that are not finite: a NaN is never less than a score, so it would rank first.
    pub(super) fn check_finite(&self) -> Result<(), ZeroShotError> {
        let check = |features: &Tensor<2>, what: &str| {
            let [count, _] = features.dims();
            for start in (0..count).step_by(self.size.images) {
                let rows = start..count.min(start + self.size.images);
                finite_rows(normalised(features, rows), |row| {
                    format!("the feature of {what} {}", start + row)
                })?;
            }
            Ok(())
        };
        check(&self.images, "image")?;
        check(&self.captions, "caption")
    }
}

/// Some of the features, normalised in f32 whatever they are held in: a copy of all would double the memory.
fn normalised(features: &Tensor<2>, rows: Range<usize>) -> Tensor<2> {
    l2_normalize(features.clone().slice(rows).cast(DType::F32))
}

/// Does the work of each item once. The first error ends the thread that met it.
fn on_all_processors(
    items: usize,
    work: impl Fn(usize) -> Result<(), ZeroShotError> + Sync,
) -> Result<(), ZeroShotError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if items == 1 || threads == 1 {
        return (0..items).try_for_each(work);
    }
    let (next, work) = (&AtomicUsize::new(0), &work);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(items))
            .map(|_| {
                scope.spawn(move || {
                    let mine = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                    let all = || mine.take_while(|&item| item < items).try_for_each(work);
                    // A product that spreads over the threads of its pool stays on this core: then none waits for
                    // another within one.
                    match ThreadPoolBuilder::new().num_threads(1).build() {
                        Ok(pool) => pool.install(all),
                        Err(_) => all(),
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
