//! Products of matrices in f32 by threads that multiply and add, of any shape.
//!
//! A cube computes a square of the product. Of both matrices it takes [`DEPTH`] numbers of each row and column at once to
//! shared memory, and each thread adds its products to a small square of sums in its registers. What is computed for a shape
//! is one of a few kernels: which, is known without trying, and a driver compiles them in seconds.

mod block;
mod kernels;
mod plan;

use burn::{cubecl::prelude::*, tensor::Shape};
use burn_cubecl::tensor::CubeTensor;

pub(crate) use self::plan::{fits, parts};
use self::{
    kernels::product_kernel,
    plan::{Plan, Square},
};
use crate::{
    Activation,
    kernels::{limits::MOST_CUBES, memory::empty},
};

/// Numbers that a thread takes from shared memory at once: 16 bytes.
const QUAD: usize = 4;
type Quad = Vector<f32, Const<QUAD>>;
/// Numbers of a row or column that are in shared memory at once.
const DEPTH: usize = 16;

/// # Shapes
/// - `left`: `[products, m, k]`, or `[products, k, m]` if it lies `by_column`
/// - `right`: `[products, k, n]`, or `[products, n, k]` if it lies `by_column`
/// - `bias`: `[n]`, if there is one
/// - returns the products `[products, m, n]`, and what the activation makes of them, if there is one
#[expect(
    clippy::many_single_char_names,
    reason = "what every library calls them"
)]
pub(crate) fn products(
    left: CubeTensor,
    right: CubeTensor,
    by_column: (bool, bool),
    bias: Option<CubeTensor>,
    activation: Option<Activation>,
) -> (CubeTensor, CubeTensor) {
    let [products, a, b] = left.meta.shape().dims();
    let [m, k] = if by_column.0 { [b, a] } else { [a, b] };
    let [_, a, b] = right.meta.shape().dims();
    let n = if by_column.1 { a } else { b };
    let client = left.client.clone();
    let plan = Plan {
        square: Square::of(&client, products, [m, n]),
        by_column,
        biased: bias.is_some(),
        activation,
    };
    let out = empty(&left, Shape::new([products, m, n]), left.dtype);
    let values = match activation {
        Some(_) => empty(&left, Shape::new([products, m, n]), left.dtype),
        // Not written.
        None => out.clone(),
    };
    // Rows in memory, which are read and written in whole vectors or number by number.
    let rows = [
        if by_column.0 { m } else { k },
        if by_column.1 { k } else { n },
        n,
    ];
    let vector = if rows.iter().all(|length| length.is_multiple_of(QUAD)) {
        QUAD
    } else {
        1
    };
    let side = plan.square.side();
    let squares = m.div_ceil(side) * products;
    let deep = squares.div_ceil(MOST_CUBES).max(1);
    let down = squares.div_ceil(deep);
    product_kernel::launch(
        &client,
        CubeCount::Static(n.div_ceil(side) as u32, down as u32, deep as u32),
        plan.square.dim(),
        vector,
        left.clone().into_buffer_arg(),
        right.into_buffer_arg(),
        bias.unwrap_or(left).into_buffer_arg(),
        out.clone().into_buffer_arg(),
        values.clone().into_buffer_arg(),
        products,
        m,
        n,
        k,
        plan,
    );
    (out, values)
}
