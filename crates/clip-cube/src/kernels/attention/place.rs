//! Where a cube, its planes and its threads work.

use burn::cubecl::{self, prelude::*};

use super::{BLOCK, Plan};
use crate::kernels::matrix_units::TILE;

/// A cube's 64 rows of a head of a sequence, and a plane's 16 of them.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    /// Of the sequence.
    pub(super) tokens: usize,
    /// Vectors of a token, of all heads.
    pub(super) all: usize,
    /// The head's first query; `all` vectors after it is its key, and again its value.
    first_query: usize,
    /// The head's first vector of what was found.
    first_mixed: usize,
    /// Where the head's logarithms and sums begin, of which each row has one.
    pub(super) first_number: usize,
    /// The cube's first row.
    pub(super) first: usize,
    /// The plane's first row among the cube's.
    pub(super) row: usize,
}

#[cube]
impl Place {
    pub(super) fn new(tokens: usize, heads: usize, #[comptime] plan: Plan) -> Place {
        let vectors = comptime!(plan.vectors());
        let all = heads * vectors;
        let (head, sequence) = (CUBE_POS_Y as usize, CUBE_POS_Z as usize);
        Place {
            tokens,
            all,
            first_query: sequence * tokens * 3 * all + head * vectors,
            first_mixed: sequence * tokens * all + head * vectors,
            first_number: (sequence * heads + head) * tokens.div_ceil(BLOCK) * BLOCK,
            first: CUBE_POS_X as usize * BLOCK,
            row: UNIT_POS_Y as usize * TILE,
        }
    }

    pub(super) fn queries(&self) -> Rows {
        Rows {
            first: self.first_query,
            stride: 3 * self.all,
        }
    }

    pub(super) fn keys(&self) -> Rows {
        Rows {
            first: self.first_query + self.all,
            stride: 3 * self.all,
        }
    }

    pub(super) fn values(&self) -> Rows {
        Rows {
            first: self.first_query + 2 * self.all,
            stride: 3 * self.all,
        }
    }

    /// What was found, and the gradient by it.
    pub(super) fn mixed(&self) -> Rows {
        Rows {
            first: self.first_mixed,
            stride: self.all,
        }
    }

    /// The first of the thread's two rows; the other is 8 below it.
    pub(super) fn own(&self) -> usize {
        self.first + self.row + UNIT_POS_X as usize / 4
    }

    /// Whether any of the plane's rows is a token's. Otherwise it helps to load only.
    pub(super) fn takes_part(&self) -> bool {
        self.first + self.row < self.tokens
    }
}

/// A head's rows in memory.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Rows {
    /// The first vector.
    pub(super) first: usize,
    /// Vectors from one row to the next.
    pub(super) stride: usize,
}

/// Keys and values that are in shared memory at once.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Block {
    /// The first.
    pub(super) key: usize,
    /// Tiles of them.
    #[cube(comptime)]
    pub(super) tiles: usize,
    /// Whether some may be beyond the tokens.
    #[cube(comptime)]
    pub(super) partial: bool,
}

#[cube]
impl Block {
    pub(super) fn whole(number: usize) -> Block {
        Block {
            key: number * BLOCK,
            tiles: comptime!(BLOCK / TILE),
            partial: false,
        }
    }

    /// What remains of the tokens after whole ones.
    pub(super) fn rest(place: &Place, #[comptime] plan: Plan) -> Block {
        Block {
            key: place.tokens / BLOCK * BLOCK,
            tiles: comptime!(plan.rest),
            partial: true,
        }
    }
}
