//! Products of matrices in bf16 or f16 by the matrix units, in whichever order each matrix lies.
//!
//! A cube computes a block of the product. Of both matrices it takes `DEPTH` numbers of each of its rows and columns at
//! once to shared memory, while its planes multiply those before, each a rectangle of tiles whose sums stay in registers.

mod block;
mod kernels;
mod plan;

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::prelude::*,
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

pub(crate) use self::plan::{fits, parts};
use self::{
    kernels::{product_kernel, sums_kernel},
    plan::Plan,
};
use crate::{
    Activation,
    kernels::{matrix_units::TILE, memory::empty},
};

/// Tiles of a plane's rectangle, down and across.
const TILES: usize = 4;
/// Numbers along its sides.
const SIDE: usize = TILES * TILE;
/// Numbers of a row or column that are in shared memory at once.
const DEPTH: usize = 64;
/// Tiles along them.
const STRIPS: usize = DEPTH / TILE;
/// Numbers that a thread reads and writes at once: 16 bytes.
const VECTOR: usize = 8;
/// Numbers from the end of a row in shared memory to the next, of operands and of sums.
const SKEW: usize = 8;
const SUM_PITCH: usize = TILE + 4;

/// # Shapes
/// - `left`: `[m, k]`; `right`: `[k, n]`, or `[n, k]` if it is `transposed`; `bias`: `[n]`, if it is `biased`
/// - returns the product `[m, n]` like them, and what the activation makes of it, if there is one
#[expect(
    clippy::many_single_char_names,
    reason = "what every library calls them"
)]
pub(crate) fn product(
    left: CubeTensor,
    right: CubeTensor,
    transposed: bool,
    bias: CubeTensor,
    biased: bool,
    activation: Option<Activation>,
) -> (CubeTensor, CubeTensor) {
    let [m, k] = left.meta.shape().dims();
    let [a, b] = right.meta.shape().dims();
    let n = if transposed { a } else { b };
    let client = left.client.clone();
    let plan = Plan {
        by_column: (false, transposed),
        biased,
        activation,
        ..Plan::new(&client, [m, n])
    };
    let (down, across) = plan.block();
    let out = empty(&left, Shape::new([m, n]), left.dtype);
    let values = match activation {
        Some(_) => empty(&left, Shape::new([m, n]), left.dtype),
        // Not written.
        None => out.clone(),
    };
    product_kernel::launch(
        &client,
        CubeCount::Static((n / across) as u32, (m / down) as u32, 1),
        plan.dim(),
        VECTOR,
        left.into_buffer_arg(),
        right.into_buffer_arg(),
        bias.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        values.clone().into_buffer_arg(),
        m,
        n,
        k,
        k / DEPTH,
        plan,
        dtype_to_storage_type(out.dtype),
    );
    (out, values)
}

/// # Shapes
/// - `left`: `[k, m]`; `right`: `[k, n]`
/// - returns the transposed left one's product with the right one, in parts of `k`, `[parts, m, n]`, in f32
pub(crate) fn sums(left: CubeTensor, right: CubeTensor, parts: usize) -> CubeTensor {
    let [k, m] = left.meta.shape().dims();
    let [_, n] = right.meta.shape().dims();
    let client = left.client.clone();
    let plan = Plan {
        by_column: (true, false),
        ..Plan::square()
    };
    let (down, across) = plan.block();
    let dtype = dtype_to_storage_type(left.dtype);
    let out = empty(&left, Shape::new([parts, m, n]), DType::F32);
    sums_kernel::launch(
        &client,
        CubeCount::Static((n / across) as u32, (m / down) as u32, parts as u32),
        plan.dim(),
        VECTOR,
        left.into_buffer_arg(),
        right.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        m,
        n,
        k,
        k / parts / DEPTH,
        plan,
        dtype,
    );
    out
}
