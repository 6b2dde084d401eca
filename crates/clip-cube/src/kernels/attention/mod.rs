//! Attention among the tokens of a sequence, forward and back, by blocks.
//!
//! A group of threads ("cube") takes 64 queries of a head, and the keys and values 64 at a time, so that a sequence may be
//! of any length. Scores stay in the registers that multiplied them: a query's greatest score and the sum of its weights
//! follow from block to block (Milakov and Gimelshein 2018, [Online normalizer calculation for
//! softmax](https://arxiv.org/abs/1805.02867); Dao 2023, [FlashAttention-2](https://arxiv.org/abs/2307.08691)). What is
//! kept of them is the logarithm of that sum. The way back computes them again, in two kernels, one by queries and one by
//! keys, so that every sum is one thread's and the same each time.

// What a thread keeps is much, and an argument a line; and arrays are names of registers to the kernels' compiler.
#![allow(clippy::too_many_lines, clippy::trivially_copy_pass_by_ref)]

mod back;
mod by_keys;
mod by_queries;
mod forward;
mod place;
mod rows;

pub(crate) use {back::back, forward::forward};

use burn::{
    cubecl::{client::Client, prelude::*},
    tensor::DType,
};

use super::{
    limits::counts,
    matrix_units::{self, PLANE, TILE},
};

/// Queries or keys of a block, of which each plane has a tile.
const BLOCK: usize = 64;
/// Tiles of a block, each a plane's.
const PLANES: usize = BLOCK / TILE;
/// Numbers that a thread reads at once: 16 bytes of bf16 or f16.
const VECTOR: usize = 8;
/// Of the widest head whose sums fit in a thread's registers.
const MOST_WIDTH: usize = 128;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Plan {
    /// Of a head.
    width: usize,
    masked: bool,
    /// Whether there is a whole block.
    whole: bool,
    /// Tiles of the last block, if it isn't a whole one.
    rest: usize,
}

impl Plan {
    fn new(tokens: usize, width: usize, masked: bool) -> Self {
        Self {
            width,
            masked,
            whole: tokens >= BLOCK,
            rest: (tokens % BLOCK).div_ceil(TILE),
        }
    }

    /// Vectors of a head's row.
    const fn vectors(self) -> usize {
        self.width / VECTOR
    }

    /// Vectors from one row in shared memory to the next, so that eight rows' beginnings are in different banks.
    const fn pitch(self) -> usize {
        self.vectors() + 1
    }

    /// Vectors of a block in shared memory.
    const fn size(self) -> usize {
        BLOCK * self.pitch()
    }

    /// Tiles across a head, as wide as operands are.
    const fn across(self) -> usize {
        self.width / TILE
    }

    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// Rows of whole blocks: as many logarithms are kept of a head.
pub(crate) fn padded(tokens: usize) -> usize {
    tokens.next_multiple_of(BLOCK)
}

/// Cubes for so many sequences and heads, and the threads of each.
fn launch(tokens: usize, heads: usize, batch: usize) -> (CubeCount, CubeDim) {
    let blocks = tokens.div_ceil(BLOCK);
    (
        CubeCount::Static(blocks as u32, heads as u32, batch as u32),
        CubeDim::new_2d(PLANE, PLANES as u32),
    )
}

/// Whether both ways are computed on a device, for sequences of any length: `[batch, tokens, heads, head_width]`.
pub(crate) fn fits(client: &Client, dtype: DType, shape: [usize; 4]) -> bool {
    matrix_units::take_apart(client, dtype)
        && has_kernel(shape, client.properties().hardware.max_cube_count)
}

/// Whether heads are of a width that kernels have, a device has cubes enough along each axis, and kernels can count what they
/// read and write: queries, keys and values in pairs, and numbers of a mask and of each row.
fn has_kernel([batch, tokens, heads, head_width]: [usize; 4], most: (u32, u32, u32)) -> bool {
    head_width.is_multiple_of(TILE)
        && head_width <= MOST_WIDTH
        && tokens.div_ceil(BLOCK) <= most.0 as usize
        && heads <= most.1 as usize
        && batch <= most.2 as usize
        && counts(batch * tokens * 3 * heads * head_width / 2)
        && counts(batch * heads * padded(tokens))
        && counts(tokens * tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What CUDA has along each axis.
    const CUBES: (u32, u32, u32) = (i32::MAX as u32, 65_535, 65_535);

    #[test]
    fn heads_are_of_whole_tiles_and_not_too_wide() {
        for width in [16, 64, 80, 128] {
            assert!(has_kernel([3, 50, 12, width], CUBES), "{width}");
        }
        for width in [8, 72, 144] {
            assert!(!has_kernel([3, 50, 12, width], CUBES), "{width}");
        }
    }

    #[test]
    fn there_are_no_more_sequences_than_cubes_along_an_axis() {
        assert!(has_kernel([65_535, 77, 8, 64], CUBES));
        assert!(!has_kernel([65_536, 77, 8, 64], CUBES));
    }

    #[test]
    fn pairs_are_no_more_than_32_bits_count() {
        // Of ViT-bigG-14.
        assert!(has_kernel([6144, 257, 16, 112], CUBES));
        assert!(!has_kernel([8192, 257, 16, 112], CUBES));
    }
}
