use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{self, prelude::*},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    BLOCK, Plan, VECTOR, launch, padded,
    rows::{
        exponentials, follow, left_tiles, load_keys, load_rows, mask_scores, quad_sum, rounded,
        rows_by_columns, rows_by_rows, store_row,
    },
};
use crate::kernels::{
    matrix_units::{HALF, Pair, TILE, no_sums},
    memory::empty,
};

/// # Shapes
/// - `projected`: `[batch, tokens, 3 * width]`, queries, keys and values
/// - `mask`: `[tokens, tokens]`, added to the scores, in f32, if `masked`
/// - returns `[batch, tokens, width]`; and of each head's rows, `[batch, heads, padded]`, the logarithm of the sum of the
///   scores' exponentials, in f32
pub(crate) fn forward(
    projected: CubeTensor,
    mask: CubeTensor,
    masked: bool,
    heads: usize,
) -> (CubeTensor, CubeTensor) {
    let [batch, tokens, all] = projected.meta.shape().dims();
    let width = all / 3;
    let shape = Shape::new([batch, tokens, width]);
    let mixed = empty(&projected, shape, projected.dtype);
    let shape = Shape::new([batch, heads, padded(tokens)]);
    let logs = empty(&projected, shape, DType::F32);
    let client = projected.client.clone();
    let (count, dim) = launch(tokens, heads, batch);
    forward_kernel::launch(
        &client,
        count,
        dim,
        VECTOR,
        projected.into_buffer_arg(),
        mask.into_buffer_arg(),
        mixed.clone().into_buffer_arg(),
        logs.clone().into_buffer_arg(),
        tokens,
        heads,
        Plan::new(tokens, width / heads, masked),
        dtype_to_storage_type(mixed.dtype),
    );
    (mixed, logs)
}

#[cube(launch)]
fn forward_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    mixed: &mut [Vector<E, Pair>],
    logs: &mut [f32],
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
    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let from = sequence * tokens * 3 * all + head * vectors;
    let whole = comptime!(BLOCK / TILE);
    load_rows::<E, N>(
        projected,
        from,
        3 * all,
        first,
        tokens,
        &mut queries,
        whole,
        plan,
    );
    sync_cube();
    let query = left_tiles::<E, N>(&queries, row, plan);

    let own = first + row + UNIT_POS_X as usize / 4;
    let mut most = Array::<f32>::new(2usize);
    let mut sum = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        most[half] = f32::min_value();
        sum[half] = 0.0f32;
    }
    let mut found = no_sums(comptime!(plan.across()));

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
            attend::<E, N>(
                &query, &keys, &values, mask, own, key, tokens, &mut most, &mut sum, &mut found,
                whole, false, plan,
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
            attend::<E, N>(
                &query, &keys, &values, mask, own, key, tokens, &mut most, &mut sum, &mut found,
                rest, true, plan,
            );
        }
    }

    let of_logs = (sequence * heads + head) * tokens.div_ceil(BLOCK) * BLOCK;
    let to = (sequence * tokens * all + head * vectors) * comptime!(VECTOR / 2);
    #[unroll]
    for half in 0..2usize {
        let whole = quad_sum(sum[half]);
        let token = own + comptime!(half * HALF);
        if UNIT_POS_X.is_multiple_of(4) {
            logs[of_logs + token] = most[half] + whole.ln();
        }
        if token < tokens {
            store_row::<E>(
                &found,
                half,
                1.0f32 / whole,
                mixed,
                to + token * all * comptime!(VECTOR / 2),
                plan,
            );
        }
    }
}

/// A plane's queries and the tiles of keys and values from `key` on: what they find is added to what they `found`.
#[cube]
fn attend<E: Float, N: Size>(
    query: &Sequence<Array<Vector<E, Pair>>>,
    keys: &Shared<[Vector<E, N>]>,
    values: &Shared<[Vector<E, N>]>,
    mask: &[f32],
    own: usize,
    key: usize,
    tokens: usize,
    most: &mut Array<f32>,
    sum: &mut Array<f32>,
    found: &mut Array<Vector<f32, Pair>>,
    #[comptime] tiles: usize,
    #[comptime] partial: bool,
    #[comptime] plan: Plan,
) {
    let mut scores = no_sums(tiles);
    rows_by_rows::<E, N>(query, keys, 0usize, &mut scores, tiles, plan);
    mask_scores(&mut scores, mask, own, key, tokens, tiles, partial, plan);
    let factors = follow(&scores, most, tiles);
    #[unroll]
    for half in 0..2usize {
        sum[half] *= factors[half];
    }
    #[unroll]
    for tile in 0..comptime!(2 * tiles) {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            let weights = exponentials(scores[at], most[half]);
            sum[half] += weights.extract(0usize) + weights.extract(1usize);
            scores[at] = weights;
        }
    }
    #[unroll]
    for tile in 0..comptime!(2 * plan.across()) {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            found[at] *= Vector::new(factors[half]);
        }
    }
    #[unroll]
    for tile in 0..tiles {
        let weights = rounded::<E>(&scores, tile);
        let row = comptime!(tile * TILE).runtime();
        rows_by_columns::<E, N>(&weights, values, row, found, plan);
    }
}
