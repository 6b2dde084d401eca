use rayon::prelude::*;

use super::{Block, Linear, Moments};
use crate::product::{Matrix, MatrixMut, Place, multiply};

/// What the backward pass of some sequences needs beside the block's input.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(super) moments_1: Vec<Moments>,
    /// `[rows, 3 * width]`.
    pub(super) qkv: Vec<f32>,
    /// `[sequences, heads, tokens, tokens]`.
    pub(super) attention: Vec<f32>,
    /// `[rows, width]`.
    pub(super) mixed: Vec<f32>,
    /// After the attention's residual path, `[rows, width]`.
    pub(super) middle: Vec<f32>,
    pub(super) moments_2: Vec<Moments>,
    /// Before the non-linearity, `[rows, hidden]`.
    pub(super) hidden: Vec<f32>,
}

/// Memory that tile after tile uses.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    active: Vec<f32>,
}

impl Linear<'_> {
    fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// `x * weight + bias`, `[rows, outputs]`.
    fn forward(&self, x: &[f32], inputs: usize) -> Vec<f32> {
        let rows = x.len() / inputs;
        let mut y = Vec::with_capacity(rows * self.outputs());
        for _ in 0..rows {
            y.extend_from_slice(self.bias);
        }
        self.add_product(x, inputs, &mut y);
        y
    }

    fn add_product(&self, x: &[f32], inputs: usize, y: &mut [f32]) {
        let out = MatrixMut::new(y, self.outputs());
        let weight = Matrix::new(self.weight, self.outputs());
        multiply(out, Place::AddedTo, 1.0, Matrix::new(x, inputs), weight);
    }
}

impl Block<'_> {
    /// The block's output, `[rows, width]` as `x`.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let part = self.part(x.len());
        x.par_chunks(part)
            .zip(y.par_chunks_mut(part))
            .for_each(|(x, y)| {
                let mut scratch = Scratch::default();
                for (x, y) in x.chunks(self.tile()).zip(y.chunks_mut(self.tile())) {
                    self.forward_tile(x, y, &mut scratch);
                }
            });
        y
    }

    /// The same, and what the backward pass needs of each part's tiles.
    pub(crate) fn forward_keeping(&self, x: &[f32]) -> (Vec<f32>, Vec<Vec<Kept>>) {
        let mut y = vec![0.0; x.len()];
        let part = self.part(x.len());
        let kept = x
            .par_chunks(part)
            .zip(y.par_chunks_mut(part))
            .map(|(x, y)| {
                let mut scratch = Scratch::default();
                x.chunks(self.tile())
                    .zip(y.chunks_mut(self.tile()))
                    .map(|(x, y)| self.forward_tile(x, y, &mut scratch))
                    .collect()
            })
            .collect();
        (y, kept)
    }

    fn forward_tile(&self, x: &[f32], y: &mut [f32], scratch: &mut Scratch) -> Kept {
        let width = self.width();
        let Scratch { normed, active } = scratch;

        normed.resize(x.len(), 0.0);
        let moments_1 = self.ln_1.moments(x);
        self.ln_1.normalize(x, &moments_1, normed);
        let qkv = self.in_proj.forward(normed, width);
        let (attention, mixed) = self.attend(&qkv);
        let mut middle = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            middle.extend(row.iter().zip(self.out_proj.bias).map(|(x, bias)| x + bias));
        }
        self.out_proj.add_product(&mixed, width, &mut middle);

        let moments_2 = self.ln_2.moments(&middle);
        self.ln_2.normalize(&middle, &moments_2, normed);
        let hidden = self.c_fc.forward(normed, width);
        active.resize(hidden.len(), 0.0);
        self.activation.values(&hidden, active);
        for (row, y) in middle.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for ((x, bias), y) in row.iter().zip(self.c_proj.bias).zip(y) {
                *y = x + bias;
            }
        }
        self.c_proj.add_product(active, self.hidden(), y);
        Kept {
            moments_1,
            qkv,
            attention,
            mixed,
            middle,
            moments_2,
            hidden,
        }
    }
}
