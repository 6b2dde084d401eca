//! What becomes of a square's sums.

use burn::cubecl::{self, prelude::*};

use super::{
    QUAD, Quad,
    block::{Place, block_sums},
    plan::Plan,
};
use crate::kernels::activation::value_and_slope;

#[cube(launch)]
pub(super) fn product_kernel<V: Size>(
    left: &[Vector<f32, V>],
    right: &[Vector<f32, V>],
    bias: &[f32],
    out: &mut [Vector<f32, V>],
    values: &mut [Vector<f32, V>],
    products: usize,
    m: usize,
    n: usize,
    k: usize,
    #[comptime] plan: Plan,
) {
    let square = comptime!(plan.square);
    let (threads, quads) = comptime!((square.threads, square.quads));
    let place = Place::of_cube(m, square);
    if place.product >= products {
        terminate!();
    }
    let sums = block_sums::<V>(left, right, m, n, k, &place, plan);
    #[unroll]
    for i in 0..comptime!(QUAD * quads) {
        let quad = UNIT_POS_Y as usize + comptime!(i / QUAD * threads);
        let row = place.row + quad * QUAD + comptime!(i % QUAD);
        #[unroll]
        for j in 0..quads {
            let sum = sums[comptime!(i * quads + j)];
            let quad = UNIT_POS_X as usize + comptime!(j * threads);
            let column = place.column + quad * QUAD;
            write::<V>(sum, bias, out, values, &place, row, column, m, n, plan);
        }
    }
}

/// A quad of the product, where that is.
#[cube]
fn write<V: Size>(
    sum: Quad,
    bias: &[f32],
    out: &mut [Vector<f32, V>],
    values: &mut [Vector<f32, V>],
    place: &Place,
    row: usize,
    column: usize,
    m: usize,
    n: usize,
    #[comptime] plan: Plan,
) {
    let each = V::value();
    let first = (place.product * m + row) * n + column;
    #[unroll]
    for part in 0..comptime!(QUAD / each) {
        let column = column + comptime!(part * each);
        if row < m && column < n {
            let mut vector = Vector::<f32, V>::empty();
            let mut value = Vector::<f32, V>::empty();
            #[unroll]
            for x in 0..each {
                let mut number = sum.extract(comptime!(part * each + x));
                if comptime!(plan.biased) {
                    number += bias[column + x];
                }
                vector.insert(x, number);
                if comptime!(plan.activation.is_some()) {
                    // invariant: this branch is expanded for plans that have one.
                    let activation = comptime!(plan.activation.unwrap());
                    let (number, _) = value_and_slope(number, activation);
                    value.insert(x, number);
                }
            }
            let at = first / each + part;
            out[at] = vector;
            if comptime!(plan.activation.is_some()) {
                values[at] = value;
            }
        }
    }
}
