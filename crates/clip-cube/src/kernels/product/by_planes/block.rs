//! A cube's block of a product: what it takes of both matrices step by step, and the sums of it.

use burn::cubecl::{
    self,
    cmma::{self, Matrix, MatrixIdent, MatrixLayout},
    prelude::*,
};

use super::{
    DEPTH, SIDE, STRIPS, TILES, VECTOR,
    plan::{Part, Plan},
};
use crate::kernels::matrix_units::TILE;

/// Where a cube takes its part of a matrix from, and where that lies in shared memory. Places in memory are counted in
/// vectors all along: numbers may be more than 32 bits count.
#[derive(CubeType, Clone, Copy)]
struct Window {
    /// In memory, of the first step: its first vector.
    first: usize,
    /// Vectors from one row to the next.
    stride: usize,
    /// Vectors from one step to the next.
    step: usize,
    #[cube(comptime)]
    part: Part,
    #[cube(comptime)]
    threads: usize,
}

#[cube]
impl Window {
    /// Onto the left matrix `[m, k]`: the cube's rows, from its first number of `k` on.
    fn left(m: usize, k: usize, first: usize, #[comptime] plan: Plan) -> Window {
        let (down, _) = comptime!(plan.block());
        let row = CUBE_POS_Y as usize * down;
        let part = comptime!(plan.left());
        let threads = comptime!(plan.threads());
        if comptime!(part.by_column) {
            Window {
                first: first * (m / VECTOR) + row / VECTOR,
                stride: m / VECTOR,
                step: DEPTH * (m / VECTOR),
                part,
                threads,
            }
        } else {
            Window {
                first: row * (k / VECTOR) + first / VECTOR,
                stride: k / VECTOR,
                step: comptime!(DEPTH / VECTOR).runtime(),
                part,
                threads,
            }
        }
    }

    /// Onto the right matrix `[k, n]`: the cube's columns, from its first number of `k` on.
    fn right(n: usize, k: usize, first: usize, #[comptime] plan: Plan) -> Window {
        let (_, across) = comptime!(plan.block());
        let column = CUBE_POS_X as usize * across;
        let part = comptime!(plan.right());
        let threads = comptime!(plan.threads());
        if comptime!(part.by_column) {
            Window {
                first: column * (k / VECTOR) + first / VECTOR,
                stride: k / VECTOR,
                step: comptime!(DEPTH / VECTOR).runtime(),
                part,
                threads,
            }
        } else {
            Window {
                first: first * (n / VECTOR) + column / VECTOR,
                stride: n / VECTOR,
                step: DEPTH * (n / VECTOR),
                part,
                threads,
            }
        }
    }

    /// One of [`TILES`] portions of the thread's vectors of a step.
    fn load<E: Float, V: Size>(
        &self,
        matrix: &[Vector<E, V>],
        step: usize,
        loaded: &mut Array<Vector<E, V>>,
        #[comptime] portion: usize,
    ) {
        let from = self.first + step * self.step;
        let vectors = comptime!(self.part.vectors);
        let loads = comptime!(self.part.portion(self.threads));
        #[unroll]
        for i in comptime!(portion * loads)..comptime!((portion + 1) * loads) {
            let at = UNIT_POS as usize + comptime!(i * self.threads);
            loaded[i] = matrix[from + at / vectors * self.stride + at % vectors];
        }
    }

    /// Puts it into a half of shared memory.
    fn store<E: Float, V: Size>(
        &self,
        loaded: &Array<Vector<E, V>>,
        half: usize,
        shared: &mut Shared<[Vector<E, V>]>,
        #[comptime] portion: usize,
    ) {
        let first = half * comptime!(self.part.size());
        let vectors = comptime!(self.part.vectors);
        let loads = comptime!(self.part.portion(self.threads));
        #[unroll]
        for i in comptime!(portion * loads)..comptime!((portion + 1) * loads) {
            let at = UNIT_POS as usize + comptime!(i * self.threads);
            shared[first + at / vectors * comptime!(self.part.pitch()) + at % vectors] = loaded[i];
        }
    }

    /// A tile of what is in a half: the rows or columns from `across` on, and the numbers of `k` from `along` on.
    fn tile<E: Float, V: Size>(
        &self,
        shared: &Shared<[Vector<E, V>]>,
        half: usize,
        across: usize,
        #[comptime] along: usize,
        #[comptime] ident: MatrixIdent,
    ) -> Matrix<Vector<E, V>> {
        let pitch = comptime!(self.part.pitch());
        // Rows run along `k` in a left matrix by rows and a right one by columns.
        let at = if comptime!((ident == MatrixIdent::A) == self.part.by_column) {
            comptime!(along * pitch) + across / VECTOR
        } else {
            across * pitch + comptime!(along / VECTOR)
        };
        let first = half * comptime!(self.part.size());
        let layout = comptime!(self.part.layout());
        Matrix::<Vector<E, V>>::from_slice(
            ident,
            TILE,
            TILE,
            TILE,
            layout,
            &shared[first + at..comptime!(2 * self.part.size())],
            comptime!((pitch * VECTOR) as u32),
        )
    }
}

/// The sums of a plane's tiles over this cube's part of `k`, which is of so many `steps`.
///
/// What the next step takes is on its way from memory while the planes multiply what is in one half of shared memory, and
/// goes into the other between products: planes go from step to step together, and while all of them load or store the
/// matrix units have nothing to do.
#[cube]
pub(super) fn block_sums<E: Float, V: Size>(
    left: &[Vector<E, V>],
    right: &[Vector<E, V>],
    m: usize,
    n: usize,
    k: usize,
    steps: usize,
    #[comptime] plan: Plan,
) -> Sequence<Matrix<f32>> {
    let (left_part, right_part) = comptime!((plan.left(), plan.right()));
    let mut lefts =
        Shared::<[Vector<E, V>]>::new_aligned_slice(comptime!(2 * left_part.size()), 128usize);
    let mut rights =
        Shared::<[Vector<E, V>]>::new_aligned_slice(comptime!(2 * right_part.size()), 128usize);
    let mut next_left =
        Array::<Vector<E, V>>::new(comptime!(TILES * left_part.portion(plan.threads())));
    let mut next_right =
        Array::<Vector<E, V>>::new(comptime!(TILES * right_part.portion(plan.threads())));

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

    let first = CUBE_POS_Z as usize * steps * DEPTH;
    let of_left = Window::left(m, k, first, plan);
    let of_right = Window::right(n, k, first, plan);
    let plane = UNIT_POS_Y as usize;
    let plane_row = plane / plan.planes.1 * SIDE;
    let plane_column = plane % plan.planes.1 * SIDE;

    #[unroll]
    for portion in 0..TILES {
        of_left.load::<E, V>(left, 0, &mut next_left, portion);
        of_right.load::<E, V>(right, 0, &mut next_right, portion);
    }
    #[unroll]
    for portion in 0..TILES {
        of_left.store::<E, V>(&next_left, 0, &mut lefts, portion);
        of_right.store::<E, V>(&next_right, 0, &mut rights, portion);
    }
    sync_cube();

    for step in 0..steps {
        let more = step + 1 < steps;
        let half = step % 2;
        let other = 1 - half;
        #[unroll]
        for strip in 0..STRIPS {
            if comptime!(plan.loads_left(strip)) {
                if more {
                    #[unroll]
                    for portion in 0..TILES {
                        of_left.load::<E, V>(left, step + 1, &mut next_left, portion);
                    }
                }
            }
            if comptime!(plan.loads_right(strip)) {
                if more {
                    #[unroll]
                    for portion in 0..TILES {
                        of_right.load::<E, V>(right, step + 1, &mut next_right, portion);
                    }
                }
            }
            let along = comptime!(strip * TILE);
            let mut rows = Sequence::<Matrix<Vector<E, V>>>::new();
            let mut columns = Sequence::<Matrix<Vector<E, V>>>::new();
            #[unroll]
            for i in 0..TILES {
                let row = plane_row + comptime!(i * TILE);
                rows.push(of_left.tile::<E, V>(&lefts, half, row, along, MatrixIdent::A));
                let column = plane_column + comptime!(i * TILE);
                columns.push(of_right.tile::<E, V>(&rights, half, column, along, MatrixIdent::B));
            }
            #[unroll]
            for i in 0..TILES {
                #[unroll]
                for j in 0..TILES {
                    let sum = sums.index(comptime!(i * TILES + j));
                    cmma::execute(rows.index(i), columns.index(j), sum, sum);
                }
                if comptime!(strip == STRIPS - 1) {
                    // Without a condition, for the compiler to have them between products. After the last step nobody
                    // reads them.
                    of_left.store::<E, V>(&next_left, other, &mut lefts, i);
                    of_right.store::<E, V>(&next_right, other, &mut rights, i);
                }
            }
        }
        sync_cube();
    }
    sums
}
