//! The gradient by an embedding, of which a batch looks up few rows, many of them often.
//!
//! A cube is a token's: it adds the rows of all places where the token stands, in an order that is always the same, and
//! writes zeros where there are none.

use burn::{
    cubecl::{self, client::Client, prelude::*},
    tensor::{DType, Shape},
};
use burn_cubecl::tensor::CubeTensor;

use super::{
    limits::{MOST_CUBES, counts},
    memory::empty,
};

/// Numbers that a thread reads and writes at once: 16 bytes of f32.
const VECTOR: usize = 4;
/// Vectors of a row that a cube adds.
const COLUMNS: u32 = 32;
/// Threads that share the places of a token.
const SHARES: u32 = 8;

/// Whether the kernel computes `[places, width]` and so many tokens on a device.
pub(crate) fn fits(
    client: &Client,
    dtype: DType,
    [places, width]: [usize; 2],
    tokens: usize,
) -> bool {
    let hardware = &client.properties().hardware;
    dtype == DType::F32
        && tokens <= MOST_CUBES * MOST_CUBES
        && counts(places.max(tokens) * width / VECTOR)
        && width.is_multiple_of(VECTOR)
        && hardware.num_cpu_cores.is_none()
        && COLUMNS * SHARES <= hardware.max_units_per_cube
}

/// For each token the sum of the rows at its places.
///
/// # Shapes
/// - `rows`: `[places, width]`
/// - `order`: `[places]`, all places, those of the first token first
/// - `starts`: `[tokens + 1]`: where in `order` each token's begin
/// - returns `[tokens, width]`
pub(crate) fn gradient(rows: CubeTensor, order: CubeTensor, starts: CubeTensor) -> CubeTensor {
    let [_, width] = rows.meta.shape().dims();
    let [ends] = starts.meta.shape().dims();
    let (tokens, vectors) = (ends - 1, width / VECTOR);
    let sums = empty(&rows, Shape::new([tokens, width]), DType::F32);
    let client = rows.client.clone();
    let along = tokens.min(MOST_CUBES);
    let count = CubeCount::Static(
        along as u32,
        tokens.div_ceil(along.max(1)) as u32,
        (vectors as u32).div_ceil(COLUMNS),
    );
    gradient_kernel::launch(
        &client,
        count,
        CubeDim::new_2d(COLUMNS, SHARES),
        VECTOR,
        rows.into_buffer_arg(),
        order.into_buffer_arg(),
        starts.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        tokens,
        vectors,
    );
    sums
}

#[cube(launch)]
fn gradient_kernel<N: Size>(
    rows: &[Vector<f32, N>],
    order: &[i32],
    starts: &[i32],
    sums: &mut [Vector<f32, N>],
    tokens: usize,
    #[comptime] vectors: usize,
) {
    let token = (CUBE_POS_Y * CUBE_COUNT_X + CUBE_POS_X) as usize;
    if token >= tokens {
        terminate!();
    }
    let column = (CUBE_POS_Z * COLUMNS + UNIT_POS_X) as usize;
    let end = starts[token + 1] as usize;
    let mut sum = Vector::<f32, N>::new(0.0);
    if column < vectors {
        let mut at = starts[token] as usize + UNIT_POS_Y as usize;
        while at < end {
            sum += rows[order[at] as usize * vectors + column];
            at += SHARES as usize;
        }
    }
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!((COLUMNS * SHARES) as usize));
    shared[UNIT_POS as usize] = sum;
    sync_cube();
    if UNIT_POS_Y == 0 {
        if column < vectors {
            let mut sum = Vector::<f32, N>::new(0.0);
            #[unroll]
            for share in 0..SHARES {
                sum += shared[(share * COLUMNS + UNIT_POS_X) as usize];
            }
            sums[token * vectors + column] = sum;
        }
    }
}
