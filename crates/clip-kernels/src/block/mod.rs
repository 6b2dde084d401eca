//! A residual block, through some sequences at a time: `attention` is its one part that knows of sequences.

mod attention;
mod backward;
mod forward;

use std::ops::Range;

pub(crate) use backward::Wanted;
pub(crate) use forward::Kept;

use burn::tensor::bf16;

use crate::{
    activation::Activation,
    norm::{Moments, Norm},
    product::{Factors, Matrix, MatrixMut, Place, multiply, multiply_rounded},
};

/// Weights, and what products with them are of: numbers as they are, or rounded to bf16.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// A layer's parameters: `[inputs, outputs]` and `[outputs]`, or some outputs of a larger one.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'a> {
    weight: Weight<'a>,
    bias: &'a [f32],
    /// From one input's weights to the next one's.
    stride: usize,
}

impl Weight<'_> {
    fn len(self) -> usize {
        match self {
            Self::F32(weight) => weight.len(),
            Self::Bf16(weight) => weight.len(),
        }
    }

    fn factors(self) -> Factors {
        match self {
            Self::F32(_) => Factors::AsTheyAre,
            Self::Bf16(_) => Factors::Rounded,
        }
    }

    fn from(self, start: usize) -> Self {
        match self {
            Self::F32(weight) => Self::F32(&weight[start..]),
            Self::Bf16(weight) => Self::Bf16(&weight[start..]),
        }
    }
}

impl<'a> Linear<'a> {
    /// # Panics
    /// If the weights aren't some rows as long as the bias.
    pub(crate) fn new(weight: Weight<'a>, bias: &'a [f32]) -> Self {
        let stride = bias.len();
        assert!(
            weight.len().is_multiple_of(stride),
            "a layer's weights and bias"
        );
        Self {
            weight,
            bias,
            stride,
        }
    }

    fn inputs(&self) -> usize {
        self.weight.len().div_ceil(self.stride)
    }

    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `x` by the weights to `out`, or added to it.
    fn multiply(&self, out: MatrixMut<'_>, place: Place, x: Matrix<'_>) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        match self.weight {
            Weight::F32(weight) => {
                let weight = Matrix::strided(weight, inputs, outputs, self.stride);
                multiply(out, place, 1.0, x, weight);
            }
            Weight::Bf16(weight) => {
                let weight = Matrix::strided(weight, inputs, outputs, self.stride);
                multiply_rounded(out, place, 1.0, x, weight);
            }
        }
    }

    /// `dy` by the transposed weights to `out`, or added to it.
    fn multiply_transposed(&self, out: MatrixMut<'_>, place: Place, dy: Matrix<'_>) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        match self.weight {
            Weight::F32(weight) => {
                let weight = Matrix::strided(weight, inputs, outputs, self.stride);
                multiply(out, place, 1.0, dy, weight.t());
            }
            Weight::Bf16(weight) => {
                let weight = Matrix::strided(weight, inputs, outputs, self.stride);
                multiply_rounded(out, place, 1.0, dy, weight.t());
            }
        }
    }

    /// The layer of these outputs alone.
    fn columns(&self, range: Range<usize>) -> Self {
        Self {
            weight: self.weight.from(range.start),
            bias: &self.bias[range],
            stride: self.stride,
        }
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
    /// The one token of each sequence that comes out, or all do.
    pub(crate) only: Option<&'a [usize]>,
}

/// The rows that go through the block at once. At 3,072 numbers a row their widest part has 6 MiB, which a last-level cache
/// holds, and products of so many rows are as fast as larger ones.
const TILE_ROWS: usize = 512;

/// Where one row a sequence comes out: so many that products of those alone are worth their weights' way from memory.
const TILE_ROWS_OF_ONE: usize = 16 * TILE_ROWS;

/// Numbers of some sequences: as they come in and as they go out.
#[derive(Clone, Copy)]
struct Span {
    x: usize,
    y: usize,
}

impl Block<'_> {
    fn width(&self) -> usize {
        self.ln_1.gamma.len()
    }

    /// The tokens of each sequence that come out.
    fn queries(&self) -> usize {
        if self.only.is_some() { 1 } else { self.tokens }
    }

    fn span(&self, sequences: usize) -> Span {
        Span {
            x: sequences * self.tokens * self.width(),
            y: sequences * self.queries() * self.width(),
        }
    }

    /// A product of what the block computes, of such numbers as those with its weights.
    fn multiply(&self, out: MatrixMut<'_>, place: Place, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
        self.in_proj
            .weight
            .factors()
            .multiply(out, place, scale, a, b);
    }

    fn sequences(&self, x: &[f32]) -> usize {
        x.len() / self.span(1).x
    }

    /// The sequences of a tile.
    fn tile(&self) -> usize {
        let rows = if self.only.is_some() {
            TILE_ROWS_OF_ONE
        } else {
            TILE_ROWS
        };
        (rows / self.tokens).max(1)
    }

    /// The block for the sequences from `first` on.
    fn from(&self, first: usize) -> Self {
        Self {
            only: self.only.map(|only| &only[first..]),
            ..*self
        }
    }

    /// The layer that gives the queries, and the one that gives keys and values beside each other.
    fn projections(&self) -> [Linear<'_>; 2] {
        let width = self.width();
        [0..width, width..3 * width].map(|range| self.in_proj.columns(range))
    }

    /// The rows of the tokens that come out.
    fn rows_out(&self, sequences: usize) -> impl Iterator<Item = usize> {
        let only = self.only.into_iter().flatten().take(sequences).enumerate();
        let tokens = self.tokens;
        only.map(move |(sequence, token)| sequence * tokens + token)
    }

    /// Those of `rows` that come out, put in `room` if they are not all.
    fn outgoing<'x>(&self, rows: &'x [f32], room: &'x mut Vec<f32>) -> &'x [f32] {
        if self.only.is_none() {
            return rows;
        }
        room.clear();
        for row in self.rows_out(self.sequences(rows)) {
            room.extend_from_slice(&rows[row * self.width()..][..self.width()]);
        }
        room
    }
}
