use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::Tensor,
};

use super::{
    super::{
        Activation, LockedGroups, PatchEmbedding,
        block::layer_norm,
        siglip::{AttentionPoolLatent, PatchEmbed},
    },
    EvaBlock, EvaShape,
    rotary::RotaryGrid,
    shape::{POOL_HEADS, POOL_MLP_RATIO},
};
use crate::Init;

/// Deviation of initial matrices and positions: timm's `Eva.init_weights`.
pub(super) const STD: f64 = 0.02;
/// What the projection's is multiplied by: timm's `head_init_scale`.
const HEAD_SCALE: f64 = 0.001;

/// A vision transformer of one of EVA's [families](super::EvaFamily).
///
/// # References
/// Those of the families; parameters as timm names them.
#[derive(Module, Debug)]
pub struct Eva {
    /// OpenCLIP wraps timm's models in this name.
    pub trunk: EvaTrunk,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct EvaTrunk {
    /// `[1, 1, width]`: what the class token begins as.
    pub cls_token: Option<Param<Tensor<3>>>,
    /// `[1, tokens, width]`: the class token's first, then patches row by row.
    pub pos_embed: Param<Tensor<3>>,
    /// The patch embedding.
    pub patch_embed: PatchEmbed,
    /// Before the blocks; the Perception Encoder's.
    pub norm_pre: Option<LayerNorm>,
    /// First to last.
    pub blocks: Vec<EvaBlock>,
    /// After the blocks.
    pub norm: LayerNorm,
    /// From all tokens to features, which else are the class token's; the Perception Encoder's.
    pub attn_pool: Option<AttentionPoolLatent>,
    /// `[width, embed_dim]`.
    pub head: Linear,
    #[module(skip)]
    rotary: Option<RotaryGrid>,
}

impl Eva {
    pub(crate) fn init(shape: &EvaShape, embed_dim: usize, init: &mut Init) -> Self {
        let EvaShape {
            patch_size, width, ..
        } = *shape;
        let epsilon = shape.epsilon();
        let bound = 1.0 / ((3 * patch_size * patch_size) as f64).sqrt();
        let norms_before = shape.norms_before_blocks();
        Self {
            trunk: EvaTrunk {
                cls_token: shape.class_token.then(|| init.normal([1, 1, width], STD)),
                pos_embed: init.normal([1, shape.tokens(), width], STD),
                patch_embed: PatchEmbed {
                    proj: PatchEmbedding {
                        weight: init.uniform([width, 3, patch_size, patch_size], bound),
                        bias: (!norms_before).then(|| init.uniform([width], bound)),
                    },
                },
                norm_pre: norms_before.then(|| init.layer_norm(width, epsilon)),
                blocks: (0..shape.layers)
                    .map(|place| EvaBlock::init(shape, place, init))
                    .collect(),
                norm: init.layer_norm(width, epsilon),
                attn_pool: shape.pools_by_attention().then(|| {
                    let (hidden, activation) = (POOL_MLP_RATIO * width, Activation::Gelu);
                    AttentionPoolLatent::init(width, POOL_HEADS, hidden, activation, epsilon, init)
                }),
                head: init.linear_of_timm(width, embed_dim, HEAD_SCALE * STD),
                rotary: shape.rotary(),
            },
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.project(self.forward_features(images))
    }

    /// Features of each image before the projection.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, width]`.
    pub fn forward_features(&self, images: Tensor<4>) -> Tensor<2> {
        let trunk = &self.trunk;
        let x = self.stem(images);
        let [batch, _, width] = x.dims();
        let rotation = trunk.rotary.map(|grid| grid.rotation(&x.device()));
        let last = trunk.blocks.len() - 1;
        let blocks = trunk.blocks.iter().enumerate();
        let x = blocks.fold(x, |x, (place, block)| {
            let only_first = trunk.attn_pool.is_none() && place == last;
            block.forward(x, rotation.as_ref(), only_first)
        });
        let x = layer_norm(&trunk.norm, x);
        match &trunk.attn_pool {
            Some(pool) => pool.forward(x),
            None => x.reshape([batch, width]),
        }
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, width]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        self.trunk.head.forward(features)
    }

    /// What the first block gets, `[batch, tokens, width]`.
    fn stem(&self, images: Tensor<4>) -> Tensor<3> {
        let trunk = &self.trunk;
        let patches = trunk.patch_embed.proj.forward(images);
        let [batch, _, width] = patches.dims();
        let tokens = match &trunk.cls_token {
            Some(class) => Tensor::cat(vec![class.val().expand([batch, 1, width]), patches], 1),
            None => patches,
        };
        let tokens = tokens + trunk.pos_embed.val();
        match &trunk.norm_pre {
            Some(norm) => layer_norm(norm, tokens),
            None => tokens,
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The last block's has `norm`, and the head is the
    /// pooling with the projection.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        let trunk = self.trunk;
        let groups = LockedGroups::of(trunk.blocks.len(), unlocked_groups);
        Self {
            trunk: EvaTrunk {
                cls_token: groups.stem(trunk.cls_token),
                pos_embed: groups.stem(trunk.pos_embed),
                patch_embed: groups.stem(trunk.patch_embed),
                norm_pre: groups.stem(trunk.norm_pre),
                blocks: groups.blocks(trunk.blocks),
                norm: groups.last_block(trunk.norm),
                attn_pool: groups.head(trunk.attn_pool),
                head: groups.head(trunk.head),
                rotary: trunk.rotary,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{super::EvaFamily, *};

    /// timm's groups, by `group_parameters(model, model.group_matcher())`.
    #[test]
    fn groups_are_locked_from_the_input_on() {
        let shape = EvaShape {
            family: EvaFamily::PerceptionEncoder,
            image_size: 8,
            patch_size: 4,
            width: 8,
            layers: 2,
            heads: 2,
            mlp_width: 8,
            class_token: true,
        };
        let device = Device::flex().autodiff();
        let model = Eva::init(&shape, 6, &mut Init::new(0, &device));
        let locked = |unlocked_groups: usize| {
            let trunk = model.clone().lock(unlocked_groups).trunk;
            let trained = [
                trunk.cls_token.unwrap().is_require_grad(),
                trunk.pos_embed.is_require_grad(),
                trunk.patch_embed.proj.weight.is_require_grad(),
                trunk.norm_pre.unwrap().gamma.is_require_grad(),
                trunk.blocks[0].norm1.gamma.is_require_grad(),
                trunk.blocks[1].norm1.gamma.is_require_grad(),
                trunk.norm.gamma.is_require_grad(),
                trunk.attn_pool.unwrap().latent.is_require_grad(),
                trunk.head.weight.is_require_grad(),
            ];
            trained.iter().filter(|trained| !**trained).count()
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(locked), [9, 7, 5, 4, 0, 0]);
    }
}
