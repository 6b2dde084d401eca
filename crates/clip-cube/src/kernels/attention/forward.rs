use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{self, prelude::*},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    BLOCK, Plan, VECTOR, launch, padded,
    place::{Block, Place},
    rows::{
        exponentials, follow, left_tiles, load_keys, load_own, mask_scores, quad_sum, rounded,
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
    let mut queries = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(plan.size()), 128usize);

    let place = Place::new(tokens, heads, plan);
    load_own::<E, N>(projected, place.queries(), &place, &mut queries, plan);
    sync_cube();
    let query = left_tiles::<E, N>(&queries, place.row, plan);

    let mut found = Found::new(plan);
    if comptime!(plan.whole) {
        for number in 0..tokens / BLOCK {
            let block = Block::whole(number);
            attend::<E, N>(
                projected,
                mask,
                &query,
                &place,
                &block,
                &mut keys,
                &mut values,
                &mut found,
                plan,
            );
        }
    }
    if comptime!(plan.rest > 0) {
        let block = Block::rest(&place, plan);
        attend::<E, N>(
            projected,
            mask,
            &query,
            &place,
            &block,
            &mut keys,
            &mut values,
            &mut found,
            plan,
        );
    }

    #[unroll]
    for half in 0..2usize {
        let sum = quad_sum(found.sum[half]);
        if UNIT_POS_X.is_multiple_of(4) {
            let own = place.own() + comptime!(half * HALF);
            logs[place.first_number + own] = found.most[half] + sum.ln();
        }
        let factor = 1.0f32 / sum;
        store_row::<E>(
            &found.mixed,
            half,
            factor,
            mixed,
            place.mixed(),
            &place,
            plan,
        );
    }
}

/// What a thread's two queries have found so far.
#[derive(CubeType)]
struct Found {
    /// The greatest score.
    most: Array<f32>,
    /// The thread's part of the sum of the weights.
    sum: Array<f32>,
    /// The thread's part of the values times the weights.
    mixed: Array<Vector<f32, Pair>>,
}

#[cube]
impl Found {
    fn new(#[comptime] plan: Plan) -> Found {
        let mut most = Array::<f32>::new(2usize);
        let mut sum = Array::<f32>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            most[half] = f32::min_value();
            sum[half] = 0.0f32;
        }
        let mixed = no_sums(comptime!(plan.across()));
        Found { most, sum, mixed }
    }
}

/// A block of keys and values is taken to shared memory, and what a plane's queries find there is added to what they found.
#[cube]
fn attend<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    query: &Sequence<Array<Vector<E, Pair>>>,
    place: &Place,
    block: &Block,
    keys: &mut Shared<[Vector<E, N>]>,
    values: &mut Shared<[Vector<E, N>]>,
    found: &mut Found,
    #[comptime] plan: Plan,
) {
    load_keys::<E, N>(projected, place, block, keys, values, plan);
    if place.takes_part() {
        let tiles = comptime!(block.tiles);
        let mut scores = no_sums(tiles);
        rows_by_rows::<E, N>(query, &*keys, 0usize, &mut scores, tiles, plan);
        mask_scores(&mut scores, mask, place, block, plan);
        let factors = follow(&scores, &mut found.most, tiles);
        #[unroll]
        for half in 0..2usize {
            found.sum[half] *= factors[half];
        }
        #[unroll]
        for tile in 0..comptime!(2 * tiles) {
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(2 * tile + half);
                let weights = exponentials(scores[at], found.most[half]);
                found.sum[half] += weights.extract(0usize) + weights.extract(1usize);
                scores[at] = weights;
            }
        }
        #[unroll]
        for tile in 0..comptime!(2 * plan.across()) {
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(2 * tile + half);
                found.mixed[at] *= Vector::new(factors[half]);
            }
        }
        #[unroll]
        for tile in 0..tiles {
            let weights = rounded::<E>(&scores, tile);
            let row = comptime!(tile * TILE).runtime();
            rows_by_columns::<E, N>(&weights, &*values, row, &mut found.mixed, plan);
        }
    }
}
