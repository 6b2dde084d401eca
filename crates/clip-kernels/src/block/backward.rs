use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use super::{Block, Kept, Linear};
use crate::{
    norm::Norm,
    product::{Matrix, MatrixMut, Place, Sum},
    rows::{add_rows, vectorized},
};

/// Of which layers' weights the gradients are wanted: of the others they aren't computed, and come out empty.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "one a layer")]
pub(crate) struct Wanted {
    pub(crate) in_proj: bool,
    pub(crate) out_proj: bool,
    pub(crate) c_fc: bool,
    pub(crate) c_proj: bool,
}

/// The gradients by a block's parameters, in their order and shapes.
#[derive(Debug)]
pub(crate) struct Gradients {
    ln_1: [Vec<f32>; 2],
    in_proj: [Vec<f32>; 2],
    out_proj: LinearGradient,
    ln_2: [Vec<f32>; 2],
    c_fc: LinearGradient,
    c_proj: LinearGradient,
}

/// Of a layer's weights and bias.
#[derive(Debug)]
struct LinearGradient {
    /// If it is wanted.
    weight: Option<Sum>,
    bias: Vec<f32>,
}

/// Memory that tile after tile of a thread uses: `rows` are those of its tokens, `queries` of those that come out.
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

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl LinearGradient {
    fn new(linear: &Linear<'_>, is_wanted: bool) -> Self {
        Self {
            weight: is_wanted.then(Sum::default),
            bias: vec![0.0; linear.outputs()],
        }
    }

    /// Adds that of `y = x * weight + bias`.
    fn add(&mut self, linear: &Linear<'_>, x: &[f32], dy: &[f32]) {
        if let Some(weight) = &mut self.weight {
            let (x, by_y) = linear.factors_of_gradient(x, dy);
            weight.add(linear.weight.factors(), x, by_y);
        }
        add_each_row(&mut self.bias, dy);
    }

    fn parts_mut(&mut self) -> [&mut [f32]; 2] {
        let weight = self.weight.as_mut();
        let weight = weight.map(Sum::numbers_mut).unwrap_or_default();
        [weight, &mut self.bias]
    }

    fn into_parts(self) -> [Vec<f32>; 2] {
        let weight = self.weight.map(Sum::into_numbers);
        [weight.unwrap_or_default(), self.bias]
    }
}

impl Gradients {
    /// Before the first tile.
    fn new(block: &Block<'_>, wanted: Wanted) -> Self {
        let norm = |norm: &Norm<'_>| [vec![0.0; norm.gamma.len()], vec![0.0; norm.beta.len()]];
        let Linear { weight, bias, .. } = block.in_proj;
        let weights = if wanted.in_proj { weight.len() } else { 0 };
        Self {
            ln_1: norm(&block.ln_1),
            in_proj: [vec![0.0; weights], vec![0.0; bias.len()]],
            out_proj: LinearGradient::new(&block.out_proj, wanted.out_proj),
            ln_2: norm(&block.ln_2),
            c_fc: LinearGradient::new(&block.c_fc, wanted.c_fc),
            c_proj: LinearGradient::new(&block.c_proj, wanted.c_proj),
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
        let [out_proj, c_fc, c_proj] = [out_proj, c_fc, c_proj].map(LinearGradient::into_parts);
        [ln_1, in_proj, out_proj, ln_2, c_fc, c_proj]
            .into_iter()
            .flatten()
    }

    fn parts_mut(&mut self) -> [[&mut [f32]; 2]; 6] {
        fn pair([first, second]: &mut [Vec<f32>; 2]) -> [&mut [f32]; 2] {
            [first, second]
        }
        [
            pair(&mut self.ln_1),
            pair(&mut self.in_proj),
            self.out_proj.parts_mut(),
            pair(&mut self.ln_2),
            self.c_fc.parts_mut(),
            self.c_proj.parts_mut(),
        ]
    }

    fn add(mut self, mut other: Self) -> Self {
        let parts = other.parts_mut().into_iter().flatten();
        for (sum, part) in self.parts_mut().into_iter().flatten().zip(parts) {
            if !sum.is_empty() {
                add_each_row(sum, part);
            }
        }
        self
    }
}

fn add_each_row(sum: &mut [f32], rows: &[f32]) {
    vectorized(
        #[inline(always)]
        || add_rows(sum, rows),
    );
}

impl Linear<'_> {
    /// The product of these is the gradient by the weights of `y = x * weight + bias`.
    fn factors_of_gradient<'x>(&self, x: &'x [f32], dy: &'x [f32]) -> (Matrix<'x>, Matrix<'x>) {
        let x = Matrix::new(x, self.inputs()).t();
        (x, Matrix::new(dy, self.outputs()))
    }

    /// Adds to the gradients of a layer of which this is some outputs, but for weights that nobody wants.
    fn add_gradient(
        &self,
        outputs: Range<usize>,
        x: &[f32],
        dy: &[f32],
        [weight, bias]: &mut [Vec<f32>; 2],
    ) {
        if !weight.is_empty() {
            let (x, by_y) = self.factors_of_gradient(x, dy);
            let to = &mut weight[outputs.start..];
            let out = MatrixMut::strided(to, self.inputs(), self.outputs(), self.stride);
            let factors = self.weight.factors();
            factors.multiply(out, Place::AddedTo, 1.0, x, by_y);
        }
        add_each_row(&mut bias[outputs], dy);
    }

    /// The gradient by `x` of `y = x * weight + bias`.
    fn back(&self, dy: &[f32], dx: &mut [f32], place: Place) {
        let out = MatrixMut::new(dx, self.inputs());
        let dy = Matrix::new(dy, self.outputs());
        self.multiply_transposed(out, place, dy);
    }
}

impl Block<'_> {
    /// The gradients by `x` and by the parameters that are wanted, given that by what comes out.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        kept: Vec<Vec<Kept>>,
        dy: &[f32],
        wanted: Wanted,
    ) -> (Vec<f32>, Gradients) {
        let mut dx = vec![0.0; x.len()];
        // As the forward pass divided them, on however many threads this is.
        let part = kept.first().into_iter().flatten();
        let part: usize = part.map(|kept| kept.middle.len() / self.span(1).y).sum();
        let span = self.span(part);
        let parts = x.par_chunks(span.x).zip(dy.par_chunks(span.y));
        let parts = parts.zip(dx.par_chunks_mut(span.x)).zip(kept).enumerate();
        let found: Vec<Gradients> = parts
            .map(|(at, (((x, dy), dx), kept))| {
                self.from(at * part).backward_part(x, kept, dy, dx, wanted)
            })
            .collect();
        let Some(gradients) = found.into_iter().reduce(Gradients::add) else {
            unreachable!("invariant: a gradient is of one sequence at least")
        };
        (dx, gradients)
    }

    fn backward_part(
        &self,
        x: &[f32],
        kept: Vec<Kept>,
        dy: &[f32],
        dx: &mut [f32],
        wanted: Wanted,
    ) -> Gradients {
        let mut gradients = Gradients::new(self, wanted);
        let span = self.span(self.tile());
        let tiles = x.chunks(span.x).zip(dy.chunks(span.y));
        let tiles = tiles.zip(dx.chunks_mut(span.x)).zip(kept).enumerate();
        SCRATCH.with_borrow_mut(|scratch| {
            for (at, (((x, dy), dx), kept)) in tiles {
                let block = self.from(at * self.tile());
                block.backward_tile(x, &kept, dy, dx, &mut gradients, scratch);
            }
        });
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
        gradients.c_proj.add(&self.c_proj, active, dy);
        let dhidden = active;
        self.c_proj.back(dy, dhidden, Place::Replaced);
        multiply_each(dhidden, slopes);
        normed.resize(x.len(), 0.0);
        dnormed.resize(x.len(), 0.0);
        let queries_normed = &mut normed[..dy.len()];
        self.ln_2
            .normalize(&kept.middle, &kept.moments_2, queries_normed);
        gradients.c_fc.add(&self.c_fc, queries_normed, dhidden);
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
        gradients.out_proj.add(&self.out_proj, &kept.mixed, dmiddle);
        let dmixed = queries_dnormed;
        self.out_proj.back(dmiddle, dmixed, Place::Replaced);
        dq.resize(kept.q.len(), 0.0);
        dkv.resize(kept.kv.len(), 0.0);
        self.attend_back((&kept.q, &kept.kv), &kept.attention, dmixed, (dq, dkv));
        self.ln_1.normalize(x, &kept.moments_1, normed);
        let [queries, keys_and_values] = self.projections();
        let to = &mut gradients.in_proj;
        queries.add_gradient(0..width, self.outgoing(normed, outgoing), dq, to);
        keys_and_values.add_gradient(width..3 * width, normed, dkv, to);
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
