use std::cell::RefCell;

use rayon::prelude::*;

use super::{Block, Linear, Moments};
use crate::product::{Matrix, MatrixMut, Place};

/// What the backward pass of some sequences needs beside the block's input.
///
/// `rows` are those of their tokens, `queries` of those that come out.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(super) moments_1: Vec<Moments>,
    /// `[queries, width]`.
    pub(super) q: Vec<f32>,
    /// `[rows, 2 * width]`.
    pub(super) kv: Vec<f32>,
    /// `[sequences, heads, queries of one, tokens]`.
    pub(super) attention: Vec<f32>,
    /// `[queries, width]`.
    pub(super) mixed: Vec<f32>,
    /// After the attention's residual path, `[queries, width]`.
    pub(super) middle: Vec<f32>,
    pub(super) moments_2: Vec<Moments>,
    /// Before the non-linearity, `[queries, hidden]`.
    pub(super) hidden: Vec<f32>,
}

/// Memory that tile after tile of a thread uses.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    active: Vec<f32>,
    outgoing: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Linear<'_> {
    /// `x * weight + bias`, `[rows, outputs]`.
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs();
        let mut y = Vec::with_capacity(rows * self.outputs());
        for _ in 0..rows {
            y.extend_from_slice(self.bias);
        }
        self.add_product(x, &mut y);
        y
    }

    fn add_product(&self, x: &[f32], y: &mut [f32]) {
        let out = MatrixMut::new(y, self.outputs());
        let x = Matrix::new(x, self.inputs());
        self.multiply(out, Place::AddedTo, x);
    }
}

impl Block<'_> {
    /// What comes out, of `x` `[rows, width]`.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.each_part(x, |block, x, y| {
            block.each_tile(x, y, |_| {});
        })
        .0
    }

    /// The same, and what the backward pass needs of each part's tiles.
    pub(crate) fn forward_keeping(&self, x: &[f32]) -> (Vec<f32>, Vec<Vec<Kept>>) {
        self.each_part(x, |block, x, y| {
            let mut tiles = Vec::new();
            block.each_tile(x, y, |kept| tiles.push(kept));
            tiles
        })
    }

    /// Parts of the sequences, each on a thread.
    fn each_part<T: Send>(
        &self,
        x: &[f32],
        work: impl Fn(Self, &[f32], &mut [f32]) -> T + Sync,
    ) -> (Vec<f32>, Vec<T>) {
        let sequences = self.sequences(x);
        let part = sequences.div_ceil(rayon::current_num_threads()).max(1);
        let span = self.span(part);
        let mut y = vec![0.0; self.span(sequences).y];
        let parts = x
            .par_chunks(span.x)
            .zip(y.par_chunks_mut(span.y))
            .enumerate();
        let results = parts
            .map(|(at, (x, y))| work(self.from(at * part), x, y))
            .collect();
        (y, results)
    }

    fn each_tile(&self, x: &[f32], y: &mut [f32], mut keep: impl FnMut(Kept)) {
        let span = self.span(self.tile());
        SCRATCH.with_borrow_mut(|scratch| {
            for (at, (x, y)) in x.chunks(span.x).zip(y.chunks_mut(span.y)).enumerate() {
                let block = self.from(at * self.tile());
                keep(block.forward_tile(x, y, scratch));
            }
        });
    }

    fn forward_tile(&self, x: &[f32], y: &mut [f32], scratch: &mut Scratch) -> Kept {
        let width = self.width();
        let Scratch {
            normed,
            active,
            outgoing,
        } = scratch;
        let [queries, keys_and_values] = self.projections();

        normed.resize(x.len(), 0.0);
        let moments_1 = self.ln_1.moments(x);
        self.ln_1.normalize(x, &moments_1, normed);
        let kv = keys_and_values.forward(normed);
        let q = queries.forward(self.outgoing(normed, outgoing));
        let (attention, mixed) = self.attend(&q, &kv);
        let mut middle = Vec::with_capacity(y.len());
        for row in self.outgoing(x, outgoing).chunks_exact(width) {
            middle.extend(row.iter().zip(self.out_proj.bias).map(|(x, bias)| x + bias));
        }
        self.out_proj.add_product(&mixed, &mut middle);

        let normed = &mut normed[..y.len()];
        let moments_2 = self.ln_2.moments(&middle);
        self.ln_2.normalize(&middle, &moments_2, normed);
        let hidden = self.c_fc.forward(normed);
        active.resize(hidden.len(), 0.0);
        self.activation.values(&hidden, active);
        for (row, y) in middle.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            for ((x, bias), y) in row.iter().zip(self.c_proj.bias).zip(y) {
                *y = x + bias;
            }
        }
        self.c_proj.add_product(active, y);
        Kept {
            moments_1,
            q,
            kv,
            attention,
            mixed,
            middle,
            moments_2,
            hidden,
        }
    }
}
