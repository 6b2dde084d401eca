//! A cube's square of a product: what it takes of both matrices step by step, and the sums of it.

// Arrays are names of registers to the kernels' compiler.
#![allow(clippy::trivially_copy_pass_by_ref)]

use burn::cubecl::{self, prelude::*};

use super::{
    DEPTH, QUAD, Quad,
    plan::{Plan, Square},
};

/// Quads of [`DEPTH`].
const STRIPS: usize = DEPTH / QUAD;

/// Where a cube takes its part of a matrix from.
#[derive(CubeType, Clone, Copy)]
struct Window {
    /// The matrix's first vector.
    first: usize,
    /// The cube's first row of the left matrix, or column of the right one; and how many there are in all.
    across: usize,
    end: usize,
    k: usize,
    /// The thread's among those that take of this matrix.
    place: usize,
    /// Whether rows in memory run along `k`.
    #[cube(comptime)]
    along: bool,
    #[cube(comptime)]
    square: Square,
}

#[cube]
impl Window {
    /// The thread's patch, from a number of `k` on, as quads across it; beyond the matrix it is of zeros.
    fn load<V: Size>(&self, matrix: &[Vector<f32, V>], k: usize, patch: &mut Array<Quad>) {
        if comptime!(self.along) {
            let row = self.across + self.place / STRIPS * QUAD;
            let column = k + self.place % STRIPS * QUAD;
            let mut rows = Array::<Quad>::new(QUAD);
            #[unroll]
            for i in 0..QUAD {
                rows[i] = self.quad::<V>(matrix, row + i, column, self.end, self.k);
            }
            #[unroll]
            for i in 0..QUAD {
                let mut quad = Quad::empty();
                #[unroll]
                for j in 0..QUAD {
                    quad.insert(j, rows[j].extract(i));
                }
                patch[i] = quad;
            }
        } else {
            #[unroll]
            for i in 0..QUAD {
                let (row, column) = self.by_rows(i);
                let column = self.across + column * QUAD;
                patch[i] = self.quad::<V>(matrix, k + row, column, self.k, self.end);
            }
        }
    }

    /// Puts it into shared memory, where rows run across.
    fn store(&self, patch: &Array<Quad>, shared: &mut Shared<[Quad]>) {
        let pitch = comptime!(self.square.pitch());
        #[unroll]
        for i in 0..QUAD {
            if comptime!(self.along) {
                let row = self.place % STRIPS * QUAD + i;
                shared[row * pitch + self.place / STRIPS] = patch[i];
            } else {
                let (row, column) = self.by_rows(i);
                shared[row * pitch + column] = patch[i];
            }
        }
    }

    /// Where a quad of a matrix whose rows run across lies in the cube's part: neighbouring threads have neighbours.
    fn by_rows(&self, #[comptime] i: usize) -> (usize, usize) {
        let at = self.place + comptime!(i * self.square.patches());
        let quads = comptime!(self.square.side() / QUAD);
        (at / quads, at % quads)
    }

    /// Four numbers of a row in memory, of so many rows and columns.
    fn quad<V: Size>(
        &self,
        matrix: &[Vector<f32, V>],
        row: usize,
        column: usize,
        rows: usize,
        columns: usize,
    ) -> Quad {
        let mut quad = Quad::new(0.0);
        let each = V::value();
        let first = self.first + (row * columns + column) / each;
        #[unroll]
        for part in 0..comptime!(QUAD / each) {
            if row < rows && column + comptime!(part * each) < columns {
                let vector = matrix[first + part];
                #[unroll]
                for i in 0..each {
                    quad.insert(comptime!(part * each + i), vector.extract(i));
                }
            }
        }
        quad
    }
}

/// Which product of several a cube has a square of, and where that begins.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub(super) product: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

#[cube]
impl Place {
    /// The squares below each other of all products are counted along the second axis of cubes first, and then along the
    /// third.
    pub(super) fn of_cube(m: usize, #[comptime] square: Square) -> Place {
        let side = comptime!(square.side());
        let cubes = m.div_ceil(side);
        let down = (CUBE_POS_Z * CUBE_COUNT_Y + CUBE_POS_Y) as usize;
        Place {
            product: down / cubes,
            row: down % cubes * side,
            column: CUBE_POS_X as usize * side,
        }
    }
}

/// A thread's sums, row by row, whose quads are those of [`Square`].
///
/// What the next step takes is on its way from memory while threads multiply what is in shared memory.
#[cube]
pub(super) fn block_sums<V: Size>(
    left: &[Vector<f32, V>],
    right: &[Vector<f32, V>],
    m: usize,
    n: usize,
    k: usize,
    place: &Place,
    #[comptime] plan: Plan,
) -> Array<Quad> {
    let square = comptime!(plan.square);
    let (threads, quads) = comptime!((square.threads, square.quads));
    let pitch = comptime!(square.pitch());
    let each = V::value();
    let unit = UNIT_POS as usize;
    let of_left = Window {
        first: place.product * (m * k / each),
        across: place.row,
        end: m,
        k,
        place: unit,
        along: comptime!(!plan.by_column.0),
        square,
    };
    let of_right = Window {
        first: place.product * (k * n / each),
        across: place.column,
        end: n,
        k,
        // The other threads, where half of them take all.
        place: comptime!(square.all_threads() - 1) - unit,
        along: comptime!(plan.by_column.1),
        square,
    };
    let mut lefts = Shared::<[Quad]>::new_slice(comptime!(square.size()));
    let mut rights = Shared::<[Quad]>::new_slice(comptime!(square.size()));
    let mut next_left = Array::<Quad>::new(QUAD);
    let mut next_right = Array::<Quad>::new(QUAD);
    let takes_left = of_left.place < comptime!(square.patches());
    let takes_right = of_right.place < comptime!(square.patches());

    let mut sums = Array::<Quad>::new(comptime!(QUAD * quads * quads));
    #[unroll]
    for i in 0..comptime!(QUAD * quads * quads) {
        sums[i] = Quad::new(0.0);
    }
    if takes_left {
        of_left.load::<V>(left, 0, &mut next_left);
    }
    if takes_right {
        of_right.load::<V>(right, 0, &mut next_right);
    }
    for step in 0..k.div_ceil(DEPTH) {
        sync_cube();
        if takes_left {
            of_left.store(&next_left, &mut lefts);
        }
        if takes_right {
            of_right.store(&next_right, &mut rights);
        }
        sync_cube();
        // Zeros, after the last step.
        let next = (step + 1) * DEPTH;
        if takes_left {
            of_left.load::<V>(left, next, &mut next_left);
        }
        if takes_right {
            of_right.load::<V>(right, next, &mut next_right);
        }
        #[unroll]
        for along in 0..DEPTH {
            let row = comptime!(along * pitch);
            let mut columns = Array::<Quad>::new(quads);
            #[unroll]
            for j in 0..quads {
                columns[j] = rights[row + comptime!(j * threads) + UNIT_POS_X as usize];
            }
            #[unroll]
            for i in 0..quads {
                let rows = lefts[row + comptime!(i * threads) + UNIT_POS_Y as usize];
                #[unroll]
                for part in 0..QUAD {
                    let number = Quad::new(rows.extract(part));
                    #[unroll]
                    for j in 0..quads {
                        let at = comptime!((i * QUAD + part) * quads + j);
                        sums[at] = fma(number, columns[j], sums[at]);
                    }
                }
            }
        }
    }
    sums
}
