use burn::cubecl::{self, prelude::*};

use super::{
    BLOCK, Plan,
    place::{Block, Place},
    rows::{
        exponentials, left_tiles, load_keys, load_own, mask_scores, quad_sum, rounded,
        rows_by_columns, rows_by_rows, store_row,
    },
};
use crate::kernels::matrix_units::{HALF, Pair, REGISTERS, TILE, no_sums};

/// The gradient by queries; and of each query, for the gradients by keys, the sum of its weights' gradients by the weights,
/// which is what was found times the gradient by it.
#[cube(launch)]
pub(super) fn by_queries_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    mixed: &[Vector<E, N>],
    logs: &[f32],
    by_mixed: &[Vector<E, N>],
    by_projected: &mut [Vector<E, Pair>],
    sums_along: &mut [f32],
    tokens: usize,
    heads: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let place = Place::new(tokens, heads, plan);
    // What is read once goes where keys and values will be.
    load_own::<E, N>(mixed, place.mixed(), &place, &mut keys, plan);
    load_own::<E, N>(by_mixed, place.mixed(), &place, &mut values, plan);
    sync_cube();
    let found = left_tiles::<E, N>(&keys, place.row, plan);
    let by_row = left_tiles::<E, N>(&values, place.row, plan);
    sync_cube();
    load_own::<E, N>(projected, place.queries(), &place, &mut keys, plan);
    sync_cube();
    let query = left_tiles::<E, N>(&keys, place.row, plan);

    let known = place.first_number + place.own();
    let mut log = Array::<f32>::new(2usize);
    let mut along = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        log[half] = logs[known + comptime!(half * HALF)];
        let mut sum = 0.0f32;
        #[unroll]
        for tile in 0..comptime!(plan.across()) {
            let (found, by_row) = (found.index(tile), by_row.index(tile));
            #[unroll]
            for i in 0..comptime!(REGISTERS / 2) {
                let at = comptime!(2 * i + half);
                let found = Vector::<f32, Pair>::cast_from(found[at]);
                let product = found * Vector::cast_from(by_row[at]);
                sum += product.extract(0usize) + product.extract(1usize);
            }
        }
        along[half] = quad_sum(sum);
        if UNIT_POS_X.is_multiple_of(4) {
            sums_along[known + comptime!(half * HALF)] = along[half];
        }
    }

    let rows = QueryRows::<E> {
        query,
        by_row,
        log,
        along,
    };
    let mut by_query = no_sums(comptime!(plan.across()));
    if comptime!(plan.whole) {
        for number in 0..tokens / BLOCK {
            let block = Block::whole(number);
            add_by_query::<E, N>(
                projected,
                mask,
                &rows,
                &place,
                &block,
                &mut keys,
                &mut values,
                &mut by_query,
                plan,
            );
        }
    }
    if comptime!(plan.rest > 0) {
        let block = Block::rest(&place, plan);
        add_by_query::<E, N>(
            projected,
            mask,
            &rows,
            &place,
            &block,
            &mut keys,
            &mut values,
            &mut by_query,
            plan,
        );
    }
    let scale = comptime!(plan.scale()).runtime();
    #[unroll]
    for half in 0..2usize {
        store_row::<E>(
            &by_query,
            half,
            scale,
            by_projected,
            place.queries(),
            &place,
            plan,
        );
    }
}

/// What a plane keeps of its queries.
#[derive(CubeType)]
struct QueryRows<E: Float> {
    query: Sequence<Array<Vector<E, Pair>>>,
    /// The gradient by what they found.
    by_row: Sequence<Array<Vector<E, Pair>>>,
    /// Of the thread's two, the logarithm of the scores' exponentials' sum.
    log: Array<f32>,
    /// Of the thread's two, the sum of the weights' gradients by the weights.
    along: Array<f32>,
}

/// A block of keys and values is taken to shared memory, and the gradient by a plane's queries that comes from it is added.
#[cube]
fn add_by_query<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    rows: &QueryRows<E>,
    place: &Place,
    block: &Block,
    keys: &mut Shared<[Vector<E, N>]>,
    values: &mut Shared<[Vector<E, N>]>,
    by_query: &mut Array<Vector<f32, Pair>>,
    #[comptime] plan: Plan,
) {
    load_keys::<E, N>(projected, place, block, keys, values, plan);
    if place.takes_part() {
        let tiles = comptime!(block.tiles);
        let mut scores = no_sums(tiles);
        rows_by_rows::<E, N>(&rows.query, &*keys, 0usize, &mut scores, tiles, plan);
        mask_scores(&mut scores, mask, place, block, plan);
        let mut by_weights = no_sums(tiles);
        rows_by_rows::<E, N>(&rows.by_row, &*values, 0usize, &mut by_weights, tiles, plan);
        #[unroll]
        for tile in 0..comptime!(2 * tiles) {
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(2 * tile + half);
                let weights = exponentials(scores[at], rows.log[half]);
                scores[at] = weights * (by_weights[at] - Vector::new(rows.along[half]));
            }
        }
        #[unroll]
        for tile in 0..tiles {
            let by_scores = rounded::<E>(&scores, tile);
            let row = comptime!(tile * TILE).runtime();
            rows_by_columns::<E, N>(&by_scores, &*keys, row, by_query, plan);
        }
    }
}
