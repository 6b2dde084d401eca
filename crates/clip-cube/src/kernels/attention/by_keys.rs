use burn::cubecl::{self, prelude::*};

use super::{
    BLOCK, PLANES, Plan,
    place::Place,
    rows::{left_tiles, load_own, load_rows, rounded, rows_by_columns, rows_by_rows, store_row},
};
use crate::kernels::matrix_units::{HALF, Pair, TILE, no_sums};

/// The gradients by keys and values, from scores whose rows are keys.
#[cube(launch)]
pub(super) fn by_keys_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    logs: &[Vector<f32, Pair>],
    by_mixed: &[Vector<E, N>],
    sums_along: &[Vector<f32, Pair>],
    by_projected: &mut [Vector<E, Pair>],
    tokens: usize,
    heads: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let mut queries = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut by_rows = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let place = Place::new(tokens, heads, plan);
    // What is read once goes where queries and gradients will be.
    load_own::<E, N>(projected, place.keys(), &place, &mut queries, plan);
    load_own::<E, N>(projected, place.values(), &place, &mut by_rows, plan);
    sync_cube();
    let key = left_tiles::<E, N>(&queries, place.row, plan);
    let value = left_tiles::<E, N>(&by_rows, place.row, plan);

    let mut by_key = no_sums(comptime!(plan.across()));
    let mut by_value = no_sums(comptime!(plan.across()));
    for block in 0..tokens.div_ceil(BLOCK) {
        let first = block * BLOCK;
        sync_cube();
        load_rows::<E, N>(
            projected,
            place.queries(),
            first,
            tokens,
            &mut queries,
            PLANES,
            plan,
        );
        load_rows::<E, N>(
            by_mixed,
            place.mixed(),
            first,
            tokens,
            &mut by_rows,
            PLANES,
            plan,
        );
        sync_cube();
        let mut steps = min((tokens - first).div_ceil(TILE), PLANES);
        if !place.takes_part() {
            steps = 0;
        }
        for step in 0..steps {
            let row = step * TILE;
            let mut weights = no_sums(1usize);
            rows_by_rows::<E, N>(&key, &queries, row, &mut weights, 1usize, plan);
            let mut by_scores = no_sums(1usize);
            rows_by_rows::<E, N>(&value, &by_rows, row, &mut by_scores, 1usize, plan);
            weigh(
                &mut weights,
                &mut by_scores,
                mask,
                logs,
                sums_along,
                first + row,
                &place,
                plan,
            );
            let weights = rounded::<E>(&weights, 0usize);
            rows_by_columns::<E, N>(&weights, &by_rows, row, &mut by_value, plan);
            let by_scores = rounded::<E>(&by_scores, 0usize);
            rows_by_columns::<E, N>(&by_scores, &queries, row, &mut by_key, plan);
        }
    }
    let scale = comptime!(plan.scale()).runtime();
    #[unroll]
    for half in 0..2usize {
        store_row::<E>(
            &by_key,
            half,
            scale,
            by_projected,
            place.keys(),
            &place,
            plan,
        );
        store_row::<E>(
            &by_value,
            half,
            1.0f32,
            by_projected,
            place.values(),
            &place,
            plan,
        );
    }
}

/// From a tile of scores, whose rows are keys and whose columns are queries from `query` on, and of gradients by the
/// weights: the weights, and the gradients by the scores.
#[cube]
fn weigh(
    weights: &mut Array<Vector<f32, Pair>>,
    by_scores: &mut Array<Vector<f32, Pair>>,
    mask: &[f32],
    logs: &[Vector<f32, Pair>],
    sums_along: &[Vector<f32, Pair>],
    query: usize,
    place: &Place,
    #[comptime] plan: Plan,
) {
    let tokens = place.tokens;
    #[unroll]
    for tile in 0..2usize {
        let query = query + comptime!(tile * HALF) + UNIT_POS_X as usize % 4 * 2;
        let at = place.first_number + query;
        let pair = at / 2;
        let log = logs[pair];
        let along = sums_along[pair];
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            let mut scores = weights[at] * Vector::new(comptime!(plan.scale()).runtime());
            if comptime!(plan.masked) {
                let token = place.own() + comptime!(half * HALF);
                let mut added = Vector::<f32, Pair>::new(0.0f32);
                if token < tokens {
                    #[unroll]
                    for x in 0..2usize {
                        if query + x < tokens {
                            added.insert(x, mask[(query + x) * tokens + token]);
                        }
                    }
                }
                scores += added;
            }
            let mut weight = Vector::<f32, Pair>::empty();
            #[unroll]
            for x in 0..2usize {
                weight.insert(x, (scores.extract(x) - log.extract(x)).exp());
            }
            by_scores[at] = weight * (by_scores[at] - along);
            weights[at] = weight;
        }
    }
}
