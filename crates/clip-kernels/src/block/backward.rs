use rayon::prelude::*;

use super::{Block, Kept, Linear};
use crate::{
    norm::Norm,
    product::{Matrix, MatrixMut, Place, multiply},
    rows::{add_rows, vectorized},
};

/// The gradients by a block's parameters, in their order and shapes.
#[derive(Debug)]
pub(crate) struct Gradients {
    ln_1: [Vec<f32>; 2],
    in_proj: [Vec<f32>; 2],
    out_proj: [Vec<f32>; 2],
    ln_2: [Vec<f32>; 2],
    c_fc: [Vec<f32>; 2],
    c_proj: [Vec<f32>; 2],
}

/// Memory that tile after tile uses.
#[derive(Default)]
struct Scratch {
    /// `[rows, width]`.
    normed: Vec<f32>,
    dnormed: Vec<f32>,
    dmiddle: Vec<f32>,
    /// `[rows, hidden]`, and later `[rows, 3 * width]`.
    active: Vec<f32>,
    slopes: Vec<f32>,
}

impl Gradients {
    fn zeros(block: &Block<'_>) -> Self {
        let norm = |norm: &Norm<'_>| [vec![0.0; norm.gamma.len()], vec![0.0; norm.beta.len()]];
        let linear =
            |linear: &Linear<'_>| [vec![0.0; linear.weight.len()], vec![0.0; linear.bias.len()]];
        Self {
            ln_1: norm(&block.ln_1),
            in_proj: linear(&block.in_proj),
            out_proj: linear(&block.out_proj),
            ln_2: norm(&block.ln_2),
            c_fc: linear(&block.c_fc),
            c_proj: linear(&block.c_proj),
        }
    }

    /// In the order of a block's parameters.
    pub(crate) fn into_parts(self) -> [Vec<f32>; 12] {
        let [ln_1_gamma, ln_1_beta] = self.ln_1;
        let [in_proj_weight, in_proj_bias] = self.in_proj;
        let [out_proj_weight, out_proj_bias] = self.out_proj;
        let [ln_2_gamma, ln_2_beta] = self.ln_2;
        let [c_fc_weight, c_fc_bias] = self.c_fc;
        let [c_proj_weight, c_proj_bias] = self.c_proj;
        [
            ln_1_gamma,
            ln_1_beta,
            in_proj_weight,
            in_proj_bias,
            out_proj_weight,
            out_proj_bias,
            ln_2_gamma,
            ln_2_beta,
            c_fc_weight,
            c_fc_bias,
            c_proj_weight,
            c_proj_bias,
        ]
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let Self {
            ln_1,
            in_proj,
            out_proj,
            ln_2,
            c_fc,
            c_proj,
        } = self;
        [ln_1, in_proj, out_proj, ln_2, c_fc, c_proj]
            .into_iter()
            .flatten()
    }

    fn add(mut self, mut other: Self) -> Self {
        for (sum, part) in self.parts_mut().zip(other.parts_mut()) {
            vectorized(
                #[inline(always)]
                || add_rows(sum, part),
            );
        }
        self
    }
}

impl Linear<'_> {
    /// Adds to the parameters' gradient that of `y = x * weight + bias`.
    fn add_gradient(&self, x: &[f32], dy: &[f32], [dweight, dbias]: &mut [Vec<f32>; 2]) {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs;
        let x = Matrix::new(x, inputs);
        let out = MatrixMut::new(dweight, outputs);
        multiply(out, Place::AddedTo, 1.0, x.t(), Matrix::new(dy, outputs));
        vectorized(
            #[inline(always)]
            || add_rows(dbias, dy),
        );
    }

    /// Replaces `dx` by the gradient by `x` of `y = x * weight + bias`.
    fn back(&self, dy: &[f32], dx: &mut [f32]) {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs;
        let weight = Matrix::new(self.weight, outputs);
        let out = MatrixMut::new(dx, inputs);
        multiply(out, Place::Replaced, 1.0, Matrix::new(dy, outputs), weight.t());
    }
}

impl Block<'_> {
    /// The gradients by `x` and by the parameters, given that of the output.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        kept: Vec<Vec<Kept>>,
        dy: &[f32],
    ) -> (Vec<f32>, Gradients) {
        let mut dx = vec![0.0; x.len()];
        // As the forward pass divided them, on whatever threads this is.
        let part = kept[0]
            .iter()
            .map(|kept| kept.middle.len())
            .sum::<usize>();
        let parts: Vec<Gradients> = x
            .par_chunks(part)
            .zip(dy.par_chunks(part))
            .zip(dx.par_chunks_mut(part))
            .zip(kept)
            .map(|(((x, dy), dx), kept)| {
                let mut gradients = Gradients::zeros(self);
                let mut scratch = Scratch::default();
                let tile = self.tile();
                let tiles = x.chunks(tile).zip(dy.chunks(tile));
                for (((x, dy), dx), kept) in tiles.zip(dx.chunks_mut(tile)).zip(kept) {
                    self.backward_tile(x, kept, dy, dx, &mut gradients, &mut scratch);
                }
                gradients
            })
            .collect();
        let gradients = parts.into_iter().reduce(Gradients::add);
        (dx, gradients.unwrap_or_else(|| Gradients::zeros(self)))
    }

    fn backward_tile(
        &self,
        x: &[f32],
        kept: Kept,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
        scratch: &mut Scratch,
    ) {
        let Scratch {
            normed,
            dnormed,
            dmiddle,
            active,
            slopes,
        } = scratch;
        for buffer in [&mut *normed, dnormed, dmiddle] {
            buffer.resize(x.len(), 0.0);
        }

        active.resize(kept.hidden.len(), 0.0);
        slopes.resize(kept.hidden.len(), 0.0);
        self.activation.values_and_slopes(&kept.hidden, active, slopes);
        self.c_proj.add_gradient(active, dy, &mut gradients.c_proj);
        let dhidden = active;
        self.c_proj.back(dy, dhidden);
        multiply_each(dhidden, slopes);
        self.ln_2.normalize(&kept.middle, &kept.moments_2, normed);
        self.c_fc.add_gradient(normed, dhidden, &mut gradients.c_fc);
        self.c_fc.back(dhidden, dnormed);
        dmiddle.copy_from_slice(dy);
        let [dgamma, dbeta] = &mut gradients.ln_2;
        self.ln_2
            .back(&kept.middle, &kept.moments_2, dnormed, dmiddle, dgamma, dbeta);

        self.out_proj
            .add_gradient(&kept.mixed, dmiddle, &mut gradients.out_proj);
        let dmixed = &mut *dnormed;
        self.out_proj.back(dmiddle, dmixed);
        let dqkv = slopes;
        dqkv.resize(kept.qkv.len(), 0.0);
        self.attend_back(&kept.qkv, &kept.attention, dmixed, dqkv);
        self.ln_1.normalize(x, &kept.moments_1, normed);
        self.in_proj.add_gradient(normed, dqkv, &mut gradients.in_proj);
        self.in_proj.back(dqkv, dnormed);
        dx.copy_from_slice(dmiddle);
        let [dgamma, dbeta] = &mut gradients.ln_1;
        self.ln_1
            .back(x, &kept.moments_1, dnormed, dx, dgamma, dbeta);
    }
}

fn multiply_each(numbers: &mut [f32], factors: &[f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (number, factor) in numbers.iter_mut().zip(factors) {
                *number *= factor;
            }
        },
    );
}
