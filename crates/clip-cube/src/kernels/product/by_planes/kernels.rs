//! What becomes of a block's sums.

use burn::cubecl::{
    self,
    cmma::{self, MatrixLayout},
    prelude::*,
};

use super::{SIDE, SUM_PITCH, TILES, VECTOR, block::block_sums, plan::Plan};
use crate::kernels::{activation::value_and_slope, matrix_units::TILE};

#[cube(launch)]
pub(super) fn product_kernel<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    bias: &[E],
    out: &mut [Vector<E, V>],
    values: &mut [Vector<E, V>],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let sums = block_sums::<E, V>(left, right, m, n, k, steps, plan);
    let planes = comptime!(plan.planes.0 * plan.planes.1);
    let mut scratch =
        Shared::<[f32]>::new_aligned_slice(comptime!(planes * TILE * SUM_PITCH), 128usize);
    let plane = UNIT_POS_Y as usize;
    let own = plane * comptime!(TILE * SUM_PITCH);
    let (down, across) = comptime!(plan.block());
    let row = CUBE_POS_Y as usize * down + plane / plan.planes.1 * SIDE;
    let column = CUBE_POS_X as usize * across + plane % plan.planes.1 * SIDE;
    let stride = n / VECTOR;
    let lane_row = UNIT_POS_X as usize / 2;
    let lane_column = UNIT_POS_X as usize % 2 * VECTOR;
    #[unroll]
    for i in 0..TILES {
        #[unroll]
        for j in 0..TILES {
            let sum = sums.index(comptime!(i * TILES + j));
            cmma::store(
                &mut scratch[own..own + comptime!(TILE * SUM_PITCH)],
                sum,
                comptime!(SUM_PITCH as u32),
                MatrixLayout::RowMajor,
            );
            sync_plane();
            let first = own + lane_row * SUM_PITCH + lane_column;
            let column = column + comptime!(j * TILE) + lane_column;
            let mut vector = Vector::<E, V>::empty();
            #[unroll]
            for x in 0..VECTOR {
                let mut number = scratch[first + x];
                if comptime!(plan.biased) {
                    number += f32::cast_from(bias[column + x]);
                }
                vector.insert(x, E::cast_from(number));
            }
            // In vectors: numbers may be more than 32 bits count.
            let at = (row + comptime!(i * TILE) + lane_row) * stride + column / VECTOR;
            out[at] = vector;
            if comptime!(plan.activation.is_some()) {
                // invariant: this branch is expanded for plans that have one.
                let activation = comptime!(plan.activation.unwrap());
                let mut value = Vector::<E, V>::empty();
                #[unroll]
                for x in 0..VECTOR {
                    let number = f32::cast_from(vector.extract(x));
                    let (number, _) = value_and_slope(number, activation);
                    value.insert(x, E::cast_from(number));
                }
                values[at] = value;
            }
            sync_plane();
        }
    }
}

#[cube(launch)]
pub(super) fn sums_kernel<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    out: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let sums = block_sums::<E, V>(left, right, m, n, k, steps, plan);
    let plane = UNIT_POS_Y as usize;
    let (down, across) = comptime!(plan.block());
    let row = CUBE_POS_Y as usize * down + plane / plan.planes.1 * SIDE;
    let column = CUBE_POS_X as usize * across + plane % plan.planes.1 * SIDE;
    let part = CUBE_POS_Z as usize * m * n;
    let end = out.len();
    #[unroll]
    for i in 0..TILES {
        #[unroll]
        for j in 0..TILES {
            let sum = sums.index(comptime!(i * TILES + j));
            let at = part + (row + comptime!(i * TILE)) * n + column + comptime!(j * TILE);
            cmma::store(&mut out[at..end], sum, n as u32, MatrixLayout::RowMajor);
        }
    }
}
