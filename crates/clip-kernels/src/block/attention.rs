//! Multi-head attention of some sequences' queries, keys and values.

use super::Block;
use crate::{
    product::{Matrix, MatrixMut, Place},
    softmax::{softmax, softmax_back},
};

/// A sequence's head: where it begins among queries, which are rows of `width`, among keys and values, rows of twice
/// that, and among scores.
struct Head {
    sequence: usize,
    query: usize,
    key: usize,
    scores: usize,
}

impl Block<'_> {
    fn head_width(&self) -> usize {
        self.width() / self.heads
    }

    fn score_scale(&self) -> f32 {
        1.0 / (self.head_width() as f32).sqrt()
    }

    /// The scores of a head.
    fn scores(&self) -> usize {
        self.queries() * self.tokens
    }

    fn each_head(&self, sequences: usize) -> impl Iterator<Item = Head> {
        let (tokens, queries) = (self.tokens, self.queries());
        let (width, heads, head_width) = (self.width(), self.heads, self.head_width());
        (0..sequences).flat_map(move |sequence| {
            (0..heads).map(move |head| Head {
                sequence,
                query: sequence * queries * width + head * head_width,
                key: sequence * tokens * 2 * width + head * head_width,
                scores: (sequence * heads + head) * queries * tokens,
            })
        })
    }

    fn query<'a>(&self, q: &'a [f32], head: &Head) -> Matrix<'a> {
        let from = &q[head.query..];
        Matrix::strided(from, self.queries(), self.head_width(), self.width())
    }

    fn key_and_value<'a>(&self, kv: &'a [f32], head: &Head) -> [Matrix<'a>; 2] {
        [0, self.width()].map(|part| {
            let from = &kv[head.key + part..];
            Matrix::strided(from, self.tokens, self.head_width(), 2 * self.width())
        })
    }

    /// What each token that comes out attends to, `[sequences, heads, queries, tokens]`, and the values so mixed,
    /// `[sequences * queries, width]`.
    ///
    /// # Shapes
    /// - `q`: `[sequences * queries, width]`
    /// - `kv`: `[sequences * tokens, 2 * width]`
    pub(super) fn attend(&self, q: &[f32], kv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let sequences = q.len() / self.span(1).y;
        let tokens = self.tokens;
        let mut attention = Vec::with_capacity(sequences * self.heads * self.scores());
        for head in self.each_head(sequences) {
            match (self.mask, self.only) {
                (None, _) => attention.resize(attention.len() + self.scores(), 0.0),
                (Some(mask), None) => attention.extend_from_slice(mask),
                (Some(mask), Some(only)) => {
                    let row = only[head.sequence] * tokens;
                    attention.extend_from_slice(&mask[row..row + tokens]);
                }
            }
        }
        for head in self.each_head(sequences) {
            let query = self.query(q, &head);
            let [key, _] = self.key_and_value(kv, &head);
            let scores = &mut attention[head.scores..][..self.scores()];
            let scores = MatrixMut::new(scores, tokens);
            self.multiply(scores, Place::AddedTo, self.score_scale(), query, key.t());
        }
        softmax(&mut attention, tokens);
        let mut mixed = vec![0.0; q.len()];
        for head in self.each_head(sequences) {
            let [_, value] = self.key_and_value(kv, &head);
            let weights = Matrix::new(&attention[head.scores..][..self.scores()], tokens);
            let to = &mut mixed[head.query..];
            let out = MatrixMut::strided(to, self.queries(), self.head_width(), self.width());
            self.multiply(out, Place::Replaced, 1.0, weights, value);
        }
        (attention, mixed)
    }

    /// Replaces `dq` and `dkv` by the gradients by queries, keys and values, given that by the mixed values.
    pub(super) fn attend_back(
        &self,
        (q, kv): (&[f32], &[f32]),
        attention: &[f32],
        dmixed: &[f32],
        (dq, dkv): (&mut [f32], &mut [f32]),
    ) {
        let (tokens, queries, width) = (self.tokens, self.queries(), self.width());
        let head_width = self.head_width();
        let mut dscores = vec![0.0; self.scores()];
        for head in self.each_head(q.len() / self.span(1).y) {
            let query = self.query(q, &head);
            let [key, value] = self.key_and_value(kv, &head);
            let attention = &attention[head.scores..][..self.scores()];
            let weights = Matrix::new(attention, tokens);
            let dmixed = self.query(dmixed, &head);

            let to = &mut dkv[head.key + width..];
            let dvalue = MatrixMut::strided(to, tokens, head_width, 2 * width);
            self.multiply(dvalue, Place::Replaced, 1.0, weights.t(), dmixed);
            let scores = MatrixMut::new(&mut dscores, tokens);
            self.multiply(scores, Place::Replaced, 1.0, dmixed, value.t());
            softmax_back(attention, &mut dscores, tokens);
            let dscores = Matrix::new(&dscores, tokens);
            let scale = self.score_scale();
            let dquery = MatrixMut::strided(&mut dq[head.query..], queries, head_width, width);
            self.multiply(dquery, Place::Replaced, scale, dscores, key);
            let to = &mut dkv[head.key..];
            let dkey = MatrixMut::strided(to, tokens, head_width, 2 * width);
            self.multiply(dkey, Place::Replaced, scale, dscores.t(), query);
        }
    }
}
