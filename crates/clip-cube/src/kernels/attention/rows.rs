//! What both ways do with the rows of a head: take them to shared memory, multiply them, and put sums back.

use burn::cubecl::{self, prelude::*};

use super::{
    PLANES, Plan, VECTOR,
    place::{Block, Place, Rows},
};
use crate::kernels::matrix_units::{HALF, PLANE, Pair, REGISTERS, TILE, multiply_add, operand};

/// Tiles of rows of a head, from `row` on, into shared memory; zeros beyond the tokens.
#[cube]
pub(super) fn load_rows<E: Float, N: Size>(
    memory: &[Vector<E, N>],
    from: Rows,
    row: usize,
    tokens: usize,
    rows: &mut Shared<[Vector<E, N>]>,
    #[comptime] tiles: usize,
    #[comptime] plan: Plan,
) {
    let vectors = comptime!(plan.vectors());
    let threads = comptime!(PLANE as usize * PLANES);
    // Some threads take rows beyond the tiles, which are the block's still.
    #[unroll]
    for i in 0..comptime!((tiles * TILE * plan.vectors()).div_ceil(PLANE as usize * PLANES)) {
        let at = UNIT_POS as usize + comptime!(i * threads);
        let token = row + at / vectors;
        let mut vector = Vector::<E, N>::new(E::from_int(0));
        if token < tokens {
            vector = memory[from.first + token * from.stride + at % vectors];
        }
        rows[at / vectors * comptime!(plan.pitch()) + at % vectors] = vector;
    }
}

/// The cube's own rows of a head into shared memory.
#[cube]
pub(super) fn load_own<E: Float, N: Size>(
    memory: &[Vector<E, N>],
    from: Rows,
    place: &Place,
    rows: &mut Shared<[Vector<E, N>]>,
    #[comptime] plan: Plan,
) {
    load_rows::<E, N>(memory, from, place.first, place.tokens, rows, PLANES, plan);
}

/// A block of a head's keys and values into shared memory, once nobody reads what was there.
#[cube]
pub(super) fn load_keys<E: Float, N: Size>(
    projected: &[Vector<E, N>],
    place: &Place,
    block: &Block,
    keys: &mut Shared<[Vector<E, N>]>,
    values: &mut Shared<[Vector<E, N>]>,
    #[comptime] plan: Plan,
) {
    let (key, tokens) = (block.key, place.tokens);
    sync_cube();
    load_rows::<E, N>(
        projected,
        place.keys(),
        key,
        tokens,
        keys,
        block.tiles,
        plan,
    );
    load_rows::<E, N>(
        projected,
        place.values(),
        key,
        tokens,
        values,
        block.tiles,
        plan,
    );
    sync_cube();
}

/// A plane's rows as left operands.
#[cube]
pub(super) fn left_tiles<E: Float, N: Size>(
    rows: &Shared<[Vector<E, N>]>,
    row: usize,
    #[comptime] plan: Plan,
) -> Sequence<Array<Vector<E, Pair>>> {
    let mut tiles = Sequence::new();
    #[unroll]
    for tile in 0..comptime!(plan.across()) {
        let at = row * comptime!(plan.pitch()) + comptime!(tile * TILE / VECTOR);
        tiles.push(operand::<E, N>(
            rows,
            at,
            comptime!(plan.pitch()),
            true,
            true,
        ));
    }
    tiles
}

/// Adds a plane's rows times tiles of rows in shared memory from `first` on: `[16, 16 * tiles]`.
#[cube]
pub(super) fn rows_by_rows<E: Float, N: Size>(
    left: &Sequence<Array<Vector<E, Pair>>>,
    rows: &Shared<[Vector<E, N>]>,
    first: usize,
    sums: &mut Array<Vector<f32, Pair>>,
    #[comptime] tiles: usize,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for along in 0..comptime!(plan.across()) {
            let at = first * comptime!(plan.pitch())
                + comptime!(tile * TILE * plan.pitch() + along * TILE / VECTOR);
            let right = operand::<E, N>(rows, at, comptime!(plan.pitch()), false, true);
            multiply_add::<E>(left.index(along), &right, sums, tile);
        }
    }
}

/// Adds a tile times the rows of shared memory from `first` on, `[16, width]`.
#[cube]
pub(super) fn rows_by_columns<E: Float, N: Size>(
    left: &Array<Vector<E, Pair>>,
    rows: &Shared<[Vector<E, N>]>,
    first: usize,
    sums: &mut Array<Vector<f32, Pair>>,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for tile in 0..comptime!(plan.across()) {
        let at = first * comptime!(plan.pitch()) + comptime!(tile * TILE / VECTOR);
        let right = operand::<E, N>(rows, at, comptime!(plan.pitch()), false, false);
        multiply_add::<E>(left, &right, sums, tile);
    }
}

/// A tile of sums, `[16, 16]`, as a left operand.
#[cube]
pub(super) fn rounded<E: Float>(
    sums: &Array<Vector<f32, Pair>>,
    #[comptime] tile: usize,
) -> Array<Vector<E, Pair>> {
    let mut registers = Array::<Vector<E, Pair>>::new(REGISTERS);
    #[unroll]
    for i in 0..REGISTERS {
        registers[i] = Vector::cast_from(sums[comptime!(REGISTERS * tile + i)]);
    }
    registers
}

/// Scales a plane's scores of a block, and adds the mask to them. None is left beyond the tokens.
#[cube]
pub(super) fn mask_scores(
    scores: &mut Array<Vector<f32, Pair>>,
    mask: &[f32],
    place: &Place,
    block: &Block,
    #[comptime] plan: Plan,
) {
    let scale = comptime!(plan.scale()).runtime();
    let tokens = place.tokens;
    let column = block.key + UNIT_POS_X as usize % 4 * 2;
    #[unroll]
    for tile in 0..comptime!(2 * block.tiles) {
        let column = column + comptime!(tile * HALF);
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(2 * tile + half);
            let token = place.own() + comptime!(half * HALF);
            let mut pair = scores[at];
            #[unroll]
            for x in 0..2usize {
                let mut score = pair.extract(x) * scale;
                if comptime!(plan.masked) {
                    if token < tokens && column + x < tokens {
                        score += mask[token * tokens + column + x];
                    }
                }
                if comptime!(block.partial) {
                    score = select(column + x < tokens, score, f32::min_value());
                }
                pair.insert(x, score);
            }
            scores[at] = pair;
        }
    }
}

/// Takes the greatest scores along, and returns what all before is to be multiplied with.
#[cube]
pub(super) fn follow(
    scores: &Array<Vector<f32, Pair>>,
    most: &mut Array<f32>,
    #[comptime] tiles: usize,
) -> Array<f32> {
    let mut factors = Array::<f32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        let mut greatest = most[half];
        #[unroll]
        for tile in 0..comptime!(2 * tiles) {
            let pair = scores[comptime!(2 * tile + half)];
            greatest = max(greatest, max(pair.extract(0usize), pair.extract(1usize)));
        }
        greatest = max(greatest, plane_shuffle_xor(greatest, 1u32));
        greatest = max(greatest, plane_shuffle_xor(greatest, 2u32));
        factors[half] = (most[half] - greatest).exp();
        most[half] = greatest;
    }
    factors
}

/// The exponentials of scores less the greatest one.
#[cube]
pub(super) fn exponentials(scores: Vector<f32, Pair>, most: f32) -> Vector<f32, Pair> {
    let mut weights = Vector::<f32, Pair>::empty();
    #[unroll]
    for x in 0..2usize {
        weights.insert(x, (scores.extract(x) - most).exp());
    }
    weights
}

/// The sum over the four threads that have a row's numbers.
#[cube]
pub(super) fn quad_sum(of: f32) -> f32 {
    let pair = of + plane_shuffle_xor(of, 1u32);
    pair + plane_shuffle_xor(pair, 2u32)
}

/// The thread's part of one of its rows of sums, times a factor, to memory, if it is a token's.
#[cube]
pub(super) fn store_row<E: Float>(
    sums: &Array<Vector<f32, Pair>>,
    #[comptime] half: usize,
    factor: f32,
    memory: &mut [Vector<E, Pair>],
    to: Rows,
    place: &Place,
    #[comptime] plan: Plan,
) {
    let token = place.own() + comptime!(half * HALF);
    if token < place.tokens {
        let first = (to.first + token * to.stride) * comptime!(VECTOR / 2);
        let lane = UNIT_POS_X as usize;
        #[unroll]
        for tile in 0..comptime!(2 * plan.across()) {
            let pair = sums[comptime!(2 * tile + half)] * Vector::new(factor);
            memory[first + comptime!(tile * HALF / 2) + lane % 4] = Vector::cast_from(pair);
        }
    }
}
