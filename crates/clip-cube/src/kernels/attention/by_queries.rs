use burn::cubecl::{self, prelude::*};

use super::{
    BLOCK, Plan, VECTOR,
    rows::{
        exponentials, left_tiles, load_keys, load_rows, mask_scores, quad_sum, rounded,
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
    // What is read once goes where keys and values will be.
    load_rows::<E, N>(mixed, of_mixed, all, first, tokens, &mut keys, whole, plan);
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
    let found = left_tiles::<E, N>(&keys, row, plan);
    let by_row = left_tiles::<E, N>(&values, row, plan);
    sync_cube();
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
    sync_cube();
    let query = left_tiles::<E, N>(&keys, row, plan);

    let lane = UNIT_POS_X as usize;
    let own = first + row + lane / 4;
    let known = (sequence * heads + head) * tokens.div_ceil(BLOCK) * BLOCK + own;
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
        if lane.is_multiple_of(4) {
            sums_along[known + comptime!(half * HALF)] = along[half];
        }
    }

    // A plane whose queries are all beyond the tokens helps to load only.
    let takes_part = first + row < tokens;
    let blocks = tokens / BLOCK;
    let mut by_query = no_sums(comptime!(plan.across()));
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
            add_by_query::<E, N>(
                &query,
                &by_row,
                &keys,
                &values,
                mask,
                own,
                key,
                tokens,
                &log,
                &along,
                &mut by_query,
                whole,
                false,
                plan,
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
            add_by_query::<E, N>(
                &query,
                &by_row,
                &keys,
                &values,
                mask,
                own,
                key,
                tokens,
                &log,
                &along,
                &mut by_query,
                rest,
                true,
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
    log: &Array<f32>,
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
            let weights = exponentials(scores[at], log[half]);
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
