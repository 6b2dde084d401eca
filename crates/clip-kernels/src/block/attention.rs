//! Multi-head attention of some sequences' queries, keys and values.

use super::Block;
use crate::{
    product::{Matrix, MatrixMut, Place, multiply},
    softmax::{softmax, softmax_back},
};

/// Queries, keys and values beside each other: where each begins in a row of `3 * width`.
const PARTS: [usize; 3] = [0, 1, 2];

impl Block<'_> {
    fn head_width(&self) -> usize {
        self.width() / self.heads
    }

    fn score_scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    /// Each sequence's and head's place in rows of queries, keys and values, in rows of `width`, and among the scores.
    fn each_head(&self, sequences: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let (tokens, width, heads) = (self.tokens, self.width(), self.heads);
        let head_width = self.head_width();
        (0..sequences).flat_map(move |sequence| {
            (0..heads).map(move |head| {
                let row = sequence * tokens;
                let column = head * head_width;
                let scores = (sequence * heads + head) * tokens * tokens;
                (row * 3 * width + column, row * width + column, scores)
            })
        })
    }

    /// Queries, keys and values of one head.
    fn head<'a>(&self, qkv: &'a [f32], at: usize) -> [Matrix<'a>; 3] {
        let width = self.width();
        PARTS.map(|part| {
            let from = &qkv[at + part * width..];
            Matrix::strided(from, self.tokens, self.head_width(), 3 * width)
        })
    }

    /// What each token attends to, `[sequences, heads, tokens, tokens]`, and the values so mixed, `[rows, width]`, of
    /// `[rows, 3 * width]`.
    pub(super) fn attend(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (tokens, width) = (self.tokens, self.width());
        let rows = qkv.len() / (3 * width);
        let sequences = rows / tokens;
        let square = tokens * tokens;
        let mut attention = Vec::with_capacity(sequences * self.heads * square);
        for _ in 0..sequences * self.heads {
            match self.mask {
                Some(mask) => attention.extend_from_slice(mask),
                None => attention.resize(attention.len() + square, 0.0),
            }
        }
        for (from, _, at) in self.each_head(sequences) {
            let [query, key, _] = self.head(qkv, from);
            let scores = MatrixMut::new(&mut attention[at..at + square], tokens);
            multiply(scores, Place::AddedTo, self.score_scale(), query, key.t());
        }
        softmax(&mut attention, tokens);
        let mut mixed = vec![0.0; rows * width];
        for (from, to, at) in self.each_head(sequences) {
            let [_, _, value] = self.head(qkv, from);
            let weights = Matrix::new(&attention[at..at + square], tokens);
            let out = MatrixMut::strided(&mut mixed[to..], tokens, self.head_width(), width);
            multiply(out, Place::Replaced, 1.0, weights, value);
        }
        (attention, mixed)
    }

    /// Replaces `dqkv` by the gradient of queries, keys and values, given that of the mixed values.
    pub(super) fn attend_back(
        &self,
        qkv: &[f32],
        attention: &[f32],
        dmixed: &[f32],
        dqkv: &mut [f32],
    ) {
        let (tokens, width, head_width) = (self.tokens, self.width(), self.head_width());
        let sequences = dmixed.len() / self.sequence();
        let square = tokens * tokens;
        let mut dscores = vec![0.0; square];
        for (from, to, at) in self.each_head(sequences) {
            let [query, key, value] = self.head(qkv, from);
            let attention = &attention[at..at + square];
            let weights = Matrix::new(attention, tokens);
            let dmixed = Matrix::strided(&dmixed[to..], tokens, head_width, width);
            let mut write = |part: usize, scale: f32, a: Matrix<'_>, b: Matrix<'_>| {
                let to = &mut dqkv[from + part * width..];
                let out = MatrixMut::strided(to, tokens, head_width, 3 * width);
                multiply(out, Place::Replaced, scale, a, b);
            };
            let [queries, keys, values] = PARTS;
            write(values, 1.0, weights.t(), dmixed);
            let scores = MatrixMut::new(&mut dscores, tokens);
            multiply(scores, Place::Replaced, 1.0, dmixed, value.t());
            softmax_back(attention, &mut dscores, tokens);
            let dscores = Matrix::new(&dscores, tokens);
            write(queries, self.score_scale(), dscores, key);
            write(keys, self.score_scale(), dscores.t(), query);
        }
    }
}
