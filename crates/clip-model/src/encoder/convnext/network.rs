use burn::{
    module::Module,
    tensor::{DType, Tensor},
};

use super::{
    super::{LockedGroups, TimmHead, sequences, training_draws::along},
    ConvNeXtBlock, ConvNeXtDownsample, ConvNeXtNorm, ConvNeXtShape, ConvNeXtStage, ConvNeXtStem,
    layers::patches,
    shape::{STEM, STRIDE},
};
use crate::Init;

/// A convolutional network with a transformer's proportions: a depthwise convolution where a block has attention.
///
/// # References
/// Liu et al. 2022, [A ConvNet for the 2020s](https://arxiv.org/abs/2201.03545); parameters as timm and OpenCLIP name
/// them.
#[derive(Module, Debug)]
pub struct ConvNeXt {
    /// timm's model, up to the norm after the pooling.
    pub trunk: ConvNeXtTrunk,
    /// Into the joint space.
    pub head: TimmHead,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct ConvNeXtTrunk {
    /// To a quarter of the image's side.
    pub stem: ConvNeXtStem,
    /// Each but the first halves the side.
    pub stages: Vec<ConvNeXtStage>,
    /// After the average over places.
    pub head: ConvNeXtNorm,
    #[module(skip)]
    epsilon: f64,
}

impl ConvNeXt {
    pub(crate) fn init(shape: &ConvNeXtShape, embed_dim: usize, init: &mut Init) -> Self {
        let ConvNeXtShape {
            depths,
            channels,
            epsilon,
            ..
        } = *shape;
        let stem = ConvNeXtStem {
            conv: patches(3, channels[0], STEM, init),
            norm: init.layer_norm(channels[0], epsilon),
        };
        let mut before = None;
        let stages = depths.into_iter().zip(channels).map(|(depth, channels)| {
            let downsample = before.replace(channels).map(|before| ConvNeXtDownsample {
                norm: init.layer_norm(before, epsilon),
                conv: patches(before, channels, STRIDE, init),
            });
            let blocks = (0..depth).map(|_| ConvNeXtBlock::init(channels, epsilon, init));
            ConvNeXtStage {
                downsample,
                blocks: blocks.collect(),
            }
        });
        Self {
            trunk: ConvNeXtTrunk {
                stem,
                stages: stages.collect(),
                head: ConvNeXtNorm {
                    norm: init.layer_norm(shape.features(), epsilon),
                },
                epsilon,
            },
            head: TimmHead::init(shape.projection, shape.features(), embed_dim, init),
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward_along(images, None)
    }

    /// Features of each image in the joint space, not normalised, with stochastic depth (section 2.1).
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), and
    /// - `paths`: `[batch, blocks]`, as in [`TrainingDraws`](super::super::TrainingDraws)
    pub fn forward_along(&self, images: Tensor<4>, paths: Option<&Tensor<2>>) -> Tensor<2> {
        self.project(self.pooled(images, paths))
    }

    /// Features of each image before the projection.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, channels of the last stage]`.
    pub fn forward_features(&self, images: Tensor<4>) -> Tensor<2> {
        self.pooled(images, None)
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, channels of the last stage]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.forward(features)
    }

    fn pooled(&self, images: Tensor<4>, paths: Option<&Tensor<2>>) -> Tensor<2> {
        let ConvNeXtTrunk {
            stem,
            stages,
            head,
            epsilon,
        } = &self.trunk;
        let [batch, _, height, width] = images.dims();
        let x = stem.conv.forward(images);
        let x = sequences::layer_norm(&stem.norm, *epsilon, x); // [batch, places, channels]
        let [.., channels] = x.dims();
        let x = x.reshape([batch, height / STEM, width / STEM, channels]);
        let mut path = 0..;
        let x = stages.iter().fold(x, |x, stage| {
            let x = match &stage.downsample {
                Some(downsample) => downsample.forward(x, *epsilon),
                None => x,
            };
            let blocks = stage.blocks.iter().zip(path.by_ref());
            blocks.fold(x, |x, (block, path)| {
                let added = block.added(x.clone(), *epsilon);
                x + along(path, paths, added)
            })
        });
        let [_, rows, columns, channels] = x.dims();
        let dtype = x.dtype();
        let places = x.reshape([batch, rows * columns, channels]);
        let mean = places.cast(DType::F32).mean_dim(1); // in f32, whatever the model computes in
        let features = sequences::layer_norm(&head.norm, *epsilon, mean);
        features.cast(dtype).reshape([batch, channels])
    }

    /// Locks all but the last [groups](LockedGroups) of the trunk's layers. What leads to a stage is its first block's,
    /// and the head is the norm after the pooling. As in OpenCLIP, the projection is trained in any case.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let ConvNeXtTrunk {
            stem,
            stages,
            head,
            epsilon,
        } = self.trunk;
        let blocks: usize = stages.iter().map(|stage| stage.blocks.len()).sum();
        let groups = LockedGroups::of(blocks, unlocked_groups);
        let mut place = 0;
        let lock = |stage: ConvNeXtStage| {
            let first = place;
            place += stage.blocks.len();
            ConvNeXtStage {
                downsample: groups.block(first, stage.downsample),
                blocks: groups.blocks_from(first, stage.blocks),
            }
        };
        Self {
            trunk: ConvNeXtTrunk {
                stem: groups.stem(stem),
                stages: stages.into_iter().map(lock).collect(),
                head: groups.head(head),
                epsilon,
            },
            head: self.head,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{super::super::TimmProjection, *};

    /// timm's groups, by `group_parameters(model, model.group_matcher())`.
    #[test]
    fn groups_are_locked_from_the_input_on() {
        let shape = ConvNeXtShape {
            depths: [1, 2, 1, 1],
            channels: [2, 3, 4, 5],
            epsilon: 1e-6,
            projection: TimmProjection::Linear,
        };
        let device = Device::flex().autodiff();
        let model = ConvNeXt::init(&shape, 6, &mut Init::new(0, &device));
        let locked = |unlocked_groups: usize| {
            let ConvNeXt { trunk, head } = model.clone().lock(unlocked_groups);
            let [.., third, last] = trunk.stages.as_slice() else {
                panic!("four stages");
            };
            let trained = [
                trunk.stem.conv.weight.is_require_grad(),
                third.blocks[0].scale.is_require_grad(),
                last.downsample
                    .as_ref()
                    .unwrap()
                    .conv
                    .weight
                    .is_require_grad(),
                last.blocks[0].scale.is_require_grad(),
                trunk.head.norm.gamma.is_require_grad(),
                head.proj.unwrap().weight.is_require_grad(),
            ];
            trained.iter().filter(|trained| !**trained).count()
        };
        // The stem, five blocks of which two are looked at, one with its downsampling, and the norm.
        assert_eq!([0, 1, 2, 3, 6, 7, 8].map(locked), [5, 4, 2, 1, 1, 0, 0]);
    }
}
