use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use clip_data::Cursor;
use clip_model::VisionConfig;
use rand_chacha::rand_core::Rng;

use super::draws;

/// Sets these draws apart from others of the same seed.
const PURPOSE: u64 = 0x0070_6174_6368_6573;

/// Trains on some of each image's patches: less to compute, and no worse a model for the same compute.
///
/// # References
/// Li et al. 2022, [Scaling Language-Image Pre-training via Masking](https://arxiv.org/abs/2212.00794).
#[derive(Clone, Copy, Debug)]
pub struct PatchDropout {
    patches: usize,
    kept: usize,
    seed: u64,
}

/// The patches of a batch's images that one step encodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPatches {
    /// `[batch, kept]`, ascending in each row.
    indices: Vec<i32>,
    kept: usize,
}

impl PatchDropout {
    /// Keeps at least one patch, and otherwise the whole part of `patches * (1 - patch_dropout)`, as OpenCLIP; `None` if
    /// the configuration drops none.
    pub fn new(config: &VisionConfig, seed: u64) -> Option<Self> {
        let patches = config.grid().pow(2);
        let kept = ((patches as f64 * (1.0 - config.patch_dropout)) as usize).max(1);
        (config.patch_dropout > 0.0).then_some(Self {
            patches,
            kept,
            seed,
        })
    }

    /// What the batch that ends at a position keeps.
    pub fn draw(&self, end: Cursor, batch: usize) -> KeptPatches {
        let mut indices = Vec::with_capacity(batch * self.kept);
        let mut order: Vec<i32> = Vec::with_capacity(self.patches);
        for row in 0..batch {
            let mut rng = draws(PURPOSE, self.seed, end, row);
            order.clear();
            order.extend(0..self.patches as i32);
            // The first steps of Fisher and Yates's shuffle.
            for at in 0..self.kept {
                let left = (self.patches - at) as u64;
                // The high half of the product: uniform to within one in 2^56, for less than 256 patches.
                let other = (u128::from(rng.next_u64()) * u128::from(left)) >> 64;
                order.swap(at, at + other as usize);
            }
            order.truncate(self.kept);
            order.sort_unstable();
            indices.extend_from_slice(&order);
        }
        KeptPatches {
            indices,
            kept: self.kept,
        }
    }
}

impl KeptPatches {
    /// `[rows, kept]`: those of some of the batch's images.
    pub(in super::super) fn rows(&self, rows: Range<usize>, device: &Device) -> Tensor<2, Int> {
        let shape = [rows.len(), self.kept];
        let indices = self.indices[rows.start * self.kept..rows.end * self.kept].to_vec();
        Tensor::from_data(TensorData::new(indices, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use clip_model::ClipConfig;

    use super::*;

    fn dropout(share: f64, seed: u64) -> Option<PatchDropout> {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 24, "layers": 1, "width": 8,
            "head_width": 8, "patch_size": 8}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let mut config = ClipConfig::from_json(json, "test").unwrap().vision_cfg;
        config.patch_dropout = share;
        PatchDropout::new(&config, seed)
    }

    #[test]
    fn as_many_patches_stay_as_in_open_clip() {
        assert!(dropout(0.0, 0).is_none());
        // `max(1, int(9 * (1 - p)))`
        for (share, kept) in [(0.5, 4), (0.1, 8), (0.99, 1)] {
            let drawn = dropout(share, 0).unwrap().draw(Cursor::default(), 50);
            assert_eq!(drawn.indices.len(), 50 * kept);
            for row in drawn.indices.chunks(kept) {
                assert!(row.windows(2).all(|pair| pair[0] < pair[1]), "{row:?}");
                assert!(row.iter().all(|index| (0..9).contains(index)), "{row:?}");
            }
        }
    }

    #[test]
    fn draws_belong_to_seed_position_and_place() {
        let at = |drawn| Cursor {
            epoch: 2,
            drawn,
            ..Cursor::default()
        };
        let drawn = dropout(0.5, 1).unwrap().draw(at(64), 200);
        assert_eq!(drawn, dropout(0.5, 1).unwrap().draw(at(64), 200));
        assert_ne!(drawn, dropout(0.5, 1).unwrap().draw(at(128), 200));
        assert_ne!(drawn, dropout(0.5, 2).unwrap().draw(at(64), 200));
        assert_ne!(drawn.indices[..4], drawn.indices[4..8]);
        // A smaller batch is the beginning of a larger one.
        let fewer = dropout(0.5, 1).unwrap().draw(at(64), 3);
        assert_eq!(fewer.indices, drawn.indices[..12]);
        // Every patch stays 4/9 of the time: 89 of 200, with a deviation of 7.
        for patch in 0..9 {
            let times = drawn
                .indices
                .iter()
                .filter(|&&index| index == patch)
                .count();
            assert!((60..120).contains(&times), "{patch}: {times}");
        }
    }
}
