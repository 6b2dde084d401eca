use std::ops::Range;

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

/// Memory that tile after tile uses: `rows` are those of its tokens, `queries` of those that come out.
#[derive(Default)]
struct Scratch {
    /// `[rows, width]`, of which the MLP uses `[queries, width]`.
    normed: Vec<f32>,
    dnormed: Vec<f32>,
    /// `[queries, width]`.
    dmiddle: Vec<f32>,
    outgoing: Vec<f32>,
    /// `[queries, hidden]`.
    active: Vec<f32>,
    slopes: Vec<f32>,
    /// `[queries, width]`.
    dq: Vec<f32>,
    /// `[rows, 2 * width]`.
    dkv: Vec<f32>,
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
    pub(crate) fn into_parts(self) -> impl Iterator<Item = Vec<f32>> {
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

/// Adds to a layer's gradients, those of some of its outputs if it gives only those.
struct Adding<'a> {
    weight: &'a mut [f32],
    bias: &'a mut [f32],
}

impl<'a> Adding<'a> {
    fn all([weight, bias]: &'a mut [Vec<f32>; 2]) -> Self {
        Self { weight, bias }
    }

    fn columns([weight, bias]: &'a mut [Vec<f32>; 2], range: Range<usize>) -> Self {
        Self {
            weight: &mut weight[range.start..],
            bias: &mut bias[range],
        }
    }
}

impl Linear<'_> {
    /// Adds to the parameters' gradient that of `y = x * weight + bias`.
    fn add_gradient(&self, x: &[f32], dy: &[f32], to: Adding<'_>) {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let x = Matrix::new(x, inputs);
        let out = MatrixMut::strided(to.weight, inputs, outputs, self.stride);
        multiply(out, Place::AddedTo, 1.0, x.t(), Matrix::new(dy, outputs));
        vectorized(
            #[inline(always)]
            || add_rows(to.bias, dy),
        );
    }

    /// The gradient by `x` of `y = x * weight + bias`.
    fn back(&self, dy: &[f32], dx: &mut [f32], place: Place) {
        let out = MatrixMut::new(dx, self.inputs());
        let dy = Matrix::new(dy, self.outputs());
        multiply(out, place, 1.0, dy, self.matrix().t());
    }
}

impl Block<'_> {
    /// The gradients by `x` and by the parameters, given that by what comes out.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        kept: Vec<Vec<Kept>>,
        dy: &[f32],
    ) -> (Vec<f32>, Gradients) {
        let mut dx = vec![0.0; x.len()];
        // As the forward pass divided them, on however many threads this is.
        let part = kept.first().into_iter().flatten();
        let part: usize = part.map(|kept| kept.middle.len() / self.span(1).y).sum();
        let span = self.span(part);
        let parts = x.par_chunks(span.x).zip(dy.par_chunks(span.y));
        let parts = parts.zip(dx.par_chunks_mut(span.x)).zip(kept).enumerate();
        let found: Vec<Gradients> = parts
            .map(|(at, (((x, dy), dx), kept))| self.from(at * part).backward_part(x, kept, dy, dx))
            .collect();
        let gradients = found.into_iter().reduce(Gradients::add);
        (dx, gradients.unwrap_or_else(|| Gradients::zeros(self)))
    }

    fn backward_part(&self, x: &[f32], kept: Vec<Kept>, dy: &[f32], dx: &mut [f32]) -> Gradients {
        let mut gradients = Gradients::zeros(self);
        let mut scratch = Scratch::default();
        let span = self.span(self.tile());
        let tiles = x.chunks(span.x).zip(dy.chunks(span.y));
        let tiles = tiles.zip(dx.chunks_mut(span.x)).zip(kept).enumerate();
        for (at, (((x, dy), dx), kept)) in tiles {
            let block = self.from(at * self.tile());
            block.backward_tile(x, &kept, dy, dx, &mut gradients, &mut scratch);
        }
        gradients
    }

    fn backward_tile(
        &self,
        x: &[f32],
        kept: &Kept,
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut Gradients,
        scratch: &mut Scratch,
    ) {
        let width = self.width();
        let Scratch {
            normed,
            dnormed,
            dmiddle,
            active,
            slopes,
            dq,
            outgoing,
            dkv,
        } = scratch;

        // The MLP.
        active.resize(kept.hidden.len(), 0.0);
        slopes.resize(kept.hidden.len(), 0.0);
        self.activation
            .values_and_slopes(&kept.hidden, active, slopes);
        let to = Adding::all(&mut gradients.c_proj);
        self.c_proj.add_gradient(active, dy, to);
        let dhidden = active;
        self.c_proj.back(dy, dhidden, Place::Replaced);
        multiply_each(dhidden, slopes);
        normed.resize(x.len(), 0.0);
        dnormed.resize(x.len(), 0.0);
        let queries_normed = &mut normed[..dy.len()];
        self.ln_2
            .normalize(&kept.middle, &kept.moments_2, queries_normed);
        let to = Adding::all(&mut gradients.c_fc);
        self.c_fc.add_gradient(queries_normed, dhidden, to);
        let queries_dnormed = &mut dnormed[..dy.len()];
        self.c_fc.back(dhidden, queries_dnormed, Place::Replaced);
        dmiddle.clear();
        dmiddle.extend_from_slice(dy);
        self.ln_2.back(
            &kept.middle,
            &kept.moments_2,
            queries_dnormed,
            dmiddle,
            &mut gradients.ln_2,
        );

        // The attention.
        let to = Adding::all(&mut gradients.out_proj);
        self.out_proj.add_gradient(&kept.mixed, dmiddle, to);
        let dmixed = queries_dnormed;
        self.out_proj.back(dmiddle, dmixed, Place::Replaced);
        dq.resize(kept.q.len(), 0.0);
        dkv.resize(kept.kv.len(), 0.0);
        self.attend_back((&kept.q, &kept.kv), &kept.attention, dmixed, (dq, dkv));
        self.ln_1.normalize(x, &kept.moments_1, normed);
        let [queries, keys_and_values] = self.projections();
        let to = Adding::columns(&mut gradients.in_proj, 0..width);
        queries.add_gradient(self.outgoing(normed, outgoing), dq, to);
        let to = Adding::columns(&mut gradients.in_proj, width..3 * width);
        keys_and_values.add_gradient(normed, dkv, to);
        keys_and_values.back(dkv, dnormed, Place::Replaced);
        if self.only.is_some() {
            outgoing.resize(dq.len(), 0.0);
            queries.back(dq, outgoing, Place::Replaced);
            self.add_to_outgoing(dnormed, outgoing);
            dx.fill(0.0);
            self.add_to_outgoing(dx, dmiddle);
        } else {
            queries.back(dq, dnormed, Place::AddedTo);
            dx.copy_from_slice(dmiddle);
        }
        self.ln_1
            .back(x, &kept.moments_1, dnormed, dx, &mut gradients.ln_1);
    }

    /// Adds to the rows that come out.
    fn add_to_outgoing(&self, rows: &mut [f32], outgoing: &[f32]) {
        let width = self.width();
        let places = self.rows_out(self.sequences(rows));
        for (row, outgoing) in places.zip(outgoing.chunks_exact(width)) {
            add_rows(&mut rows[row * width..][..width], outgoing);
        }
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
