use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{self, prelude::*},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    BLOCK, Plan, VECTOR, launch,
    rows::{
        exponentials, follow, left_tiles, load_rows, mask_scores, quad_sum, rounded,
        rows_by_columns, rows_by_rows, store_row,
    },
};
use crate::kernels::{
    matrix_units::{HALF, Pair, TILE, no_sums},
    memory::empty,
};

/// # Shapes
/// - `projected`, `mask`: as `forward` got them
/// - `by_mixed`: `[batch, tokens, width]`, the gradient by what it gave
/// - returns the gradient by `projected`
pub(crate) fn back(
    projected: CubeTensor,
    mask: CubeTensor,
    masked: bool,
    by_mixed: CubeTensor,
    heads: usize,
) -> CubeTensor {
    let [batch, tokens, all] = projected.meta.shape().dims();
    let blocks = tokens.div_ceil(BLOCK);
    let plan = Plan::new(tokens, all / 3 / heads, masked);
    let dtype = dtype_to_storage_type(projected.dtype);
    let (count, dim) = launch(tokens, heads, batch);
    let by_projected = empty(&projected, projected.meta.shape().clone(), projected.dtype);
    let statistics = empty(
        &projected,
        Shape::new([batch, heads, blocks * BLOCK, 2]),
        DType::F32,
    );
    let client = projected.client.clone();
    by_queries_kernel::launch(
        &client,
        count.clone(),
        dim,
        VECTOR,
        projected.clone().into_buffer_arg(),
        mask.clone().into_buffer_arg(),
        by_mixed.clone().into_buffer_arg(),
        by_projected.clone().into_buffer_arg(),
        statistics.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype,
    );
    by_keys_kernel::launch(
        &client,
        count,
        dim,
        VECTOR,
        projected.into_buffer_arg(),
        mask.into_buffer_arg(),
        by_mixed.into_buffer_arg(),
        statistics.into_buffer_arg(),
        by_projected.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype,
    );
    by_projected
}

/// The gradient by queries; and of each query what the gradients by keys and values want to know: the logarithm of the sum
/// of its scores' exponentials, and the sum of its weights' gradients by the weights.
#[cube(launch)]
fn by_queries_kernel<E: Float, N: Size>(
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
    let from_keys = from + all;
    let from_values = from + 2 * all;
    let blocks = tokens / BLOCK;
    for block in 0..blocks {
        let key = block * BLOCK;
        sync_cube();
        load_rows::<E, N>(
            projected,
            from_keys,
            3 * all,
            key,
            tokens,
            &mut keys,
            whole,
            plan,
        );
        load_rows::<E, N>(
            projected,
            from_values,
            3 * all,
            key,
            tokens,
            &mut values,
            whole,
            plan,
        );
        sync_cube();
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
        sync_cube();
        load_rows::<E, N>(
            projected,
            from_keys,
            3 * all,
            key,
            tokens,
            &mut keys,
            rest,
            plan,
        );
        load_rows::<E, N>(
            projected,
            from_values,
            3 * all,
            key,
            tokens,
            &mut values,
            rest,
            plan,
        );
        sync_cube();
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
    if takes_part && lane % 4 == 0 {
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
            sync_cube();
            load_rows::<E, N>(
                projected,
                from_keys,
                3 * all,
                key,
                tokens,
                &mut keys,
                whole,
                plan,
            );
            load_rows::<E, N>(
                projected,
                from_values,
                3 * all,
                key,
                tokens,
                &mut values,
                whole,
                plan,
            );
            sync_cube();
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

/// The gradients by keys and values, from scores whose rows are keys.
#[cube(launch)]
fn by_keys_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    by_mixed: &[Vector<E, N>],
    statistics: &[Vector<f32, Pair>],
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
                let left = statistics[known + query];
                let right = statistics[known + query + 1];
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
                        scores = scores + added;
                    }
                    let by_weights = by_scores[at];
                    let mut weight = Vector::<f32, Pair>::empty();
                    let mut by_score = Vector::<f32, Pair>::empty();
                    let of_left = (scores.extract(0usize) - left.extract(0usize)).exp();
                    let of_right = (scores.extract(1usize) - right.extract(0usize)).exp();
                    weight.insert(0usize, of_left);
                    weight.insert(1usize, of_right);
                    by_score.insert(
                        0usize,
                        of_left * (by_weights.extract(0usize) - left.extract(1usize)),
                    );
                    by_score.insert(
                        1usize,
                        of_right * (by_weights.extract(1usize) - right.extract(1usize)),
                    );
                    weights[at] = weight;
                    by_scores[at] = by_score;
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
