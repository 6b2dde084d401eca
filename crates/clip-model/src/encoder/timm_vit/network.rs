use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::{
    super::{
        Activation, BatchStatistics, LockedGroups, Mlp, MultiHeadAttention, ResidualAttentionBlock,
        Statistics, Transformer, block::layer_norm,
    },
    TimmPatchEmbed, TimmVitShape, TimmVitStem,
    shape::MLP_RATIO,
};
use crate::Init;

/// Deviation of initial matrices and positions: timm's `init_weights_vit_timm`. Its bounds, 100 deviations away, cut
/// nothing off.
const STD: f64 = 0.02;
/// That of the class token.
const CLASS_STD: f64 = 1e-6;

/// A vision transformer whose class token's features are the image's.
///
/// # References
/// Dosovitskiy et al. 2020, [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929); parameters as timm names
/// them.
#[derive(Module, Debug)]
pub struct TimmVisionTransformer {
    /// OpenCLIP wraps timm's models in this name.
    pub trunk: TimmVitTrunk,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct TimmVitTrunk {
    /// `[1, 1, width]`: what the class token begins as.
    pub cls_token: Param<Tensor<3>>,
    /// `[1, positions, width]`: the class token's first, where it has one, then patches row by row.
    pub pos_embed: Param<Tensor<3>>,
    /// From pixels to tokens.
    pub patch_embed: TimmPatchEmbed,
    /// Before the blocks, where a patch is one product.
    pub norm_pre: Option<LayerNorm>,
    /// The blocks.
    pub transformer: Transformer,
    /// After the blocks.
    pub norm: LayerNorm,
    /// `[width, embed_dim]`.
    pub head: Linear,
}

impl TimmVisionTransformer {
    pub(crate) fn init(shape: &TimmVitShape, embed_dim: usize, init: &mut Init) -> Self {
        let TimmVitShape { width, heads, .. } = *shape;
        let epsilon = shape.epsilon();
        let hidden = MLP_RATIO * width;
        let block = |init: &mut Init| ResidualAttentionBlock {
            ln_1: init.layer_norm(width, epsilon),
            attn: MultiHeadAttention::init_normal(width, heads, STD, STD, init),
            ls_1: None,
            ln_2: init.layer_norm(width, epsilon),
            mlp: Mlp {
                c_fc: init.linear_of_timm(width, hidden, STD),
                c_proj: init.linear_of_timm(hidden, width, STD),
                activation: Activation::Gelu,
            },
            ls_2: None,
            epsilon,
        };
        let norms_before = shape.stem != TimmVitStem::Convolutions;
        Self {
            trunk: TimmVitTrunk {
                cls_token: init.normal([1, 1, width], CLASS_STD),
                pos_embed: init.normal([1, shape.positions(), width], STD),
                patch_embed: TimmPatchEmbed::init(shape, init),
                norm_pre: norms_before.then(|| init.layer_norm(width, epsilon)),
                transformer: Transformer {
                    resblocks: (0..shape.layers).map(|_| block(init)).collect(),
                },
                norm: init.layer_norm(width, epsilon),
                head: init.linear_of_timm(width, embed_dim, STD),
            },
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<2> {
        self.forward_along(images, statistics, None)
    }

    /// Features of each image in the joint space, not normalised, with stochastic depth.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), and
    /// - `paths`: `[batch, 2 * blocks]`, as in [`TrainingDraws`](super::super::TrainingDraws): each block's attention, then its
    ///   MLP
    pub fn forward_along(
        &self,
        images: Tensor<4>,
        statistics: &mut Statistics,
        paths: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        self.project(self.pooled(images, statistics, paths))
    }

    /// Features of each image before the projection.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, width]`.
    pub fn forward_features(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<2> {
        self.pooled(images, statistics, None)
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, width]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        self.trunk.head.forward(features)
    }

    fn pooled(
        &self,
        images: Tensor<4>,
        statistics: &mut Statistics,
        paths: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        let trunk = &self.trunk;
        let x = self.stem(images, statistics);
        let [batch, _, width] = x.dims();
        let first = Tensor::zeros([batch, 1], &x.device());
        let x = match paths {
            None => trunk.transformer.forward(x, None, Some(&first)),
            Some(paths) => trunk.transformer.forward_along(x, &first, paths),
        };
        layer_norm(&trunk.norm, x).reshape([batch, width])
    }

    /// What the first block gets, `[batch, tokens, width]`.
    fn stem(&self, images: Tensor<4>, statistics: &mut Statistics) -> Tensor<3> {
        let trunk = &self.trunk;
        let patches = trunk.patch_embed.forward(images, statistics);
        let [batch, count, width] = patches.dims();
        let positions = trunk.pos_embed.val();
        let [_, positioned, _] = positions.dims();
        let class = trunk.cls_token.val().expand([batch, 1, width]);
        let with_class = |patches: Tensor<3>| Tensor::cat(vec![class, patches], 1);
        let tokens = if positioned == count {
            with_class(patches + positions)
        } else {
            with_class(patches) + positions
        };
        match &trunk.norm_pre {
            Some(norm) => layer_norm(norm, tokens),
            None => tokens,
        }
    }

    /// Whether its patches come from convolutions with batch norms.
    pub(in super::super) fn has_batch_norms(&self) -> bool {
        self.trunk.patch_embed.batch_norms().next().is_some()
    }

    /// Mixes what a batch showed into the running statistics, once.
    pub fn update_running_statistics(&self, found: &BatchStatistics) {
        found.update(self.trunk.patch_embed.batch_norms());
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The last block's has `norm`, and the head is the
    /// projection.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let trunk = self.trunk;
        let groups = LockedGroups::of(trunk.transformer.resblocks.len(), unlocked_groups);
        Self {
            trunk: TimmVitTrunk {
                cls_token: groups.stem(trunk.cls_token),
                pos_embed: groups.stem(trunk.pos_embed),
                patch_embed: groups.stem(trunk.patch_embed),
                norm_pre: groups.stem(trunk.norm_pre),
                transformer: groups.transformer(trunk.transformer),
                norm: groups.last_block(trunk.norm),
                head: groups.head(trunk.head),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{super::TimmPatchEmbed, *};

    /// timm's groups, by `group_parameters(model, model.group_matcher())`.
    #[test]
    fn groups_are_locked_from_the_input_on() {
        let shape = TimmVitShape {
            stem: TimmVitStem::Patches(4),
            image_size: 8,
            width: 8,
            layers: 2,
            heads: 2,
        };
        let device = Device::flex().autodiff();
        let model = TimmVisionTransformer::init(&shape, 6, &mut Init::new(0, &device));
        let locked = |unlocked_groups: usize| {
            let trunk = model.clone().lock(unlocked_groups).trunk;
            let TimmPatchEmbed::Patches(patches) = &trunk.patch_embed else {
                panic!("patches");
            };
            let blocks = &trunk.transformer.resblocks;
            let trained = [
                trunk.cls_token.is_require_grad(),
                trunk.pos_embed.is_require_grad(),
                patches.proj.weight.is_require_grad(),
                trunk.norm_pre.unwrap().gamma.is_require_grad(),
                blocks[0].ln_1.gamma.is_require_grad(),
                blocks[1].ln_1.gamma.is_require_grad(),
                trunk.norm.gamma.is_require_grad(),
                trunk.head.weight.is_require_grad(),
            ];
            trained.iter().filter(|trained| !**trained).count()
        };
        assert_eq!([0, 1, 2, 3, 4].map(locked), [8, 7, 5, 4, 0]);
    }
}
