use burn::{module::Module, nn::Linear, tensor::Tensor};

use super::{
    super::{BatchStatistics, LockedGroups, Statistics},
    FastVitShape, FastVitStage, MobileOneBlock,
    layers::{STD, means},
    mobile_one::MobileOneShape,
    shape::{FEATURES_RATIO, KERNEL, sixteenth},
};
use crate::Init;

/// A convolutional network whose branches are one convolution at inference, with attention in its last stages.
///
/// # References
/// Vasu et al. 2023, [FastViT](https://arxiv.org/abs/2303.14189); Vasu et al. 2024,
/// [MobileCLIP](https://arxiv.org/abs/2311.17049); Faghri et al. 2025, [MobileCLIP2](https://arxiv.org/abs/2508.20691);
/// parameters as timm names them, in the form that is trained, which published weights have.
#[derive(Module, Debug)]
pub struct FastVit {
    /// OpenCLIP wraps timm's models in this name.
    pub trunk: FastVitTrunk,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct FastVitTrunk {
    /// To a quarter of the image's side.
    pub stem: Vec<MobileOneBlock>,
    /// Each but the first halves the side.
    pub stages: Vec<FastVitStage>,
    /// To twice the channels.
    pub final_conv: MobileOneBlock,
    /// After the average over places.
    pub head: FastVitHead,
}

/// A projection by itself.
#[derive(Module, Debug)]
pub struct FastVitHead {
    /// `[channels, embed_dim]`.
    pub fc: Linear,
}

impl FastVit {
    pub(crate) fn init(shape: &FastVitShape, embed_dim: usize, init: &mut Init) -> Self {
        let [first, last] = shape.ends();
        let strided = |from: usize, groups: usize, init: &mut Init| {
            let shape = MobileOneShape {
                channels: [from, first],
                groups,
                side: KERNEL,
                stride: 2,
                scale: shape.stem_scale,
                activated: true,
            };
            MobileOneBlock::init(shape, init)
        };
        let features = FEATURES_RATIO * last;
        let end = MobileOneShape {
            channels: [last, features],
            groups: last,
            side: KERNEL,
            stride: 1,
            scale: true,
            activated: true,
        };
        Self {
            trunk: FastVitTrunk {
                stem: vec![
                    strided(3, 1, init),
                    strided(first, first, init),
                    MobileOneBlock::pointwise(first, init),
                ],
                stages: (0..shape.stages.len())
                    .map(|number| FastVitStage::init(shape, number, init))
                    .collect(),
                final_conv: MobileOneBlock::init(end, init).with_squeeze_excite(
                    features,
                    sixteenth(features),
                    init,
                ),
                head: FastVitHead {
                    fc: init.linear_of_timm(features, embed_dim, STD),
                },
            },
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<2> {
        self.project(self.forward_features(images, statistics))
    }

    /// Features of each image before the projection.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, twice the channels of the last stage]`.
    pub fn forward_features(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<2> {
        let trunk = &self.trunk;
        // In what the weights are, as what is computed follows.
        let images = images.cast(trunk.head.fc.weight.val().dtype());
        let stem = trunk.stem.iter();
        let x = stem.fold(images, |x, block| block.forward(x, statistics)); // [batch, channels, height / 4, width / 4]
        let stages = trunk.stages.iter();
        let x = stages.fold(x, |x, stage| stage.forward(x, statistics));
        means(trunk.final_conv.forward(x, statistics))
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, twice the channels of the last stage]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        self.trunk.head.fc.forward(features)
    }

    /// Mixes what a batch showed into the running statistics, once.
    pub fn update_running_statistics(&self, found: &BatchStatistics) {
        let trunk = &self.trunk;
        let stem = trunk.stem.iter().flat_map(MobileOneBlock::batch_norms);
        let stages = trunk.stages.iter().flat_map(FastVitStage::batch_norms);
        found.update(stem.chain(stages).chain(trunk.final_conv.batch_norms()));
    }

    /// Locks all but the last [groups](LockedGroups) of layers. What leads to a stage is its first block's, and the
    /// head is all that follows the stages.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let FastVitTrunk {
            stem,
            stages,
            final_conv,
            head,
        } = self.trunk;
        let blocks: usize = stages.iter().map(|stage| stage.blocks.len()).sum();
        let groups = LockedGroups::of(blocks, unlocked_groups);
        let mut place = 0;
        let lock = |stage: FastVitStage| {
            let first = place;
            place += stage.blocks.len();
            FastVitStage {
                downsample: groups.block(first, stage.downsample),
                pos_emb: groups.block(first, stage.pos_emb),
                blocks: groups.blocks_from(first, stage.blocks),
            }
        };
        Self {
            trunk: FastVitTrunk {
                stem: groups.stem(stem),
                stages: stages.into_iter().map(lock).collect(),
                final_conv: groups.head(final_conv),
                head: groups.head(head),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{
        super::{FastVitBlock, FastVitStageShape},
        *,
    };

    const fn stage(depth: usize, attention: bool) -> FastVitStageShape {
        FastVitStageShape {
            depth,
            channels: 4,
            attention,
            squeeze_excite: false,
        }
    }

    const STAGES: [FastVitStageShape; 3] = [stage(1, false), stage(2, false), stage(1, true)];

    /// timm's groups, by `group_parameters(model, model.group_matcher())`.
    #[test]
    fn groups_are_locked_from_the_input_on() {
        let shape = FastVitShape {
            stages: &STAGES,
            mlp_ratio: 1,
            head_width: 4,
            stem_scale: true,
            layer_norm: false,
        };
        let device = Device::flex().autodiff();
        let model = FastVit::init(&shape, 6, &mut Init::new(0, &device));
        let locked = |unlocked_groups: usize| {
            let trunk = model.clone().lock(unlocked_groups).trunk;
            let [_, second, last] = trunk.stages.as_slice() else {
                panic!("three stages");
            };
            let gain = |block: &FastVitBlock| match block {
                FastVitBlock::RepMixer(block) => block.mlp.conv.bn.gamma.is_require_grad(),
                FastVitBlock::Attention(block) => block.mlp.conv.bn.gamma.is_require_grad(),
            };
            let leads = |stage: &FastVitStage| {
                let downsample = stage.downsample.as_ref().unwrap();
                let conv = &downsample.large.large_conv;
                conv.conv.weight.is_require_grad()
            };
            let positions = &last.pos_emb.as_ref().unwrap().pos_enc;
            let trained = [
                trunk.stem[2]
                    .identity
                    .as_ref()
                    .unwrap()
                    .gamma
                    .is_require_grad(),
                leads(second),
                gain(&second.blocks[0]),
                gain(&second.blocks[1]),
                leads(last),
                positions.weight.is_require_grad(),
                gain(&last.blocks[0]),
                trunk.final_conv.se.unwrap().fc1.weight.is_require_grad(),
                trunk.head.fc.weight.is_require_grad(),
            ];
            trained.iter().filter(|trained| !**trained).count()
        };
        // The stem, four blocks of which three are looked at, two with what leads to them, and the end.
        assert_eq!([0, 1, 2, 3, 4, 5, 6].map(locked), [9, 7, 4, 3, 1, 1, 0]);
    }
}
