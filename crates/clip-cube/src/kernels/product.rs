//! Products of matrices in bf16 or f16 by the matrix units, in whichever order each matrix lies.
//!
//! A cube computes a block of the product. Of both matrices it takes `DEPTH` numbers of each of its rows and columns at
//! once to shared memory, while its planes multiply those before, each a rectangle of tiles whose sums stay in registers.

// What is known when a kernel is compiled, where its parts lie, is shared by all of its loop.
#![allow(clippy::too_many_lines)]

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
    activation::value_and_slope,
    matrix_units::{self, PLANE, TILE},
    memory::empty,
};
use crate::Activation;

/// Tiles of a plane's rectangle, down and across.
const TILES: usize = 4;
/// Numbers along its sides.
const SIDE: usize = TILES * TILE;
/// Planes of the smallest cube.
const SQUARE: (usize, usize) = (2, 2);
/// Numbers of a row or column that are in shared memory at once.
const DEPTH: usize = 64;
/// Blocks for each multiprocessor of a device, at least, of a product that is not in parts.
const ROUNDS: usize = 4;
/// Parts that a sum is taken in, at most: each is written and read.
const MOST_PARTS: usize = 32;
/// Numbers that a thread reads and writes at once: 16 bytes.
const VECTOR: usize = 8;
/// Numbers from the end of a row in shared memory to the next, of operands and of sums.
const SKEW: usize = 8;
const SUM_PITCH: usize = TILE + 4;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Plan {
    /// Planes of a cube, down and across.
    planes: (usize, usize),
    /// Whether the left matrix lies by columns, and the right one.
    by_column: (bool, bool),
    /// Whether a bias is added.
    biased: bool,
    /// What is computed of the product besides.
    activation: Option<Activation>,
}

impl Plan {
    /// Of a block twice as high as wide, where that leaves a device enough of them, or of a square one.
    fn new(client: &Client, [m, n]: [usize; 2]) -> Self {
        let plan = |planes| Self {
            planes,
            by_column: (false, false),
            biased: false,
            activation: None,
        };
        let high = plan((4, 2));
        let (down, across) = high.block();
        let blocks = m / down * (n / across);
        let enough = blocks >= ROUNDS * multiprocessors(client);
        if m.is_multiple_of(down) && enough && high.has_room(client) {
            high
        } else {
            plan(SQUARE)
        }
    }

    /// Whether a device's cubes have threads and shared memory enough for it, in whichever order matrices lie.
    fn has_room(self, client: &Client) -> bool {
        let (down, across) = self.block();
        let rows = |length: usize| {
            let by_row = length * (DEPTH + SKEW);
            by_row.max(DEPTH * (length + SKEW))
        };
        let half = 2 * 2 * (rows(down) + rows(across));
        let sums = 4 * self.planes.0 * self.planes.1 * TILE * SUM_PITCH;
        let hardware = &client.properties().hardware;
        half + sums <= hardware.max_shared_memory_size
            && self.threads() <= hardware.max_units_per_cube as usize
    }

    /// Rows and columns of a cube's block.
    const fn block(self) -> (usize, usize) {
        (self.planes.0 * SIDE, self.planes.1 * SIDE)
    }

    const fn threads(self) -> usize {
        self.planes.0 * self.planes.1 * PLANE as usize
    }

    /// Rows and vectors of a row of the left matrix's part in shared memory.
    const fn left(self) -> (usize, usize) {
        let (down, _) = self.block();
        if self.by_column.0 {
            (DEPTH, down / VECTOR)
        } else {
            (down, DEPTH / VECTOR)
        }
    }

    /// The same of the right matrix's.
    const fn right(self) -> (usize, usize) {
        let (_, across) = self.block();
        if self.by_column.1 {
            (across, DEPTH / VECTOR)
        } else {
            (DEPTH, across / VECTOR)
        }
    }

    fn dim(self) -> CubeDim {
        CubeDim::new_2d(PLANE, (self.planes.0 * self.planes.1) as u32)
    }
}

fn multiprocessors(client: &Client) -> usize {
    let known = client.properties().hardware.num_streaming_multiprocessors;
    known.unwrap_or(1) as usize
}

/// How a matrix lies in a fragment's memory.
fn lies(by_column: bool) -> MatrixLayout {
    if by_column {
        MatrixLayout::ColMajor
    } else {
        MatrixLayout::RowMajor
    }
}

/// Whether a device multiplies `[m, k]` by `[k, n]` with these kernels: it has matrix units for the precision, and whole
/// blocks make up the matrices.
pub(crate) fn fits(client: &Client, dtype: DType, [m, n, k]: [usize; 3]) -> bool {
    let plan = Plan {
        planes: SQUARE,
        by_column: (false, false),
        biased: false,
        activation: None,
    };
    let block = 2 * SIDE;
    matrix_units::multiply(client, dtype)
        && plan.has_room(client)
        && m.is_multiple_of(block)
        && n.is_multiple_of(block)
        && k.is_multiple_of(DEPTH)
}

/// In how many parts of `k` a product `[m, n]` is summed, so that there are enough of them for the device.
pub(crate) fn parts(client: &Client, [m, n, k]: [usize; 3]) -> usize {
    let block = 2 * SIDE;
    let blocks = m / block * (n / block);
    let steps = k / DEPTH;
    let most = (2 * ROUNDS * multiprocessors(client) / blocks).clamp(1, MOST_PARTS);
    (1..=most.min(steps))
        .rev()
        .find(|parts| steps.is_multiple_of(*parts))
        .unwrap_or(1)
}

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
        planes: SQUARE,
        by_column: (true, false),
        biased: false,
        activation: None,
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

#[cube(launch)]
fn product_kernel<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    bias: &[E],
    out: &mut [Vector<E, V>],
    values: &mut [Vector<E, V>],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let sums = block_sums::<E, V>(left, right, m, n, k, steps, plan);
    let planes = comptime!(plan.planes.0 * plan.planes.1);
    let mut scratch =
        Shared::<[f32]>::new_aligned_slice(comptime!(planes * TILE * SUM_PITCH), 128usize);
    let plane = UNIT_POS_Y as usize;
    let own = plane * comptime!(TILE * SUM_PITCH);
    let (down, across) = comptime!(plan.block());
    let row = CUBE_POS_Y as usize * down + plane / plan.planes.1 * SIDE;
    let column = CUBE_POS_X as usize * across + plane % plan.planes.1 * SIDE;
    let lane_row = UNIT_POS_X as usize / 2;
    let lane_column = UNIT_POS_X as usize % 2 * VECTOR;
    #[unroll]
    for i in 0..TILES {
        #[unroll]
        for j in 0..TILES {
            let sum = sums.index(comptime!(i * TILES + j));
            cmma::store(
                &mut scratch[own..own + comptime!(TILE * SUM_PITCH)],
                sum,
                comptime!(SUM_PITCH as u32),
                MatrixLayout::RowMajor,
            );
            sync_plane();
            let first = own + lane_row * SUM_PITCH + lane_column;
            let column = column + comptime!(j * TILE) + lane_column;
            let mut vector = Vector::<E, V>::empty();
            #[unroll]
            for x in 0..VECTOR {
                let mut number = scratch[first + x];
                if comptime!(plan.biased) {
                    number += f32::cast_from(bias[column + x]);
                }
                vector.insert(x, E::cast_from(number));
            }
            let at = (row + comptime!(i * TILE) + lane_row) * n + column;
            out[at / VECTOR] = vector;
            if comptime!(plan.activation.is_some()) {
                // invariant: this branch is expanded for plans that have one.
                let activation = comptime!(plan.activation.unwrap());
                let mut value = Vector::<E, V>::empty();
                #[unroll]
                for x in 0..VECTOR {
                    let number = f32::cast_from(vector.extract(x));
                    let (number, _) = value_and_slope(number, activation);
                    value.insert(x, E::cast_from(number));
                }
                values[at / VECTOR] = value;
            }
            sync_plane();
        }
    }
}

#[cube(launch)]
fn sums_kernel<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    out: &mut [f32],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
    #[define(E)] _dtype: ElemType,
) {
    let sums = block_sums::<E, V>(left, right, m, n, k, steps, plan);
    let plane = UNIT_POS_Y as usize;
    let (down, across) = comptime!(plan.block());
    let row = CUBE_POS_Y as usize * down + plane / plan.planes.1 * SIDE;
    let column = CUBE_POS_X as usize * across + plane % plan.planes.1 * SIDE;
    let part = CUBE_POS_Z as usize * m * n;
    let end = out.len();
    #[unroll]
    for i in 0..TILES {
        #[unroll]
        for j in 0..TILES {
            let sum = sums.index(comptime!(i * TILES + j));
            let at = part + (row + comptime!(i * TILE)) * n + column + comptime!(j * TILE);
            cmma::store(&mut out[at..end], sum, n as u32, MatrixLayout::RowMajor);
        }
    }
}

/// The sums of a plane's tiles over this cube's part of `k`.
#[cube]
fn block_sums<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
) -> Sequence<Matrix<f32>> {
    let (down, across) = comptime!(plan.block());
    let (left_rows, left_vectors) = comptime!(plan.left());
    let (right_rows, right_vectors) = comptime!(plan.right());
    let left_pitch = comptime!(left_vectors + SKEW / VECTOR);
    let right_pitch = comptime!(right_vectors + SKEW / VECTOR);
    let left_size = comptime!(left_rows * left_pitch);
    let right_size = comptime!(right_rows * right_pitch);
    let left_loads = comptime!(left_rows * left_vectors / plan.threads());
    let right_loads = comptime!(right_rows * right_vectors / plan.threads());

    let mut lefts = Shared::<[Vector<E, V>]>::new_aligned_slice(comptime!(2 * left_size), 128usize);
    let mut rights =
        Shared::<[Vector<E, V>]>::new_aligned_slice(comptime!(2 * right_size), 128usize);
    let mut next_left = Array::<Vector<E, V>>::new(left_loads);
    let mut next_right = Array::<Vector<E, V>>::new(right_loads);

    let mut sums = Sequence::<Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(TILES * TILES) {
        sums.push(Matrix::<f32>::from_value(
            MatrixIdent::Accumulator,
            TILE,
            TILE,
            TILE,
            MatrixLayout::Undefined,
            0.0,
        ));
    }

    // In vectors: where this cube's part of each matrix begins, a row's stride, and the way to the next step.
    let first = CUBE_POS_Z as usize * steps * DEPTH;
    let row = CUBE_POS_Y as usize * down;
    let column = CUBE_POS_X as usize * across;
    let mut left_stride = k / VECTOR;
    let mut left_first = (row * k + first) / VECTOR;
    let mut left_step = comptime!(DEPTH / VECTOR).runtime();
    if comptime!(plan.by_column.0) {
        left_stride = m / VECTOR;
        left_first = (first * m + row) / VECTOR;
        left_step = DEPTH * m / VECTOR;
    }
    let mut right_stride = n / VECTOR;
    let mut right_first = (first * n + column) / VECTOR;
    let mut right_step = DEPTH * n / VECTOR;
    if comptime!(plan.by_column.1) {
        right_stride = k / VECTOR;
        right_first = (column * k + first) / VECTOR;
        right_step = comptime!(DEPTH / VECTOR).runtime();
    }

    let thread = UNIT_POS as usize;
    let plane = UNIT_POS_Y as usize;
    let plane_row = plane / plan.planes.1 * SIDE;
    let plane_column = plane % plan.planes.1 * SIDE;

    #[unroll]
    for i in 0..left_loads {
        let at = thread + comptime!(i * plan.threads());
        let place = at / left_vectors * left_pitch + at % left_vectors;
        lefts[place] = left[left_first + at / left_vectors * left_stride + at % left_vectors];
    }
    #[unroll]
    for i in 0..right_loads {
        let at = thread + comptime!(i * plan.threads());
        let place = at / right_vectors * right_pitch + at % right_vectors;
        rights[place] = right[right_first + at / right_vectors * right_stride + at % right_vectors];
    }
    sync_cube();

    for step in 0..steps {
        let more = step + 1 < steps;
        if more {
            let from = left_first + (step + 1) * left_step;
            #[unroll]
            for i in 0..left_loads {
                let at = thread + comptime!(i * plan.threads());
                next_left[i] = left[from + at / left_vectors * left_stride + at % left_vectors];
            }
            let from = right_first + (step + 1) * right_step;
            #[unroll]
            for i in 0..right_loads {
                let at = thread + comptime!(i * plan.threads());
                next_right[i] =
                    right[from + at / right_vectors * right_stride + at % right_vectors];
            }
        }

        let here = step % 2;
        let left_here = here * left_size;
        let right_here = here * right_size;
        #[unroll]
        for tile in 0..comptime!(DEPTH / TILE) {
            let mut fragments = Sequence::<Matrix<Vector<E, V>>>::new();
            #[unroll]
            for j in 0..TILES {
                let along = comptime!(tile * TILE);
                let column = plane_column + comptime!(j * TILE);
                let layout = comptime!(lies(plan.by_column.1));
                let at = if comptime!(plan.by_column.1) {
                    column * right_pitch + comptime!(along / VECTOR)
                } else {
                    comptime!(along * right_pitch) + column / VECTOR
                };
                fragments.push(Matrix::<Vector<E, V>>::from_slice(
                    MatrixIdent::B,
                    TILE,
                    TILE,
                    TILE,
                    layout,
                    &rights[right_here + at..comptime!(2 * right_size)],
                    comptime!((right_pitch * VECTOR) as u32),
                ));
            }
            #[unroll]
            for i in 0..TILES {
                let along = comptime!(tile * TILE);
                let row = plane_row + comptime!(i * TILE);
                let layout = comptime!(lies(plan.by_column.0));
                let at = if comptime!(plan.by_column.0) {
                    comptime!(along * left_pitch) + row / VECTOR
                } else {
                    row * left_pitch + comptime!(along / VECTOR)
                };
                let a = Matrix::<Vector<E, V>>::from_slice(
                    MatrixIdent::A,
                    TILE,
                    TILE,
                    TILE,
                    layout,
                    &lefts[left_here + at..comptime!(2 * left_size)],
                    comptime!((left_pitch * VECTOR) as u32),
                );
                #[unroll]
                for j in 0..TILES {
                    let sum = sums.index(comptime!(i * TILES + j));
                    cmma::execute(&a, fragments.index(j), sum, sum);
                }
            }
        }

        if more {
            let there = (step + 1) % 2;
            #[unroll]
            for i in 0..left_loads {
                let at = thread + comptime!(i * plan.threads());
                lefts[there * left_size + at / left_vectors * left_pitch + at % left_vectors] =
                    next_left[i];
            }
            #[unroll]
            for i in 0..right_loads {
                let at = thread + comptime!(i * plan.threads());
                rights
                    [there * right_size + at / right_vectors * right_pitch + at % right_vectors] =
                    next_right[i];
            }
        }
        sync_cube();
    }
    sums
}
