//! A layer norm of each token, forward and back, and sums over tokens.
//!
//! A row is one token's, and one plane's: threads that pass numbers to each other without memory, where a device says how many
//! those are, and through shared memory elsewhere. What is a sum over all rows is taken in parts, each by one cube, and then of
//! the parts.

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{self, calculate_cube_count_elemwise, client::Client, features::Plane, prelude::*},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{limits::counts, memory::empty};

/// Planes of a cube.
const PLANES: u32 = 8;
/// Threads of a row where planes are of no known size.
const LANES: u32 = 32;
/// Parts that sums over rows are taken in, enough to fill a large GPU.
const PARTS: usize = 128;

/// Whether these kernels compute `[rows, width]` on a device.
pub(crate) fn fits(client: &Client, dtype: DType, [rows, width]: [usize; 2]) -> bool {
    let properties = client.properties();
    let hardware = &properties.hardware;
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
        && properties.supports_type(dtype_to_storage_type(dtype))
        && width.is_multiple_of(vector(dtype))
        && counts(rows * (width / vector(dtype)))
        && hardware.num_cpu_cores.is_none()
        && lanes(client) * PLANES <= hardware.max_units_per_cube
}

/// Numbers of 16 bytes.
fn vector(dtype: DType) -> usize {
    16 / dtype.size()
}

/// How many parts a sum of so many rows is taken in.
pub(crate) fn parts(rows: usize) -> usize {
    PARTS.min(rows.div_ceil(PLANES as usize))
}

/// Whether a row's threads are a plane.
fn by_plane(client: &Client) -> bool {
    let properties = client.properties();
    let hardware = &properties.hardware;
    properties.features.plane.contains(Plane::Ops)
        && hardware.plane_size_min == hardware.plane_size_max
}

/// Threads of a row.
fn lanes(client: &Client) -> u32 {
    if by_plane(client) {
        client.properties().hardware.plane_size_max
    } else {
        LANES
    }
}

/// Cubes for so many rows, one a plane.
fn count(client: &Client, rows: usize, lanes: u32) -> CubeCount {
    calculate_cube_count_elemwise(
        client,
        rows * lanes as usize,
        CubeDim::new_2d(lanes, PLANES),
    )
}

/// Rows, vectors of a row, and how many numbers a vector has.
fn layout(x: &CubeTensor) -> (usize, usize, usize) {
    let shape = x.meta.shape();
    let width = shape[shape.num_dims() - 1];
    let n = vector(x.dtype);
    (shape.num_elements() / width, width / n, n)
}

/// A tensor of one number for each row of `x`, in f32.
fn of_rows(x: &CubeTensor) -> CubeTensor {
    let mut shape = x.meta.shape().clone();
    let last = shape.num_dims() - 1;
    shape[last] = 1;
    empty(x, shape, DType::F32)
}

/// # Shapes
/// - `x`: `[.., width]`; `gamma` and `beta`: `[width]`, in f32
/// - returns the normed rows like `x`, and mean and one over the standard deviation of each, `[.., 1]`, in f32
pub(crate) fn forward(
    x: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    epsilon: f32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (rows, vectors, n) = layout(&x);
    let normed = empty(&x, x.meta.shape().clone(), x.dtype);
    let (mean, scale) = (of_rows(&x), of_rows(&x));
    let client = x.client.clone();
    let lanes = lanes(&client);
    let dtype = dtype_to_storage_type(x.dtype);
    forward_kernel::launch(
        &client,
        count(&client, rows, lanes),
        CubeDim::new_2d(lanes, PLANES),
        n,
        x.into_buffer_arg(),
        gamma.into_buffer_arg(),
        beta.into_buffer_arg(),
        normed.clone().into_buffer_arg(),
        mean.clone().into_buffer_arg(),
        scale.clone().into_buffer_arg(),
        rows,
        epsilon,
        vectors,
        lanes,
        by_plane(&client),
        dtype,
    );
    (normed, mean, scale)
}

/// # Shapes
/// - `x`, `mean`, `scale`, `gamma`: as [`forward`] got and gave them
/// - `by_y`: the gradient by what it gave, like `x`, and so is `added`, which is added to the result
pub(crate) fn back(
    x: CubeTensor,
    [mean, scale]: [CubeTensor; 2],
    by_y: CubeTensor,
    gamma: CubeTensor,
    added: CubeTensor,
) -> CubeTensor {
    let (rows, vectors, n) = layout(&x);
    let by_x = empty(&x, x.meta.shape().clone(), x.dtype);
    let client = x.client.clone();
    let lanes = lanes(&client);
    let dtype = dtype_to_storage_type(x.dtype);
    back_kernel::launch(
        &client,
        count(&client, rows, lanes),
        CubeDim::new_2d(lanes, PLANES),
        n,
        x.into_buffer_arg(),
        mean.into_buffer_arg(),
        scale.into_buffer_arg(),
        by_y.into_buffer_arg(),
        gamma.into_buffer_arg(),
        added.into_buffer_arg(),
        by_x.clone().into_buffer_arg(),
        rows,
        vectors,
        lanes,
        by_plane(&client),
        dtype,
    );
    by_x
}

/// Sums over rows of `y`, and of `y` times a norm of `x`, in parts.
///
/// # Shapes
/// - `y`: `[.., width]`, and so is `x`; `mean` and `scale`: as [`forward`] gave them
/// - returns `[parts, width]` each, in f32
pub(crate) fn sums(
    y: CubeTensor,
    normed: Option<(CubeTensor, [CubeTensor; 2])>,
) -> (CubeTensor, CubeTensor) {
    let (rows, ..) = layout(&y);
    sums_in(y, normed, parts(rows))
}

/// The sum of all rows.
///
/// # Shapes
/// - `y`: `[rows, width]`
/// - returns `[1, width]`, in f32
pub(crate) fn sum(y: CubeTensor) -> CubeTensor {
    sums_in(y, None, 1).0
}

fn sums_in(
    y: CubeTensor,
    normed: Option<(CubeTensor, [CubeTensor; 2])>,
    parts: usize,
) -> (CubeTensor, CubeTensor) {
    let (rows, vectors, n) = layout(&y);
    let client = y.client.clone();
    let lanes = lanes(&client);
    let part = rows.div_ceil(parts);
    let shape = Shape::new([parts, vectors * n]);
    let plain = empty(&y, shape.clone(), DType::F32);
    let with_norm = normed.is_some();
    let (of_norm, x, mean, scale) = match normed {
        Some((x, [mean, scale])) => (empty(&y, shape, DType::F32), x, mean, scale),
        // Not read or written.
        None => (plain.clone(), y.clone(), plain.clone(), plain.clone()),
    };
    let dtype = dtype_to_storage_type(y.dtype);
    sums_kernel::launch(
        &client,
        CubeCount::Static((vectors as u32).div_ceil(lanes), parts as u32, 1),
        CubeDim::new_2d(lanes, PLANES),
        n,
        y.into_buffer_arg(),
        x.into_buffer_arg(),
        mean.into_buffer_arg(),
        scale.into_buffer_arg(),
        plain.clone().into_buffer_arg(),
        of_norm.clone().into_buffer_arg(),
        rows,
        part,
        vectors,
        lanes,
        with_norm,
        dtype,
    );
    (plain, of_norm)
}

/// The sum of a vector's numbers in each thread of a row.
#[cube]
fn row_total<N: Size>(
    vector: Vector<f32, N>,
    #[comptime] lanes: u32,
    #[comptime] by_plane: bool,
) -> f32 {
    let mut own = 0.0f32;
    #[unroll]
    for i in 0..N::value() {
        own += vector.extract(i);
    }
    if comptime!(by_plane) {
        plane_sum(own)
    } else {
        let mut shared = Shared::<[f32]>::new_slice(comptime!((lanes * PLANES) as usize));
        shared[UNIT_POS as usize] = own;
        sync_cube();
        let first = UNIT_POS_Y * lanes;
        let mut total = 0.0f32;
        #[unroll]
        for lane in 0..lanes {
            total += shared[(first + lane) as usize];
        }
        total
    }
}

#[cube(launch)]
fn forward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    normed: &mut [Vector<E, N>],
    means: &mut [f32],
    scales: &mut [f32],
    rows: usize,
    epsilon: f32,
    #[comptime] vectors: usize,
    #[comptime] lanes: u32,
    #[comptime] by_plane: bool,
    #[define(E)] _dtype: ElemType,
) {
    let row = CUBE_POS * PLANES as usize + UNIT_POS_Y as usize;
    let is_there = row < rows;
    // Beyond the last row threads go along with those that wait for them, and write nothing.
    let row = min(row, rows - 1);
    let first = row * vectors;
    let width = (vectors * N::value()) as f32;
    let lane = UNIT_POS_X as usize;

    let mut sum = Vector::<f32, N>::new(0.0);
    let mut at = lane;
    while at < vectors {
        sum += Vector::<f32, N>::cast_from(x[first + at]);
        at += CUBE_DIM_X as usize;
    }
    let mean = row_total::<N>(sum, lanes, by_plane) / width;

    let mut squares = Vector::<f32, N>::new(0.0);
    let mut at = lane;
    while at < vectors {
        let centred = Vector::<f32, N>::cast_from(x[first + at]) - Vector::new(mean);
        squares += centred * centred;
        at += CUBE_DIM_X as usize;
    }
    let variance = row_total::<N>(squares, lanes, by_plane) / width;
    let scale = 1.0 / (variance + epsilon).sqrt();

    let mut at = lane;
    while is_there && at < vectors {
        let centred = Vector::<f32, N>::cast_from(x[first + at]) - Vector::new(mean);
        let y = centred * Vector::new(scale) * gamma[at] + beta[at];
        normed[first + at] = Vector::cast_from(y);
        at += CUBE_DIM_X as usize;
    }
    if is_there && lane == 0 {
        means[row] = mean;
        scales[row] = scale;
    }
}

#[cube(launch)]
fn back_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    means: &[f32],
    scales: &[f32],
    by_y: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    added: &[Vector<E, N>],
    by_x: &mut [Vector<E, N>],
    rows: usize,
    #[comptime] vectors: usize,
    #[comptime] lanes: u32,
    #[comptime] by_plane: bool,
    #[define(E)] _dtype: ElemType,
) {
    let row = CUBE_POS * PLANES as usize + UNIT_POS_Y as usize;
    let is_there = row < rows;
    // Beyond the last row threads go along with those that wait for them, and write nothing.
    let row = min(row, rows - 1);
    let first = row * vectors;
    let width = (vectors * N::value()) as f32;
    let lane = UNIT_POS_X as usize;
    let (mean, scale) = (Vector::new(means[row]), Vector::new(scales[row]));

    let mut plain = Vector::<f32, N>::new(0.0);
    let mut along = Vector::<f32, N>::new(0.0);
    let mut at = lane;
    while at < vectors {
        let normed = (Vector::<f32, N>::cast_from(x[first + at]) - mean) * scale;
        let by_normed = Vector::<f32, N>::cast_from(by_y[first + at]) * gamma[at];
        plain += by_normed;
        along += by_normed * normed;
        at += CUBE_DIM_X as usize;
    }
    let plain = Vector::new(row_total::<N>(plain, lanes, by_plane) / width);
    let along = Vector::new(row_total::<N>(along, lanes, by_plane) / width);

    let mut at = lane;
    while is_there && at < vectors {
        let normed = (Vector::<f32, N>::cast_from(x[first + at]) - mean) * scale;
        let by_normed = Vector::<f32, N>::cast_from(by_y[first + at]) * gamma[at];
        let by_this = (by_normed - plain - normed * along) * scale;
        let sum = by_this + Vector::<f32, N>::cast_from(added[first + at]);
        by_x[first + at] = Vector::cast_from(sum);
        at += CUBE_DIM_X as usize;
    }
}

#[cube(launch)]
fn sums_kernel<E: Float, N: Size>(
    y: &[Vector<E, N>],
    x: &[Vector<E, N>],
    means: &[f32],
    scales: &[f32],
    plain_sums: &mut [Vector<f32, N>],
    norm_sums: &mut [Vector<f32, N>],
    rows: usize,
    part: usize,
    vectors: usize,
    #[comptime] lanes: u32,
    #[comptime] with_norm: bool,
    #[define(E)] _dtype: ElemType,
) {
    let column = (CUBE_POS_X * CUBE_DIM_X + UNIT_POS_X) as usize;
    let first = CUBE_POS_Y as usize * part;
    let end = min(first + part, rows);
    let mut plain = Vector::<f32, N>::new(0.0);
    let mut along = Vector::<f32, N>::new(0.0);
    if column < vectors {
        let mut row = first + UNIT_POS_Y as usize;
        while row < end {
            let numbers = Vector::<f32, N>::cast_from(y[row * vectors + column]);
            plain += numbers;
            if comptime!(with_norm) {
                let x = Vector::<f32, N>::cast_from(x[row * vectors + column]);
                along += numbers * (x - Vector::new(means[row])) * Vector::new(scales[row]);
            }
            row += PLANES as usize;
        }
    }
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!((lanes * PLANES) as usize));
    shared[UNIT_POS as usize] = plain;
    sync_cube();
    if UNIT_POS_Y == 0 {
        if column < vectors {
            let mut sum = Vector::<f32, N>::new(0.0);
            #[unroll]
            for plane in 0..PLANES {
                sum += shared[(plane * lanes + UNIT_POS_X) as usize];
            }
            plain_sums[CUBE_POS_Y as usize * vectors + column] = sum;
        }
    }
    if comptime!(with_norm) {
        sync_cube();
        shared[UNIT_POS as usize] = along;
        sync_cube();
        if UNIT_POS_Y == 0 {
            if column < vectors {
                let mut sum = Vector::<f32, N>::new(0.0);
                #[unroll]
                for plane in 0..PLANES {
                    sum += shared[(plane * lanes + UNIT_POS_X) as usize];
                }
                norm_sums[CUBE_POS_Y as usize * vectors + column] = sum;
            }
        }
    }
}
