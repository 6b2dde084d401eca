//! What a GPU multiplies small matrices with ("tensor cores").

// Kernels are written with half-open ranges.
#![allow(clippy::range_plus_one)]

use burn::{
    backend::cubecl::dtype_to_storage_type,
    cubecl::{
        self,
        client::Client,
        cmma::{MatrixIdent, MmaDefinition},
        features::MmaConfig,
        prelude::*,
    },
    tensor::DType,
};

/// The side of a tile that they multiply at once.
pub(crate) const TILE: usize = 16;
/// Threads that they take a tile from.
pub(crate) const PLANE: u32 = 32;

/// Columns of what `mma` multiplies and sums at once.
pub(crate) const HALF: usize = TILE / 2;
/// The numbers of a register, or sums beside each other.
pub(crate) type Pair = Const<2>;
/// Registers of a tile in each of a plane's threads.
pub(crate) const REGISTERS: usize = 4;

/// Whether a device has them for tiles of this precision, which is bf16 or f16, summed in f32.
pub(crate) fn multiply(client: &Client, dtype: DType) -> bool {
    let matmul = &client.properties().features.matmul;
    of_planes(client, dtype) && matmul.cmma.contains(&product(dtype, TILE))
}

/// Whether it also gives them to whoever knows which numbers of a tile are in which registers (`mma`), and takes those
/// from rows of shared memory.
pub(crate) fn take_apart(client: &Client, dtype: DType) -> bool {
    let matmul = &client.properties().features.matmul;
    of_planes(client, dtype)
        && matmul.mma.contains(&product(dtype, HALF))
        && matmul.ldmatrix.contains(&dtype_to_storage_type(dtype))
}

/// Whether a device has them for f32, which they may round to tf32.
pub(crate) fn take_single(client: &Client) -> bool {
    let matmul = &client.properties().features.matmul;
    let single = [f32::elem_type_native(), tf32::elem_type_native()];
    let all = matmul.cmma.iter().chain(&matmul.mma);
    all.into_iter()
        .any(|config| single.contains(&config.a_type))
}

/// Whether they may be of half precision and of planes as the kernels have them.
fn of_planes(client: &Client, dtype: DType) -> bool {
    let hardware = &client.properties().hardware;
    matches!(dtype, DType::BF16 | DType::F16)
        && (hardware.plane_size_min, hardware.plane_size_max) == (PLANE, PLANE)
}

/// A product of tiles of so many columns.
fn product(dtype: DType, columns: usize) -> MmaConfig {
    let of = dtype_to_storage_type(dtype);
    MmaConfig {
        a_type: of,
        b_type: of,
        cd_type: f32::elem_type_native(),
        m: TILE as u32,
        n: columns as u32,
        k: TILE as u32,
    }
}

/// A tile of an operand from shared memory, `[16, 16]`.
///
/// - `first`: its first vector of eight numbers
/// - `pitch`: vectors from one row to the next
/// - `left`: whether it is to be a left operand
/// - `along`: whether rows in memory run along what is summed over
#[cube]
pub(crate) fn operand<E: Float, V: Size>(
    rows: &Shared<[Vector<E, V>]>,
    first: usize,
    #[comptime] pitch: usize,
    #[comptime] left: bool,
    #[comptime] along: bool,
) -> Array<Vector<E, Pair>> {
    let mma = MmaDefinition::<E, E, f32>::new(TILE, HALF, TILE);
    let lane = UNIT_POS_X as usize;
    // Each thread points at eight numbers: of four matrices `[8, 8]`, in the registers' order.
    let at = if comptime!(left == along) {
        lane % TILE * pitch + lane / TILE
    } else {
        (lane / TILE * HALF + lane % HALF) * pitch + lane / HALF % 2
    };
    let at = first + at;
    let ident = comptime!(if left { MatrixIdent::A } else { MatrixIdent::B });
    mma.load_matrix::<Vector<E, V>, Pair>(&rows[at..at + 1], ident, REGISTERS, comptime!(!along))
}

/// Adds a product of two tiles to the `tile`th of sums.
///
/// A thread, `lane` of its plane, has of a tile `[16, 8]` of sums those of the rows `lane / 4` and 8 below it and of the
/// columns `lane % 4 * 2` and the next. Two such beside each other are the registers of a left operand.
#[cube]
pub(crate) fn multiply_add<E: Float>(
    left: &Array<Vector<E, Pair>>,
    right: &Array<Vector<E, Pair>>,
    sums: &mut Array<Vector<f32, Pair>>,
    #[comptime] tile: usize,
) {
    let mma = MmaDefinition::<E, E, f32>::new(TILE, HALF, TILE);
    #[unroll]
    for half in 0..2usize {
        let mut b = Array::<Vector<E, Pair>>::new(2usize);
        let mut c = Array::<Vector<f32, Pair>>::new(2usize);
        #[unroll]
        for i in 0..2usize {
            b[i] = right[comptime!(2 * half + i)];
            c[i] = sums[comptime!(REGISTERS * tile + 2 * half + i)];
        }
        let d = mma.execute::<Pair, Pair, Pair>(left, &b, &c);
        #[unroll]
        for i in 0..2usize {
            sums[comptime!(REGISTERS * tile + 2 * half + i)] = d[i];
        }
    }
}

/// Sums of tiles that begin with nothing.
#[cube]
pub(crate) fn no_sums(#[comptime] tiles: usize) -> Array<Vector<f32, Pair>> {
    let mut sums = Array::<Vector<f32, Pair>>::new(comptime!(REGISTERS * tiles));
    #[unroll]
    for i in 0..comptime!(REGISTERS * tiles) {
        sums[i] = Vector::new(0.0f32);
    }
    sums
}
