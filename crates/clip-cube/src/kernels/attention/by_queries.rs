use burn::cubecl::{self, prelude::*};

use super::{
    BLOCK, Plan, VECTOR,
    rows::{
        exponentials, follow, left_tiles, load_keys, load_rows, mask_scores, quad_sum, rounded,
        rows_by_columns, rows_by_rows, store_row,
    },
};
use crate::kernels::matrix_units::{HALF, Pair, TILE, no_sums};

/// The gradient by queries; and of each query what the gradients by keys and values want to know: the logarithm of the sum
/// of its scores' exponentials, and the sum of its weights' gradients by the weights.
#[cube(launch)]
pub(super) fn by_queries_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    by_mixed: &[Vector<E, N>],
    by_projected: &mut [Vector<E, Pair>],
    statistics: &mut [f32],
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

    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let from = sequence * tokens * 3 * all + head * vectors;
    let of_mixed = sequence * tokens * all + head * vectors;
    let whole = comptime!(BLOCK / TILE);
    // Queries and gradients are read once: they go where keys and values will be.
    load_rows::<E, N>(
        projected,
        from,
        3 * all,
        first,
        tokens,
        &mut keys,
        whole,
        plan,
    );
    load_rows::<E, N>(
        by_mixed,
        of_mixed,
        all,
        first,
        tokens,
        &mut values,
        whole,
        plan,
    );
    sync_cube();
    let query = left_tiles::<E, N>(&keys, row, plan);
    let by_row = left_tiles::<E, N>(&values, row, plan);

    let lane = UNIT_POS_X as usize;
    let own = first + row + lane / 4;
    let mut most = Array::<f32>::new(2usize);
    let mut sum = Array::<f32>::new(2usize);
    let mut along = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        most[half] = f32::min_value();
        sum[half] = 0.0f32;
        along[half] = 0.0f32;
    }
    // A plane whose queries are all beyond the tokens helps to load only.
    let takes_part = first + row < tokens;
    let blocks = tokens / BLOCK;
    for block in 0..blocks {
        let key = block * BLOCK;
        load_keys::<E, N>(
            projected,
            from,
            all,
            key,
            tokens,
            &mut keys,
            &mut values,
            whole,
            plan,
        );
        if takes_part {
            weigh::<E, N>(
                &query, &by_row, &keys, &values, mask, own, key, tokens, &mut most, &mut sum,
                &mut along, whole, false, plan,
            );
        }
    }
    if comptime!(plan.rest > 0) {
        let rest = comptime!(plan.rest);
        let key = blocks * BLOCK;
        load_keys::<E, N>(
            projected,
            from,
            all,
            key,
            tokens,
            &mut keys,
            &mut values,
            rest,
            plan,
        );
        if takes_part {
            weigh::<E, N>(
                &query, &by_row, &keys, &values, mask, own, key, tokens, &mut most, &mut sum,
                &mut along, rest, true, plan,
            );
        }
    }
    #[unroll]
    for half in 0..2usize {
        let whole = quad_sum(sum[half]);
        most[half] += whole.ln();
        along[half] = quad_sum(along[half]) / whole;
    }
    if takes_part && lane.is_multiple_of(4) {
        let rows = tokens.div_ceil(BLOCK) * BLOCK;
        #[unroll]
        for half in 0..2usize {
            let token = own + comptime!(half * HALF);
            let at = 2 * ((sequence * heads + head) * rows + token);
            statistics[at] = most[half];
            statistics[at + 1] = along[half];
        }
    }

    // Once more, from the last block on, which is there still.
    let mut by_query = no_sums(comptime!(plan.across()));
    if comptime!(plan.rest > 0) {
        if takes_part {
            let key = blocks * BLOCK;
            add_by_query::<E, N>(
                &query,
                &by_row,
                &keys,
                &values,
                mask,
                own,
                key,
                tokens,
                &most,
                &along,
                &mut by_query,
                plan.rest,
                true,
                plan,
            );
        }
    }
    for block in 0..blocks {
        let key = (blocks - 1 - block) * BLOCK;
        let mut is_there = block == 0;
        if comptime!(plan.rest > 0) {
            is_there = false;
        }
        if !is_there {
            load_keys::<E, N>(
                projected,
                from,
                all,
                key,
                tokens,
                &mut keys,
                &mut values,
                whole,
                plan,
            );
        }
        if takes_part {
            add_by_query::<E, N>(
                &query,
                &by_row,
                &keys,
                &values,
                mask,
                own,
                key,
                tokens,
                &most,
                &along,
                &mut by_query,
                whole,
                false,
                plan,
            );
        }
    }
    #[unroll]
    for half in 0..2usize {
        let token = own + comptime!(half * HALF);
        if token < tokens {
            store_row::<E>(
                &by_query,
                half,
                comptime!(plan.scale()).runtime(),
                by_projected,
                (from + token * 3 * all) * comptime!(VECTOR / 2),
                plan,
            );
        }
    }
}

/// Takes a plane's greatest scores, the sums of their exponentials and those of the exponentials times the gradients by
/// them along the tiles of keys from `key` on.
#[cube]
fn weigh<E: Float, N: Size>(
    query: &Sequence<Array<Vector<E, Pair>>>,
    by_row: &Sequence<Array<Vector<E, Pair>>>,
    keys: &Shared<[Vector<E, N>]>,
    values: &Shared<[Vector<E, N>]>,
    mask: &[f32],
    own: usize,
    key: usize,
    tokens: usize,
    most: &mut Array<f32>,
    sum: &mut Array<f32>,
    along: &mut Array<f32>,
    #[comptime] tiles: usize,
    #[comptime] partial: bool,
    #[comptime] plan: Plan,
) {
    let mut scores = no_sums(tiles);
    rows_by_rows::<E, N>(query, keys, 0usize, &mut scores, tiles, plan);
    mask_scores(&mut scores, mask, own, key, tokens, tiles, partial, plan);
    let mut by_weights = no_sums(tiles);
    rows_by_rows::<E, N>(by_row, values, 0usize, &mut by_weights, tiles, plan);
    let factors = follow(&scores, most, tiles);
    #[unroll]
    for half in 0..2usize {
        sum[half] *= factors[half];
        along[half] *= factors[half];
    }
    #[unroll]
    for tile in 0..comptime!(2 * tiles) {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            let weights = exponentials(scores[at], most[half]);
            let products = weights * by_weights[at];
            sum[half] += weights.extract(0usize) + weights.extract(1usize);
            along[half] += products.extract(0usize) + products.extract(1usize);
        }
    }
}

/// Adds the gradient by a plane's queries that comes from the tiles of keys from `key` on.
#[cube]
fn add_by_query<E: Float, N: Size>(
    query: &Sequence<Array<Vector<E, Pair>>>,
    by_row: &Sequence<Array<Vector<E, Pair>>>,
    keys: &Shared<[Vector<E, N>]>,
    values: &Shared<[Vector<E, N>]>,
    mask: &[f32],
    own: usize,
    key: usize,
    tokens: usize,
    most: &Array<f32>,
    along: &Array<f32>,
    by_query: &mut Array<Vector<f32, Pair>>,
    #[comptime] tiles: usize,
    #[comptime] partial: bool,
    #[comptime] plan: Plan,
) {
    let mut scores = no_sums(tiles);
    rows_by_rows::<E, N>(query, keys, 0usize, &mut scores, tiles, plan);
    mask_scores(&mut scores, mask, own, key, tokens, tiles, partial, plan);
    let mut by_weights = no_sums(tiles);
    rows_by_rows::<E, N>(by_row, values, 0usize, &mut by_weights, tiles, plan);
    #[unroll]
    for tile in 0..comptime!(2 * tiles) {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            let weights = exponentials(scores[at], most[half]);
            scores[at] = weights * (by_weights[at] - Vector::new(along[half]));
        }
    }
    #[unroll]
    for tile in 0..tiles {
        let by_scores = rounded::<E>(&scores, tile);
        let row = comptime!(tile * TILE).runtime();
        rows_by_columns::<E, N>(&by_scores, keys, row, by_query, plan);
    }
}
