use burn::{
    module::{Module, Param},
    nn::LayerNorm,
    tensor::{DType, Tensor},
};

use super::{
    super::{LockedGroups, TimmHead, sequences::layer_norm},
    HybridEmbed, MbConvStages, ViTaminBlock,
    shape::{VITAMIN_EPSILON, ViTaminShape},
};
use crate::Init;

/// Deviation of the transformer's initial matrices and positions: timm's `init_weights_vit_timm`. Its bounds, 100
/// deviations away, cut nothing off.
pub(super) const STD: f64 = 0.02;

/// Convolutions to a sixteenth of the image's side, then a transformer without a class token, whose tokens' mean is the
/// image.
///
/// # References
/// Chen et al. 2024, [ViTamin](https://arxiv.org/abs/2404.02132); parameters as timm and OpenCLIP name them.
#[derive(Module, Debug)]
pub struct ViTamin {
    /// timm's model, up to the norm after the pooling.
    pub trunk: ViTaminTrunk,
    /// Into the joint space.
    pub head: TimmHead,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct ViTaminTrunk {
    /// `[1, tokens, width]`, row by row; `ViTamin-XL` has none.
    pub pos_embed: Option<Param<Tensor<3>>>,
    /// From pixels to tokens.
    pub patch_embed: HybridEmbed,
    /// First to last.
    pub blocks: Vec<ViTaminBlock>,
    /// After the mean of the tokens.
    pub fc_norm: LayerNorm,
}

impl ViTamin {
    pub(crate) fn init(shape: &ViTaminShape, embed_dim: usize, init: &mut Init) -> Self {
        let width = shape.width;
        let positions = shape.positions();
        Self {
            trunk: ViTaminTrunk {
                pos_embed: positions.map(|tokens| init.normal([1, tokens, width], STD)),
                patch_embed: HybridEmbed {
                    backbone: MbConvStages::init(shape, init),
                },
                blocks: (0..shape.layers)
                    .map(|_| ViTaminBlock::init(shape, init))
                    .collect(),
                fc_norm: init.layer_norm(width, VITAMIN_EPSILON),
            },
            head: TimmHead::init(shape.projection, width, embed_dim, init),
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

    /// Features of each image in the joint space, not normalised, with stochastic depth in the transformer.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), and
    /// - `paths`: `[batch, 2 * blocks]`, as in [`TrainingDraws`](super::super::TrainingDraws): each block's attention, then its
    ///   MLP
    pub fn forward_along(&self, images: Tensor<4>, paths: Option<&Tensor<2>>) -> Tensor<2> {
        self.project(self.pooled(images, paths))
    }

    /// Features of each image before the projection.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, width]`.
    pub fn forward_features(&self, images: Tensor<4>) -> Tensor<2> {
        self.pooled(images, None)
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, width]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.forward(features)
    }

    fn pooled(&self, images: Tensor<4>, paths: Option<&Tensor<2>>) -> Tensor<2> {
        let trunk = &self.trunk;
        let tokens = trunk.patch_embed.backbone.forward(images);
        let x = match &trunk.pos_embed {
            Some(positions) => tokens + positions.val(),
            None => tokens,
        };
        let [batch, _, width] = x.dims();
        let dtype = x.dtype();
        let blocks = trunk.blocks.iter().enumerate();
        let x = blocks.fold(x, |x, (place, block)| block.forward(x, place, paths));
        let mean = x.cast(DType::F32).mean_dim(1); // in f32, whatever the model computes in
        let features = layer_norm(&trunk.fc_norm, VITAMIN_EPSILON, mean);
        features.cast(dtype).reshape([batch, width])
    }

    /// Locks all but the last [groups](LockedGroups) of the trunk's layers. The stem is the convolutions with the
    /// positions, and the head is the norm after the pooling. As in OpenCLIP, the projection is trained in any case.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let trunk = self.trunk;
        let groups = LockedGroups::of(trunk.blocks.len(), unlocked_groups);
        Self {
            trunk: ViTaminTrunk {
                pos_embed: groups.stem(trunk.pos_embed),
                patch_embed: groups.stem(trunk.patch_embed),
                blocks: groups.blocks(trunk.blocks),
                fc_norm: groups.head(trunk.fc_norm),
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
        let shape = ViTaminShape {
            image_size: Some(32),
            channels: [2, 4],
            width: 8,
            layers: 2,
            heads: 2,
            projection: TimmProjection::Linear,
        };
        let device = Device::flex().autodiff();
        let model = ViTamin::init(&shape, 6, &mut Init::new(0, &device));
        let locked = |unlocked_groups: usize| {
            let ViTamin { trunk, head } = model.clone().lock(unlocked_groups);
            let MbConvStages { stem, stages, pool } = &trunk.patch_embed.backbone;
            let path = stages[1][0].shortcut.as_ref().unwrap();
            let trained = [
                trunk.pos_embed.unwrap().is_require_grad(),
                stem.conv1.weight.is_require_grad(),
                stages[0][1].pre_norm.gamma.is_require_grad(),
                path.expand.as_ref().unwrap().bias.is_require_grad(),
                pool.proj.weight.is_require_grad(),
                trunk.blocks[0].mlp.w0.weight.is_require_grad(),
                trunk.blocks[1].norm1.gamma.is_require_grad(),
                trunk.fc_norm.gamma.is_require_grad(),
                head.proj.unwrap().weight.is_require_grad(),
            ];
            trained.iter().filter(|trained| !**trained).count()
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(locked), [8, 7, 6, 5, 0, 0]);
    }
}
