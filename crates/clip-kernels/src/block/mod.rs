//! A residual block, through some sequences at a time: `attention` is its one part that knows of sequences.

mod attention;
mod backward;
mod forward;


pub(crate) use forward::Kept;

use crate::{
    activation::Activation,
    norm::{Moments, Norm},
};

/// A layer's parameters: `[inputs, outputs]` and `[outputs]`.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
}

impl<'a> Linear<'a> {
    /// # Panics
    /// If the weights aren't some rows as long as the bias.
    pub(crate) fn new(weight: &'a [f32], bias: &'a [f32]) -> Self {
        assert!(weight.len().is_multiple_of(bias.len()), "a layer's weights and bias");
        Self { weight, bias }
    }
}

/// A block, and the sequences that go through it.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) ln_1: Norm<'a>,
    pub(crate) in_proj: Linear<'a>,
    pub(crate) out_proj: Linear<'a>,
    pub(crate) ln_2: Norm<'a>,
    pub(crate) c_fc: Linear<'a>,
    pub(crate) c_proj: Linear<'a>,
    pub(crate) heads: usize,
    pub(crate) activation: Activation,
    /// `[tokens, tokens]`, added to the scores.
    pub(crate) mask: Option<&'a [f32]>,
    /// Of each sequence.
    pub(crate) tokens: usize,
}

/// The rows that go through the block at once. At 3,072 numbers a row their widest part has 6 MiB, which a last-level cache
/// holds, and products of so many rows are as fast as larger ones.
const TILE_ROWS: usize = 512;

impl Block<'_> {
    fn width(&self) -> usize {
        self.ln_1.gamma.len()
    }

    fn hidden(&self) -> usize {
        self.c_fc.bias.len()
    }

    /// The numbers of a sequence.
    fn sequence(&self) -> usize {
        self.tokens * self.width()
    }

    /// The numbers of what each thread gets, which are those of whole sequences.
    fn part(&self, numbers: usize) -> usize {
        let sequences = numbers / self.sequence();
        let part = sequences.div_ceil(rayon::current_num_threads());
        part.max(1) * self.sequence()
    }

    /// The numbers of a tile.
    fn tile(&self) -> usize {
        (TILE_ROWS / self.tokens).max(1) * self.sequence()
    }
}
