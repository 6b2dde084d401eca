use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use clip_data::Cursor;
use clip_model::VisionConfig;
use rand_chacha::rand_core::Rng;

use super::draws;

/// Sets these draws apart from others of the same seed.
const PURPOSE: u64 = 0x7061_7468;

/// Skips residual paths at random, image by image, the later ones more often: a deep network learns as one that is less deep
/// on average. What isn't skipped is divided by its chance, so that its expectation is the whole network's.
///
/// # References
/// Huang et al. 2016, [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382); rates and scale are timm's
/// `DropPath`.
#[derive(Clone, Debug)]
pub struct StochasticDepth {
    /// Of each path, first to last.
    rates: Vec<f64>,
    seed: u64,
}

/// The paths of a batch's images that one step computes.
#[derive(Clone, Debug, PartialEq)]
pub struct KeptPaths {
    /// `[batch, paths]`: 0, or the inverse of the chance of not being 0.
    factors: Vec<f32>,
    paths: usize,
}

impl StochasticDepth {
    /// `None` if the configuration skips nothing.
    pub fn new(config: &VisionConfig, seed: u64) -> Option<Self> {
        let rates = config.path_rates();
        (!rates.is_empty()).then_some(Self { rates, seed })
    }

    /// What the batch that ends at a position keeps.
    pub fn draw(&self, end: Cursor, batch: usize) -> KeptPaths {
        let mut factors = Vec::with_capacity(batch * self.rates.len());
        for row in 0..batch {
            let mut rng = draws(PURPOSE, self.seed, end, row);
            factors.extend(self.rates.iter().map(|rate| {
                // 53 bits: from 0 to below 1.
                let drawn = (rng.next_u64() >> 11) as f64 / 2.0_f64.powi(53);
                if drawn < *rate {
                    0.0
                } else {
                    (1.0 / (1.0 - rate)) as f32
                }
            }));
        }
        KeptPaths {
            factors,
            paths: self.rates.len(),
        }
    }
}

impl KeptPaths {
    /// `[rows, paths]`: those of some of the batch's images.
    pub(in super::super) fn rows(&self, rows: Range<usize>, device: &Device) -> Tensor<2> {
        let shape = [rows.len(), self.paths];
        let factors = self.factors[rows.start * self.paths..rows.end * self.paths].to_vec();
        Tensor::from_data(TensorData::new(factors, shape), device)
    }
}

#[cfg(test)]
mod tests {
    use clip_model::ClipConfig;

    use super::*;

    const IMAGES: usize = 4000;

    fn depth(name: &str, rate: f64, seed: u64) -> Option<StochasticDepth> {
        let json = format!(
            r#"{{"embed_dim": 8, "vision_cfg": {{"image_size": 224, "timm_model_name": "{name}", "timm_pool": "",
            "timm_drop_path": {rate}}}, "text_cfg": {{"width": 8, "heads": 1, "layers": 1}}}}"#
        );
        let config = ClipConfig::from_json(&json, "test").unwrap();
        StochasticDepth::new(&config.vision_cfg, seed)
    }

    #[test]
    fn paths_are_kept_as_often_as_they_should_and_weigh_as_much() {
        assert!(depth("convnext_tiny", 0.0, 0).is_none());
        // 18 blocks of one path, and 14 of two.
        for (name, paths, of_a_block) in [("convnext_tiny", 18, 1), ("vitamin_small_224", 28, 2)] {
            let drawn = depth(name, 0.4, 0).unwrap().draw(Cursor::default(), IMAGES);
            assert_eq!(drawn.factors.len(), IMAGES * paths);
            for path in 0..paths {
                let of_path = drawn.factors.iter().skip(path).step_by(paths);
                let rate = 0.4 * (path / of_a_block) as f64 / (paths / of_a_block - 1) as f64;
                let skipped = of_path.clone().filter(|&&factor| factor == 0.0).count() as f64;
                // Deviations of at most 31 images.
                assert!(
                    (skipped - rate * IMAGES as f64).abs() < 125.0,
                    "{path}: {skipped}"
                );
                let mean = of_path.map(|&factor| f64::from(factor)).sum::<f64>() / IMAGES as f64;
                assert!((mean - 1.0).abs() < 0.06, "{path}: {mean}");
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
        let draw = |seed, drawn, batch| {
            let depth = depth("convnext_tiny", 0.5, seed).unwrap();
            depth.draw(at(drawn), batch)
        };
        let drawn = draw(1, 64, 50);
        assert_eq!(drawn, draw(1, 64, 50));
        assert_ne!(drawn, draw(1, 128, 50));
        assert_ne!(drawn, draw(2, 64, 50));
        assert_ne!(drawn.factors[..18], drawn.factors[18..36]);
        // A smaller batch is the beginning of a larger one.
        assert_eq!(draw(1, 64, 3).factors, drawn.factors[..54]);
    }
}
