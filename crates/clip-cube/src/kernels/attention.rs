//! Attention among the tokens of a sequence, forward and back, each as one kernel.
//!
//! A head of a sequence is a group of threads ("cube") of its own: its queries, keys and values fit in the memory that
//! the group shares, and so do all scores, so that none of them is written to the GPU's memory. Products are taken by its
//! matrix units, in tiles. The backward pass computes the scores again.

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{
        self,
        client::Client,
        cmma::{self, Matrix, MatrixIdent, MatrixLayout},
        prelude::*,
    },
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    matrix_units::{self, PLANE, TILE},
    memory::empty,
};

/// Planes of a cube: tiles and rows are theirs by turns.
const PLANES: u32 = 8;
/// Numbers that a thread reads and writes at once: 16 bytes of bf16 or f16.
const VECTOR: usize = 8;
/// Numbers between the ends of two rows of scores beyond their length, so that the rows' beginnings are in different
/// banks of the shared memory.
const SKEW: usize = 4;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Plan {
    /// Tokens, and zeros up to a whole tile.
    rows: usize,
    /// Of a head.
    width: usize,
    masked: bool,
}

impl Plan {
    fn new(tokens: usize, width: usize, masked: bool) -> Self {
        let rows = tokens.next_multiple_of(TILE);
        Self {
            rows,
            width,
            masked,
        }
    }

    /// Vectors of a head's row.
    const fn vectors(self) -> usize {
        self.width / VECTOR
    }

    /// Vectors from one row of queries to the next.
    const fn pitch(self) -> usize {
        self.vectors() + 1
    }

    /// Numbers from one row of scores, or of what comes out, to the next.
    fn score_pitch(self) -> usize {
        self.rows.max(self.width) + SKEW
    }

    /// Numbers from one row of weights to the next.
    const fn weight_pitch(self) -> usize {
        self.rows + VECTOR
    }

    /// Bytes of shared memory.
    fn bytes(self, back: bool) -> usize {
        let (operands, scores, weights) = if back { (4, 2, 2) } else { (3, 1, 1) };
        let half = 2 * (operands * self.pitch() * VECTOR + weights * self.weight_pitch());
        self.rows * (half + 4 * scores * self.score_pitch())
    }
}

/// Whether both kernels compute this on a device.
pub(crate) fn fits(client: &Client, dtype: DType, tokens: usize, head_width: usize) -> bool {
    let bytes = Plan::new(tokens, head_width, true).bytes(true);
    matrix_units::multiply(client, dtype)
        && head_width.is_multiple_of(TILE)
        && bytes <= client.properties().hardware.max_shared_memory_size
}

/// # Shapes
/// - `projected`: `[batch, tokens, 3 * width]`, queries, keys and values
/// - `mask`: `[tokens, tokens]`, added to the scores, in f32, if `masked`
/// - returns `[batch, tokens, width]`
pub(crate) fn forward(
    projected: CubeTensor,
    mask: CubeTensor,
    masked: bool,
    heads: usize,
) -> CubeTensor {
    let [batch, tokens, all] = projected.meta.shape().dims();
    let width = all / 3;
    let plan = Plan::new(tokens, width / heads, masked);
    let mixed = empty(
        &projected,
        Shape::new([batch, tokens, width]),
        projected.dtype,
    );
    let client = projected.client.clone();
    forward_kernel::launch(
        &client,
        CubeCount::Static(heads as u32, batch as u32, 1),
        CubeDim::new_2d(PLANE, PLANES),
        VECTOR,
        projected.into_buffer_arg(),
        mask.into_buffer_arg(),
        mixed.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype_to_storage_type(mixed.dtype),
    );
    mixed
}

/// # Shapes
/// - `projected`, `mask`: as [`forward`] got them
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
    let plan = Plan::new(tokens, all / 3 / heads, masked);
    let by_projected = empty(&projected, projected.meta.shape().clone(), projected.dtype);
    let client = projected.client.clone();
    back_kernel::launch(
        &client,
        CubeCount::Static(heads as u32, batch as u32, 1),
        CubeDim::new_2d(PLANE, PLANES),
        VECTOR,
        projected.into_buffer_arg(),
        mask.into_buffer_arg(),
        by_mixed.into_buffer_arg(),
        by_projected.clone().into_buffer_arg(),
        tokens,
        heads,
        plan,
        dtype_to_storage_type(by_projected.dtype),
    );
    by_projected
}

#[cube(launch)]
fn forward_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    mixed: &mut [Vector<E, N>],
    tokens: usize,
    heads: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let vectors = comptime!(plan.vectors());
    let operand = comptime!(plan.rows * plan.pitch());
    let score_pitch = comptime!(plan.score_pitch());
    let sequence = CUBE_POS_Y as usize;
    let head = CUBE_POS_X as usize;
    let all = heads * vectors;

    let mut queries = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut scores =
        Shared::<[f32]>::new_aligned_slice(comptime!(plan.rows * score_pitch), 128usize);
    let mut weights =
        Shared::<[E]>::new_aligned_slice(comptime!(plan.rows * plan.weight_pitch()), 128usize);

    let from = sequence * tokens * 3 * all + head * vectors;
    load_rows::<E, N>(projected, from, 3 * all, &mut queries, tokens, plan);
    load_rows::<E, N>(projected, from + all, 3 * all, &mut keys, tokens, plan);
    load_rows::<E, N>(
        projected,
        from + 2 * all,
        3 * all,
        &mut values,
        tokens,
        plan,
    );
    sync_cube();
    row_products::<E, N>(&queries, &keys, &mut scores, plan);
    sync_cube();
    softmax::<E>(mask, &mut scores, &mut weights, tokens, plan);
    sync_cube();
    weighted_rows::<E, N>(&weights, &values, &mut scores, false, plan);
    sync_cube();
    let to = sequence * tokens * all + head * vectors;
    store_rows::<E, N>(&scores, mixed, to, all, tokens, 1.0f32, plan);
}

#[cube(launch)]
fn back_kernel<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    mask: &[f32],
    by_mixed: &[Vector<E, N>],
    by_projected: &mut [Vector<E, N>],
    tokens: usize,
    heads: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let vectors = comptime!(plan.vectors());
    let operand = comptime!(plan.rows * plan.pitch());
    let score_pitch = comptime!(plan.score_pitch());
    let weight_pitch = comptime!(plan.weight_pitch());
    let sequence = CUBE_POS_Y as usize;
    let head = CUBE_POS_X as usize;
    let all = heads * vectors;

    let mut queries = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut keys = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut values = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut by_rows = Shared::<[Vector<E, N>]>::new_aligned_slice(operand, 128usize);
    let mut scores =
        Shared::<[f32]>::new_aligned_slice(comptime!(plan.rows * score_pitch), 128usize);
    let mut by_weights =
        Shared::<[f32]>::new_aligned_slice(comptime!(plan.rows * score_pitch), 128usize);
    let mut weights =
        Shared::<[E]>::new_aligned_slice(comptime!(plan.rows * weight_pitch), 128usize);
    let mut by_scores =
        Shared::<[E]>::new_aligned_slice(comptime!(plan.rows * weight_pitch), 128usize);

    let from = sequence * tokens * 3 * all + head * vectors;
    load_rows::<E, N>(projected, from, 3 * all, &mut queries, tokens, plan);
    load_rows::<E, N>(projected, from + all, 3 * all, &mut keys, tokens, plan);
    load_rows::<E, N>(
        projected,
        from + 2 * all,
        3 * all,
        &mut values,
        tokens,
        plan,
    );
    let of_mixed = sequence * tokens * all + head * vectors;
    load_rows::<E, N>(by_mixed, of_mixed, all, &mut by_rows, tokens, plan);
    sync_cube();
    row_products::<E, N>(&queries, &keys, &mut scores, plan);
    row_products::<E, N>(&by_rows, &values, &mut by_weights, plan);
    sync_cube();
    softmax::<E>(mask, &mut scores, &mut weights, tokens, plan);

    // The softmax's gradient; a row is its plane's, which has just written it.
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.rows) {
        let mut along = 0.0f32;
        let mut key = UNIT_POS_X as usize;
        while key < tokens {
            along += scores[row * score_pitch + key] * by_weights[row * score_pitch + key];
            key += PLANE as usize;
        }
        let along = plane_sum(along);
        let mut key = UNIT_POS_X as usize;
        while key < comptime!(plan.rows) {
            let mut by_score = 0.0f32;
            if key < tokens {
                let weight = scores[row * score_pitch + key];
                by_score = weight * (by_weights[row * score_pitch + key] - along);
            }
            by_scores[row * weight_pitch + key] = E::cast_from(by_score);
            key += PLANE as usize;
        }
        row += PLANES as usize;
    }
    sync_cube();

    let scale = comptime!(1.0 / (plan.width as f32).sqrt());
    weighted_rows::<E, N>(&by_scores, &keys, &mut scores, false, plan);
    weighted_rows::<E, N>(&by_scores, &queries, &mut by_weights, true, plan);
    sync_cube();
    store_rows::<E, N>(&scores, by_projected, from, 3 * all, tokens, scale, plan);
    store_rows::<E, N>(
        &by_weights,
        by_projected,
        from + all,
        3 * all,
        tokens,
        scale,
        plan,
    );
    sync_cube();
    weighted_rows::<E, N>(&weights, &by_rows, &mut scores, true, plan);
    sync_cube();
    store_rows::<E, N>(
        &scores,
        by_projected,
        from + 2 * all,
        3 * all,
        tokens,
        1.0f32,
        plan,
    );
}

/// A head's rows, one a token, into shared memory; zeros beyond the tokens.
#[cube]
fn load_rows<E: Float, N: Size>(
    from: &[Vector<E, N>],
    first: usize,
    stride: usize,
    rows: &mut Shared<[Vector<E, N>]>,
    tokens: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.vectors());
    let pitch = comptime!(plan.pitch());
    let mut at = UNIT_POS as usize;
    while at < comptime!(plan.rows * vectors) {
        let row = at / vectors;
        let column = at % vectors;
        let mut vector = Vector::<E, N>::new(E::from_int(0));
        if row < tokens {
            vector = from[first + row * stride + column];
        }
        rows[row * pitch + column] = vector;
        at += comptime!((PLANE * PLANES) as usize);
    }
}

/// Rows of f32 in shared memory, times a scale, to a head's rows.
#[cube]
fn store_rows<E: Float, N: Size>(
    rows: &Shared<[f32]>,
    to: &mut [Vector<E, N>],
    first: usize,
    stride: usize,
    tokens: usize,
    scale: f32,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.vectors());
    let pitch = comptime!(plan.score_pitch());
    let mut at = UNIT_POS as usize;
    while at < tokens * vectors {
        let row = at / vectors;
        let column = at % vectors;
        let mut vector = Vector::<E, N>::empty();
        #[unroll]
        for i in 0..VECTOR {
            let number = rows[row * pitch + column * VECTOR + i] * scale;
            vector.insert(i, E::cast_from(number));
        }
        to[first + row * stride + column] = vector;
        at += comptime!((PLANE * PLANES) as usize);
    }
}

/// The products of all rows of `a` with all rows of `b`.
#[cube]
fn row_products<E: Float, N: Size>(
    a: &Shared<[Vector<E, N>]>,
    b: &Shared<[Vector<E, N>]>,
    products: &mut Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let side = comptime!(plan.rows / TILE);
    let pitch = comptime!(plan.pitch());
    let end = comptime!(plan.rows * plan.pitch());
    let products_end = comptime!(plan.rows * plan.score_pitch());
    let mut tile = UNIT_POS_Y as usize;
    while tile < comptime!(side * side) {
        let row = tile / side * TILE;
        let column = tile % side * TILE;
        let sum = Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            TILE,
            TILE,
            TILE,
            MatrixLayout::Undefined,
            0.0,
        );
        #[unroll]
        for step in 0..comptime!(plan.width / TILE) {
            let along = comptime!(step * TILE / VECTOR);
            let a = Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::A,
                TILE,
                TILE,
                TILE,
                MatrixLayout::RowMajor,
                &a[row * pitch + along..end],
                comptime!((pitch * VECTOR) as u32),
            );
            let b = Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::B,
                TILE,
                TILE,
                TILE,
                MatrixLayout::ColMajor,
                &b[column * pitch + along..end],
                comptime!((pitch * VECTOR) as u32),
            );
            cmma::execute(&a, &b, &sum, &sum);
        }
        cmma::store(
            &mut products[row * comptime!(plan.score_pitch()) + column..products_end],
            &sum,
            comptime!(plan.score_pitch() as u32),
            MatrixLayout::RowMajor,
        );
        tile += PLANES as usize;
    }
}

/// Scores to weights, in f32 where they were and rounded; zeros beyond the tokens.
#[cube]
fn softmax<E: Float>(
    mask: &[f32],
    scores: &mut Shared<[f32]>,
    weights: &mut Shared<[E]>,
    tokens: usize,
    #[comptime] plan: Plan,
) {
    let scale = comptime!(1.0 / (plan.width as f32).sqrt());
    let pitch = comptime!(plan.score_pitch());
    let weight_pitch = comptime!(plan.weight_pitch());
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.rows) {
        let first = row * pitch;
        let mut most = f32::min_value();
        let mut key = UNIT_POS_X as usize;
        while key < tokens {
            let mut score = scores[first + key] * scale;
            if comptime!(plan.masked) {
                if row < tokens {
                    score += mask[row * tokens + key];
                }
            }
            scores[first + key] = score;
            most = max(most, score);
            key += PLANE as usize;
        }
        let most = plane_max(most);
        let mut sum = 0.0f32;
        let mut key = UNIT_POS_X as usize;
        while key < tokens {
            let weight = (scores[first + key] - most).exp();
            scores[first + key] = weight;
            sum += weight;
            key += PLANE as usize;
        }
        let sum = plane_sum(sum);
        let mut key = UNIT_POS_X as usize;
        while key < comptime!(plan.rows) {
            let mut weight = 0.0f32;
            if key < tokens {
                if row < tokens {
                    weight = scores[first + key] / sum;
                }
            }
            scores[first + key] = weight;
            weights[row * weight_pitch + key] = E::cast_from(weight);
            key += PLANE as usize;
        }
        row += PLANES as usize;
    }
}

/// Sums of rows, each times a weight, by the weights' rows or by their columns.
#[cube]
fn weighted_rows<E: Float, N: Size>(
    weights: &Shared<[E]>,
    rows: &Shared<[Vector<E, N>]>,
    sums: &mut Shared<[f32]>,
    #[comptime] by_column: bool,
    #[comptime] plan: Plan,
) {
    let across = comptime!(plan.width / TILE);
    let pitch = comptime!(plan.pitch());
    let weight_pitch = comptime!(plan.weight_pitch());
    let end = comptime!(plan.rows * plan.pitch());
    let weights_end = comptime!(plan.rows * plan.weight_pitch());
    let sums_end = comptime!(plan.rows * plan.score_pitch());
    let mut tile = UNIT_POS_Y as usize;
    while tile < comptime!(plan.rows / TILE * across) {
        let row = tile / across * TILE;
        let column = tile % across * TILE;
        let sum = Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            TILE,
            TILE,
            TILE,
            MatrixLayout::Undefined,
            0.0,
        );
        #[unroll]
        for step in 0..comptime!(plan.rows / TILE) {
            let along = comptime!(step * TILE);
            let layout = comptime!(if by_column {
                MatrixLayout::ColMajor
            } else {
                MatrixLayout::RowMajor
            });
            let first = if comptime!(by_column) {
                along * weight_pitch + row
            } else {
                row * weight_pitch + along
            };
            let a = Matrix::<E>::from_slice(
                MatrixIdent::A,
                TILE,
                TILE,
                TILE,
                layout,
                &weights[first..weights_end],
                weight_pitch as u32,
            );
            let b = Matrix::<Vector<E, N>>::from_slice(
                MatrixIdent::B,
                TILE,
                TILE,
                TILE,
                MatrixLayout::RowMajor,
                &rows[along * pitch + column / VECTOR..end],
                comptime!((pitch * VECTOR) as u32),
            );
            cmma::execute(&a, &b, &sum, &sum);
        }
        cmma::store(
            &mut sums[row * comptime!(plan.score_pitch()) + column..sums_end],
            &sum,
            comptime!(plan.score_pitch() as u32),
            MatrixLayout::RowMajor,
        );
        tile += PLANES as usize;
    }
}
