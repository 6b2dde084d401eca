use burn::tensor::Tensor;

use super::{ContrastiveBatch, ContrastiveGradients};
use crate::products;

/// Scores that a tile holds unless told otherwise, in 32 MiB of f32. At batch 32,768 that is 256 rows, and all that
/// lives beside it stays under half a gigabyte; up to batch 2,896 it is the whole matrix, which is then kept.
const TILE_SCORES: usize = 1 << 23;

/// Floor of a norm, as in [`l2_normalize`](crate::l2_normalize).
const MIN_NORM: f64 = 1e-12;

/// How many rows of the similarity matrix exist at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TileRows(Option<usize>);

impl TileRows {
    /// # Panics
    /// If `rows` is 0.
    pub(super) fn new(rows: usize) -> Self {
        assert!(rows > 0, "a tile needs at least one row");
        Self(Some(rows))
    }

    fn of_batch(self, batch: usize) -> usize {
        self.0.unwrap_or(TILE_SCORES / batch).clamp(1, batch)
    }
}

/// A batch's similarity matrix, of which a tile of some rows exists at a time.
pub(super) struct Scores {
    image: Unit,
    text: Unit,
    /// `[1, 1]`: between cosines and logits.
    factor: Tensor<2>,
    bias: Option<Tensor<2>>,
    tile_rows: usize,
    /// The logits, if all are one tile: small enough to keep instead of computing them again.
    kept: Option<Tensor<2>>,
}

/// Some rows of the similarity matrix.
pub(super) struct Tile {
    pub(super) start: usize,
    /// `[rows, embed_dim]`: unit image features times the factor.
    pub(super) image: Tensor<2>,
    /// `[rows, batch]`.
    pub(super) logits: Tensor<2>,
}

/// The derivative of a loss by the operands of the similarity matrix, gathered from its tiles.
#[derive(Default)]
pub(super) struct ByOperands {
    /// By the unit image features times the factor, tile by tile.
    image: Vec<Tensor<2>>,
    /// `[batch, embed_dim]`: by the unit text features.
    text: Option<Tensor<2>>,
}

impl Scores {
    /// # Panics
    /// If there are not as many images as texts, or none.
    pub(super) fn new(batch: ContrastiveBatch, tile_rows: TileRows) -> Self {
        let [rows, _] = batch.image.dims();
        assert_eq!(rows, batch.text.dims()[0], "images and texts");
        assert!(rows > 0, "a batch has rows");
        let mut scores = Self {
            image: Unit::of(batch.image),
            text: Unit::of(batch.text),
            factor: batch.logit_scale.exp().unsqueeze(),
            bias: batch.logit_bias.map(Tensor::unsqueeze),
            tile_rows: tile_rows.of_batch(rows),
            kept: None,
        };
        if scores.tile_rows == rows {
            scores.kept = Some(scores.tile(0).logits);
        }
        scores
    }

    pub(super) fn batch(&self) -> usize {
        self.image.rows.dims()[0]
    }

    pub(super) fn image(&self) -> &Tensor<2> {
        &self.image.rows
    }

    pub(super) fn text(&self) -> &Tensor<2> {
        &self.text.rows
    }

    pub(super) fn factor(&self) -> &Tensor<2> {
        &self.factor
    }

    /// Each tile in turn, computed as it is asked for.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile> + '_ {
        (0..self.batch())
            .step_by(self.tile_rows)
            .map(|start| self.tile(start))
    }

    fn tile(&self, start: usize) -> Tile {
        let rows = self.tile_rows.min(self.batch() - start);
        let image = self.image.rows.clone().narrow(0, start, rows) * self.factor.clone();
        let logits = self.kept.clone().unwrap_or_else(|| {
            let logits = product(image.clone(), self.text.rows.clone(), (false, true));
            match &self.bias {
                Some(bias) => logits + bias.clone(),
                None => logits,
            }
        });
        Tile {
            start,
            image,
            logits,
        }
    }

    /// Adds the part of a tile, given its `image` and the loss's derivative by its logits, `[rows, batch]`.
    pub(super) fn back(&self, image: Tensor<2>, by_logits: Tensor<2>, sum: &mut ByOperands) {
        let text = self.text.rows.clone();
        sum.image
            .push(product(by_logits.clone(), text, (false, false)));
        let part = product(by_logits, image, (true, false));
        sum.text = Some(match sum.text.take() {
            Some(sum) => sum + part,
            None => part,
        });
    }

    /// The gradients by the features as they were given, and by `logit_scale`.
    pub(super) fn gradients(self, loss: Tensor<1>, sum: ByOperands) -> ContrastiveGradients {
        let by_image = Tensor::cat(sum.image, 0);
        // invariant: a batch has rows, so there was a tile.
        let by_text = sum.text.expect("invariant: a batch has a tile");
        let by_image = by_image * self.factor;
        // The logits are proportional to the unit image features and to the factor alike.
        let logit_scale = (by_image.clone() * self.image.rows.clone()).sum();
        ContrastiveGradients {
            loss,
            distill: None,
            image: self.image.back(by_image),
            text: self.text.back(by_text),
            logit_scale,
            logit_bias: None,
        }
    }
}

impl ByOperands {
    /// Adds `[batch, embed_dim]` to what was found for both sides.
    pub(super) fn add(self, image: Tensor<2>, text: Tensor<2>) -> Self {
        Self {
            image: vec![Tensor::cat(self.image, 0) + image],
            text: self.text.map(|sum| sum + text),
        }
    }
}

/// Features of length one, and what they came from.
struct Unit {
    /// `[batch, embed_dim]`.
    rows: Tensor<2>,
    /// `[batch, 1]`.
    norm: Tensor<2>,
}

impl Unit {
    fn of(features: Tensor<2>) -> Self {
        let norm = features
            .clone()
            .square()
            .sum_dim(1)
            .sqrt()
            .clamp_min(MIN_NORM);
        Self {
            rows: features / norm.clone(),
            norm,
        }
    }

    /// The gradient by the features, given that by the unit rows: what points along them has no effect.
    fn back(self, by_rows: Tensor<2>) -> Tensor<2> {
        let along = (by_rows.clone() * self.rows.clone()).sum_dim(1);
        (by_rows - self.rows * along) / self.norm
    }
}

/// One matrix by another; of either a matrix may lie by columns.
fn product(left: Tensor<2>, right: Tensor<2>, by_column: (bool, bool)) -> Tensor<2> {
    products::multiply(left.unsqueeze(), right.unsqueeze(), by_column).squeeze_dim(0)
}
