//! What a step leaves out of each image, drawn before it: so that it is the same when a chunk is encoded again.

mod patches;
mod paths;

use clip_data::Cursor;
pub use patches::{KeptPatches, PatchDropout};
pub use paths::{KeptPaths, StochasticDepth};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Draws for one image of the batch that ends at a position. They are a function of the seed, the position in the data and
/// the place in the batch alone; `purpose` sets them apart from others of the same three.
fn draws(purpose: u64, seed: u64, end: Cursor, row: usize) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [seed, end.epoch, end.drawn, row as u64];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(purpose);
    rng
}
