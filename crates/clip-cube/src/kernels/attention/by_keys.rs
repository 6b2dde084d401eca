use burn::cubecl::{self, prelude::*};

use super::{
    BLOCK, Plan, VECTOR,
    rows::{left_tiles, load_rows, rounded, rows_by_columns, rows_by_rows, store_row},
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
    let vectors = comptime!(plan.vectors());
    let all = heads * vectors;
    let first = CUBE_POS_X as usize * BLOCK;
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let row = UNIT_POS_Y as usize * TILE;

    let mut queries = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut by_rows = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let from = sequence * tokens * 3 * all + head * vectors;
    let of_mixed = sequence * tokens * all + head * vectors;
    let whole = comptime!(BLOCK / TILE);
    let from_values = from + 2 * all;
    load_rows::<E, N>(
        projected,
        from + all,
        3 * all,
        first,
        tokens,
        &mut queries,
        whole,
        plan,
    );
    load_rows::<E, N>(
        projected,
        from_values,
        3 * all,
        first,
        tokens,
        &mut by_rows,
        whole,
        plan,
    );
    sync_cube();
    let key = left_tiles::<E, N>(&queries, row, plan);
    let value = left_tiles::<E, N>(&by_rows, row, plan);

    let lane = UNIT_POS_X as usize;
    let own = first + row + lane / 4;
    let blocks = tokens.div_ceil(BLOCK);
    let known = (sequence * heads + head) * blocks * BLOCK;
    let mut by_key = no_sums(comptime!(plan.across()));
    let mut by_value = no_sums(comptime!(plan.across()));
    for block in 0..blocks {
        let from_query = block * BLOCK;
        sync_cube();
        load_rows::<E, N>(
            projected,
            from,
            3 * all,
            from_query,
            tokens,
            &mut queries,
            whole,
            plan,
        );
        load_rows::<E, N>(
            by_mixed,
            of_mixed,
            all,
            from_query,
            tokens,
            &mut by_rows,
            whole,
            plan,
        );
        sync_cube();
        let mut steps = min((tokens - from_query).div_ceil(TILE), whole);
        // A plane whose keys are all beyond the tokens helps to load only.
        if first + row >= tokens {
            steps = 0;
        }
        for step in 0..steps {
            let at_query = step * TILE;
            let mut weights = no_sums(1usize);
            rows_by_rows::<E, N>(&key, &queries, at_query, &mut weights, 1usize, plan);
            let mut by_scores = no_sums(1usize);
            rows_by_rows::<E, N>(&value, &by_rows, at_query, &mut by_scores, 1usize, plan);
            #[unroll]
            for tile in 0..2usize {
                let query = from_query + at_query + comptime!(tile * HALF) + lane % 4 * 2;
                let pair = known + query;
                let log = logs[pair / 2];
                let along = sums_along[pair / 2];
                #[unroll]
                for half in 0..2usize {
                    let at = comptime!(2 * tile + half);
                    let mut scores = weights[at] * Vector::new(comptime!(plan.scale()).runtime());
                    if comptime!(plan.masked) {
                        let token = own + comptime!(half * HALF);
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
            let weights = rounded::<E>(&weights, 0usize);
            rows_by_columns::<E, N>(&weights, &by_rows, at_query, &mut by_value, plan);
            let by_scores = rounded::<E>(&by_scores, 0usize);
            rows_by_columns::<E, N>(&by_scores, &queries, at_query, &mut by_key, plan);
        }
    }
    #[unroll]
    for half in 0..2usize {
        let token = own + comptime!(half * HALF);
        if token < tokens {
            let to = from + token * 3 * all;
            store_row::<E>(
                &by_key,
                half,
                comptime!(plan.scale()).runtime(),
                by_projected,
                (to + all) * comptime!(VECTOR / 2),
                plan,
            );
            store_row::<E>(
                &by_value,
                half,
                1.0f32,
                by_projected,
                (to + 2 * all) * comptime!(VECTOR / 2),
                plan,
            );
        }
    }
}
