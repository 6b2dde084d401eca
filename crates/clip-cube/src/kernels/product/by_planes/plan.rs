//! What a kernel is compiled for, and which devices and shapes have one.

use burn::{
    cubecl::{client::Client, cmma::MatrixLayout, prelude::*},
    tensor::DType,
};

use super::{DEPTH, SIDE, SKEW, SUM_PITCH, TILES, VECTOR};
use crate::{
    Activation,
    kernels::{
        limits::counts,
        matrix_units::{self, PLANE, TILE},
    },
};

/// Planes of the smallest cube.
const SQUARE: (usize, usize) = (2, 2);
/// Blocks for each multiprocessor of a device, at least, of a product that is not in parts.
const ROUNDS: usize = 4;
/// Parts that a sum is taken in, at most: each is written and read.
const MOST_PARTS: usize = 32;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Plan {
    /// Planes of a cube, down and across.
    pub(super) planes: (usize, usize),
    /// Whether the left matrix lies by columns, and the right one.
    pub(super) by_column: (bool, bool),
    /// Whether a bias is added.
    pub(super) biased: bool,
    /// What is computed of the product besides.
    pub(super) activation: Option<Activation>,
}

/// A cube's part of a matrix in shared memory, as it lies in memory: rows of vectors.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Part {
    pub(super) rows: usize,
    pub(super) vectors: usize,
    /// Whether these rows are the matrix's columns.
    pub(super) by_column: bool,
}

impl Plan {
    /// Of the smallest cubes, for matrices that lie by rows.
    pub(super) const fn square() -> Self {
        Self {
            planes: SQUARE,
            by_column: (false, false),
            biased: false,
            activation: None,
        }
    }

    /// Of a block twice as high as wide, where that leaves a device enough of them, or of a square one.
    pub(super) fn new(client: &Client, [m, n]: [usize; 2]) -> Self {
        let high = Self {
            planes: (4, 2),
            ..Self::square()
        };
        let (down, across) = high.block();
        let blocks = m / down * (n / across);
        let enough = blocks >= ROUNDS * multiprocessors(client);
        if m.is_multiple_of(down) && enough && high.has_room(client) {
            high
        } else {
            Self::square()
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
    pub(super) const fn block(self) -> (usize, usize) {
        (self.planes.0 * SIDE, self.planes.1 * SIDE)
    }

    pub(super) const fn threads(self) -> usize {
        self.planes.0 * self.planes.1 * PLANE as usize
    }

    /// What a cube takes of the left matrix at once.
    pub(super) const fn left(self) -> Part {
        let (down, _) = self.block();
        Part::new(down, DEPTH, self.by_column.0)
    }

    /// What a cube takes of the right matrix at once.
    pub(super) const fn right(self) -> Part {
        let (_, across) = self.block();
        Part::new(DEPTH, across, self.by_column.1)
    }

    /// Whether the next step's numbers of the left matrix are loaded before a strip of this one's. A compiler doesn't move
    /// loads from where it finds them for long enough that they arrive: of several places, these were the fastest.
    pub(super) const fn loads_left(self, strip: usize) -> bool {
        strip == if self.by_column.0 { 0 } else { 1 }
    }

    /// The same of the right matrix.
    pub(super) const fn loads_right(self, strip: usize) -> bool {
        strip == if self.by_column.0 { 0 } else { 2 }
    }

    pub(super) fn dim(self) -> CubeDim {
        CubeDim::new_2d(PLANE, (self.planes.0 * self.planes.1) as u32)
    }
}

impl Part {
    const fn new(rows: usize, columns: usize, by_column: bool) -> Self {
        let (rows, length) = if by_column {
            (columns, rows)
        } else {
            (rows, columns)
        };
        Self {
            rows,
            vectors: length / VECTOR,
            by_column,
        }
    }

    /// Vectors from one row to the next.
    pub(super) const fn pitch(self) -> usize {
        self.vectors + SKEW / VECTOR
    }

    /// Vectors of shared memory.
    pub(super) const fn size(self) -> usize {
        self.rows * self.pitch()
    }

    /// Vectors that each of so many threads takes in each of [`TILES`] portions.
    pub(super) const fn portion(self, threads: usize) -> usize {
        let vectors = self.rows * self.vectors;
        assert!(
            vectors.is_multiple_of(threads * TILES),
            "invariant: all of them are in some portion"
        );
        vectors / (threads * TILES)
    }

    /// How a fragment lies in it.
    pub(super) const fn layout(self) -> MatrixLayout {
        if self.by_column {
            MatrixLayout::ColMajor
        } else {
            MatrixLayout::RowMajor
        }
    }
}

fn multiprocessors(client: &Client) -> usize {
    let known = client.properties().hardware.num_streaming_multiprocessors;
    known.unwrap_or(1) as usize
}

/// Whether a device multiplies `[m, k]` by `[k, n]` with these kernels: it has matrix units for the precision, and whole
/// blocks make up the matrices, none of which is too large.
pub(crate) fn fits(client: &Client, dtype: DType, shape: [usize; 3]) -> bool {
    matrix_units::multiply(client, dtype)
        && Plan::square().has_room(client)
        && is_of_blocks(shape, client.properties().hardware.max_cube_count)
}

/// Whether whole blocks make up the matrices, of which a device has enough cubes along each axis, and kernels can count what
/// the matrices are of.
fn is_of_blocks([m, n, k]: [usize; 3], (most_across, most_down, _): (u32, u32, u32)) -> bool {
    let (down, across) = Plan::square().block();
    m.is_multiple_of(down)
        && n.is_multiple_of(across)
        && k.is_multiple_of(DEPTH)
        && n / across <= most_across as usize
        && m / down <= most_down as usize
        && [m * n, m * k, n * k]
            .iter()
            .all(|numbers| counts(numbers / VECTOR))
}

/// In how many parts of `k` a product `[m, n]` is summed, so that there are enough of them for the device.
pub(crate) fn parts(client: &Client, [m, n, k]: [usize; 3]) -> usize {
    let (down, across) = Plan::square().block();
    let blocks = m / down * (n / across);
    let steps = k / DEPTH;
    let most = (2 * ROUNDS * multiprocessors(client) / blocks).clamp(1, MOST_PARTS);
    (1..=most.min(steps))
        .rev()
        .find(|parts| steps.is_multiple_of(*parts))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What CUDA has along each axis.
    const CUBES: (u32, u32, u32) = (i32::MAX as u32, 65_535, 65_535);

    #[test]
    fn matrices_are_of_whole_blocks() {
        assert!(is_of_blocks([128, 256, 64], CUBES));
        for shape in [[64, 256, 64], [128, 200, 64], [128, 256, 32]] {
            assert!(!is_of_blocks(shape, CUBES), "{shape:?}");
        }
    }

    #[test]
    fn matrices_may_be_of_more_numbers_than_32_bits_count_but_not_of_more_vectors() {
        // Hidden numbers of 2,048 images by ViT-bigG-14, some 4.3 billion, and all ways by the weights.
        let (rows, width, hidden) = (2048 * 257, 1664, 8192);
        for shape in [
            [rows, hidden, width],
            [rows, width, hidden],
            [width, hidden, rows],
        ] {
            assert!(is_of_blocks(shape, CUBES), "{shape:?}");
        }
        let most = 1 << 32;
        let side = most * VECTOR / (1 << 17);
        for shape in [
            [1 << 17, side, 64],
            [1 << 17, 128, side],
            [128, 1 << 17, side],
        ] {
            assert!(!is_of_blocks(shape, CUBES), "{shape:?}");
            let less = shape.map(|length| if length == side { side / 2 } else { length });
            assert!(is_of_blocks(less, CUBES), "{less:?}");
        }
    }

    #[test]
    fn a_product_has_no_more_blocks_along_an_axis_than_the_device_has_cubes() {
        let (down, across) = Plan::square().block();
        assert!(is_of_blocks([65_535 * down, across, 64], CUBES));
        assert!(!is_of_blocks([65_536 * down, across, 64], CUBES));
        assert!(!is_of_blocks(
            [down, 65_536 * across, 64],
            (65_535, 65_535, 65_535)
        ));
    }
}
