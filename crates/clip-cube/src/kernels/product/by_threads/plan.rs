//! What a kernel is compiled for, and which of them a product takes.

use burn::{
    cubecl::{client::Client, prelude::*},
    tensor::DType,
};

use super::{DEPTH, QUAD};
use crate::{
    Activation,
    kernels::{
        limits::{MOST_CUBES, counts},
        matrix_units,
    },
};

/// Threads that keep a large laptop's GPU busy: an estimate, some 24 multiprocessors of 700 each.
const BUSY: usize = 16_384;
/// A part's sum is at least so long: it is written and read once more.
const PART: usize = 256;
/// Parts that a sum is taken in, at most.
const MOST_PARTS: usize = 32;
/// Each square of sums with how fast its cube is by itself, by estimate and not yet by a GPU: a number in shared memory is read
/// for as many sums as a thread has along a side, and one in memory for as many as the cube has.
const SQUARES: [(Square, f64); 3] = [
    (
        Square {
            threads: 16,
            quads: 2,
        },
        1.0,
    ),
    (
        Square {
            threads: 8,
            quads: 2,
        },
        0.85,
    ),
    (
        Square {
            threads: 8,
            quads: 1,
        },
        0.5,
    ),
];

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Plan {
    pub(super) square: Square,
    /// Whether the left matrix lies by columns, and the right one.
    pub(super) by_column: (bool, bool),
    /// Whether a bias is added.
    pub(super) biased: bool,
    /// What is computed of the product besides.
    pub(super) activation: Option<Activation>,
}

/// A cube's square of sums.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Square {
    /// Threads along a side.
    pub(super) threads: usize,
    /// Quads of each thread along a side, as far from each other as threads have their first.
    pub(super) quads: usize,
}

impl Square {
    /// Sums along a side.
    pub(super) const fn side(self) -> usize {
        self.threads * self.quads * QUAD
    }

    pub(super) const fn all_threads(self) -> usize {
        self.threads * self.threads
    }

    /// Squares of four times four numbers that a cube takes of a matrix at once, each a thread's.
    pub(super) const fn patches(self) -> usize {
        self.side() * DEPTH / (QUAD * QUAD)
    }

    /// Quads from one number of `k` to the next in shared memory. The one between keeps threads that write along `k` from
    /// waiting for each other.
    pub(super) const fn pitch(self) -> usize {
        self.side() / QUAD + 1
    }

    /// Quads of shared memory for a matrix.
    pub(super) const fn size(self) -> usize {
        DEPTH * self.pitch()
    }

    pub(super) fn dim(self) -> CubeDim {
        CubeDim::new_2d(self.threads as u32, self.threads as u32)
    }

    fn has_room(self, client: &Client) -> bool {
        let hardware = &client.properties().hardware;
        let bytes = 2 * self.size() * QUAD * size_of::<f32>();
        bytes <= hardware.max_shared_memory_size
            && self.all_threads() <= hardware.max_units_per_cube as usize
    }

    /// The fastest for a number of products `[m, n]`, of those that a device has room for.
    pub(super) fn of(client: &Client, products: usize, [m, n]: [usize; 2]) -> Self {
        let speed = |(square, alone): &(Self, f64)| {
            let side = square.side();
            let cubes = products * m.div_ceil(side) * n.div_ceil(side);
            let asked = (products * m * n) as f64 / (cubes * side * side) as f64;
            let busy = (cubes * square.all_threads()) as f64 / BUSY as f64;
            alone * asked * busy.min(1.0)
        };
        SQUARES
            .iter()
            .filter(|(square, _)| square.has_room(client))
            .max_by(|a, b| speed(a).total_cmp(&speed(b)))
            .map_or(SQUARES[2].0, |(square, _)| *square)
    }
}

/// Whether a device multiplies each of `products` matrices `[m, k]` by one of `[k, n]` with these kernels: of f32, for which it
/// has no matrix units (CUDA's round it to tf32), and not too large.
pub(crate) fn fits(client: &Client, dtype: DType, shape: [usize; 4]) -> bool {
    dtype == DType::F32
        && client.properties().hardware.num_cpu_cores.is_none()
        && SQUARES[2].0.has_room(client)
        && !matrix_units::take_single(client)
        && is_in_reach(shape)
}

/// Whether kernels can count the numbers of these matrices, and GPUs have cubes enough along each axis for the smallest square.
fn is_in_reach([products, m, n, k]: [usize; 4]) -> bool {
    let side = SQUARES[2].0.side();
    n.div_ceil(side) <= MOST_CUBES
        && products * m.div_ceil(side) <= MOST_CUBES * MOST_CUBES
        && [m * n, m * k, k * n]
            .iter()
            .all(|numbers| counts(products * numbers))
}

/// In how many parts of `k` a product `[m, n]` is summed, so that there are threads enough: as many go into it.
pub(crate) fn parts([m, n, k]: [usize; 3]) -> usize {
    let (square, _) = SQUARES[1];
    let cubes = m.div_ceil(square.side()) * n.div_ceil(square.side());
    let wanted = BUSY / (cubes * square.all_threads()).max(1);
    let most = wanted.min(k / PART).clamp(1, MOST_PARTS);
    (1..=most)
        .rev()
        .find(|parts| k.is_multiple_of(*parts))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_of_no_more_numbers_than_32_bits_count() {
        assert!(is_in_reach([1, 1 << 21, 1024, 512]));
        for shape in [
            [1, 1 << 22, 1024, 512],
            [1, 1 << 22, 512, 1024],
            [1, 512, 1 << 20, 1 << 12],
            [1 << 16, 1 << 8, 1 << 8, 1],
        ] {
            assert!(!is_in_reach(shape), "{shape:?}");
        }
    }

    #[test]
    fn rows_and_products_are_spread_but_columns_are_not() {
        let side = SQUARES[2].0.side();
        assert!(is_in_reach([1, 2 * MOST_CUBES * side, 4, 4]));
        assert!(is_in_reach([2 * MOST_CUBES, 2 * side, 4, 4]));
        assert!(is_in_reach([1, 4, MOST_CUBES * side, 4]));
        assert!(!is_in_reach([1, 4, MOST_CUBES * side + 1, 4]));
    }
}
