use burn::tensor::{Int, Tensor};

/// What was drawn for each image of a batch that is encoded in training; by default nothing is left out.
#[derive(Clone, Debug, Default)]
pub struct TrainingDraws {
    /// `[batch, kept]`: which patches of each image are encoded; all without. A vision transformer's of the paper alone.
    pub patches: Option<Tensor<2, Int>>,
    /// `[batch, paths]`: what each residual path adds to an image is multiplied by this, 0 or the inverse of its chance not to
    /// be 0; nothing without. As many as [`path_rates`](crate::VisionConfig::path_rates).
    pub paths: Option<Tensor<2>>,
}

impl TrainingDraws {
    /// The draws off the graph.
    pub fn inner(self) -> Self {
        Self {
            patches: self.patches.map(Tensor::inner),
            paths: self.paths.map(Tensor::inner),
        }
    }

    /// The draws of an encoder that skips no residual paths.
    ///
    /// # Panics
    /// If paths are skipped.
    pub(super) fn patches_alone(self) -> Option<Tensor<2, Int>> {
        assert!(self.paths.is_none(), "this encoder skips no residual paths");
        self.patches
    }

    /// The draws of an encoder that reads all patches.
    ///
    /// # Panics
    /// If patches are dropped.
    pub(super) fn paths_alone(self) -> Option<Tensor<2>> {
        assert!(
            self.patches.is_none(),
            "patches are dropped by the paper's vision transformer alone"
        );
        self.paths
    }

    /// # Panics
    /// If anything is left out, which the encoder always computes.
    pub(super) fn assert_none(self) {
        let paths = self.paths_alone();
        assert!(paths.is_none(), "this encoder skips no residual paths");
    }
}

/// Chances to be skipped of so many blocks in turn, rising evenly from 0 to `last`. Huang et al. 2016, section 3, whose first
/// block is already skipped at times; timm's is never.
pub(crate) fn rising(last: f64, blocks: usize) -> impl Iterator<Item = f64> {
    let steps = blocks.saturating_sub(1).max(1) as f64;
    (0..blocks).map(move |block| last * block as f64 / steps)
}

/// What a residual path adds, `[batch, ..]`, where it isn't skipped.
pub(super) fn along<const D: usize>(
    path: usize,
    paths: Option<&Tensor<2>>,
    added: Tensor<D>,
) -> Tensor<D> {
    let Some(paths) = paths else {
        return added;
    };
    let mut shape = [1; D];
    shape[0] = added.dims()[0];
    let factors = paths.clone().narrow(1, path, 1).reshape(shape);
    let dtype = added.dtype();
    added * factors.cast(dtype)
}

#[cfg(test)]
mod tests {
    use burn::{
        module::{Module, ModuleMapper, Param},
        tensor::{Device, Distribution, Tolerance},
    };

    use super::*;
    use crate::{
        Init,
        encoder::{
            ImageEncoder, TimmProjection,
            convnext::{ConvNeXt, ConvNeXtShape},
            timm_vit::{TimmVisionTransformer, TimmVitShape, TimmVitStem},
            vitamin::{ViTamin, ViTaminShape},
        },
    };

    const BATCH: usize = 3;
    /// Side of the images.
    const SIDE: usize = 32;

    /// So large that a block's part can be seen.
    struct Larger;

    impl ModuleMapper for Larger {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|values| values * 4.0)
        }
    }

    /// Of two blocks or more each.
    fn towers() -> [(ImageEncoder, usize); 3] {
        let device = Device::flex();
        let init = &mut Init::new(0, &device);
        let projection = TimmProjection::Linear;
        let shape = ConvNeXtShape {
            depths: [1, 2, 1, 1],
            channels: [4, 6, 8, 10],
            epsilon: 1e-6,
            projection,
        };
        let mut convnext = ConvNeXt::init(&shape, 6, init);
        let stages = convnext.trunk.stages.iter_mut();
        for block in stages.flat_map(|stage| &mut stage.blocks) {
            block.scale = block.scale.clone().map(|scale| scale.ones_like());
        }
        let shape = TimmVitShape {
            stem: TimmVitStem::Patches(8),
            image_size: SIDE,
            width: 8,
            layers: 3,
            heads: 2,
        };
        let vit = TimmVisionTransformer::init(&shape, 6, init);
        let shape = ViTaminShape {
            image_size: Some(SIDE),
            channels: [2, 4],
            width: 8,
            layers: 3,
            heads: 2,
            projection,
        };
        let vitamin = ViTamin::init(&shape, 6, init);
        [
            (ImageEncoder::ConvNeXt(convnext), 5),
            (ImageEncoder::TimmVit(vit.map(&mut Larger)), 6),
            (ImageEncoder::ViTamin(vitamin.map(&mut Larger)), 6),
        ]
    }

    fn without(tower: &ImageEncoder, block: usize) -> ImageEncoder {
        let mut tower = tower.clone();
        match &mut tower {
            // The second of the second stage is the third of all.
            ImageEncoder::ConvNeXt(encoder) => {
                encoder.trunk.stages[1].blocks.remove(block - 1);
            }
            ImageEncoder::TimmVit(encoder) => {
                encoder.trunk.transformer.resblocks.remove(block);
            }
            ImageEncoder::ViTamin(encoder) => {
                encoder.trunk.blocks.remove(block);
            }
            _ => unreachable!("no other has paths"),
        }
        tower
    }

    #[test]
    fn a_skipped_path_adds_nothing_to_its_image_and_the_others_as_much_as_they_should() {
        let device = Device::flex();
        let images = Tensor::<4>::random([BATCH, 3, SIDE, SIDE], Distribution::Default, &device);
        for (tower, paths) in towers() {
            let along = |factors: Tensor<2>| {
                let draws = TrainingDraws {
                    paths: Some(factors),
                    ..TrainingDraws::default()
                };
                tower.forward_in_training(images.clone(), draws).0
            };
            let same = |found: Tensor<2>, want: Tensor<2>| {
                let tolerance = Tolerance::<f32>::absolute(1e-4);
                found
                    .into_data()
                    .assert_approx_eq(&want.into_data(), tolerance);
            };
            let all = Tensor::ones([BATCH, paths], &device);
            let whole = tower.forward(images.clone());
            same(along(all.clone()), whole.clone());

            // The last image goes without the block before the last, or after it in a tower of stages.
            let block = if paths == 5 { 2 } else { 1 };
            let of_block = if paths == 5 { 2..3 } else { 2..4 };
            let skipped = Tensor::zeros([1, of_block.len()], &device);
            let some = all
                .clone()
                .slice_assign([BATCH - 1..BATCH, of_block], skipped);
            let found = along(some);
            let shorter = without(&tower, block).forward(images.clone());
            let far = (shorter.clone() - whole.clone()).abs().max();
            assert!(far.into_scalar::<f32>() > 1e-2, "the block can't be seen");
            same(
                found.clone().narrow(0, 0, BATCH - 1),
                whole.narrow(0, 0, BATCH - 1),
            );
            same(
                found.narrow(0, BATCH - 1, 1),
                shorter.narrow(0, BATCH - 1, 1),
            );

            // Each path has its own factor.
            let plain = along(all.clone());
            for path in 0..paths {
                let twice = Tensor::full([BATCH, 1], 2.0, &device);
                let found = along(all.clone().slice_assign([0..BATCH, path..path + 1], twice));
                let far = (found - plain.clone()).abs().max().into_scalar::<f32>();
                assert!(far > 1e-3, "path {path} of {paths}");
            }
        }
    }

    /// By timm's `calculate_drop_path_rates(0.3, 4)` and `(0.3, 1)`.
    #[test]
    fn later_blocks_are_skipped_more_often() {
        let rates: Vec<f64> = rising(0.3, 4).collect();
        for (rate, want) in rates.iter().zip([0.0, 0.1, 0.2, 0.3]) {
            assert!((rate - want).abs() < 1e-12, "{rates:?}");
        }
        assert_eq!(rising(0.3, 1).collect::<Vec<_>>(), [0.0]);
    }
}
