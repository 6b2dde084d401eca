use burn::tensor::Tensor;

use super::scores::{Scores, Tile};

/// A similarity matrix's softmaxes, over each image's captions and over each caption's images, a tile at a time.
pub(super) struct Softmaxes {
    pub(super) scores: Scores,
    /// `[rows, 1]` of each tile: the log-sum-exps of its rows.
    by_image: Vec<Tensor<2>>,
    /// `[1, batch]`: those of the columns.
    by_text: Tensor<2>,
}

impl Softmaxes {
    pub(super) fn new(scores: Scores) -> Self {
        let mut by_image = Vec::new();
        let mut by_text: Option<Tensor<2>> = None;
        for tile in scores.tiles() {
            by_image.push(log_sum_exp(&tile.logits, 1));
            let columns = log_sum_exp(&tile.logits, 0);
            by_text = Some(match by_text {
                Some(sum) => log_add_exp(sum, columns),
                None => columns,
            });
        }
        // invariant: a batch has rows, so there was a tile.
        let by_text = by_text.expect("invariant: a batch has a tile");
        Self {
            scores,
            by_image,
            by_text,
        }
    }

    /// `[1]`: the log-sum-exps of all rows and columns together.
    pub(super) fn log_sums(&self) -> Tensor<1> {
        let rows = self.by_image.iter().map(|rows| rows.clone().sum());
        rows.fold(self.by_text.clone().sum(), |sum, rows| sum + rows)
    }

    /// Each tile with its two softmaxes added up, `[rows, batch]`.
    pub(super) fn tiles(&self) -> impl Iterator<Item = (Tile, Tensor<2>)> + '_ {
        let tiles = self.scores.tiles().zip(&self.by_image);
        tiles.map(|(tile, by_image)| {
            let sum = sum_of_softmaxes(&tile.logits, by_image, &self.by_text);
            (tile, sum)
        })
    }
}

fn log_sum_exp(logits: &Tensor<2>, dim: usize) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if clip_kernels::computes_on(logits) {
        return clip_kernels::log_sum_exp(logits, dim);
    }
    let max = logits.clone().max_dim(dim);
    (logits.clone() - max.clone()).exp().sum_dim(dim).log() + max
}

/// The softmax over each row, given the rows' log-sum-exps, and that over each column.
fn sum_of_softmaxes(logits: &Tensor<2>, by_row: &Tensor<2>, by_column: &Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if clip_kernels::computes_on(logits) {
        return clip_kernels::sum_of_softmaxes(logits, by_row, by_column);
    }
    (logits.clone() - by_row.clone()).exp() + (logits.clone() - by_column.clone()).exp()
}

fn log_add_exp(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let max = a.clone().max_pair(b.clone());
    ((a - max.clone()).exp() + (b - max.clone()).exp()).log() + max
}
