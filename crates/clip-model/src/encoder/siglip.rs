//! SigLIP's image encoder, and the pooling that it shares with the Perception Encoder.

use burn::{
    module::{Module, Param},
    nn::{LayerNorm, Linear},
    tensor::{Int, Tensor},
};

use super::{
    Activation, Chain, LockedGroups, Mlp, MultiHeadAttention, ResidualAttentionBlock, Transformer,
    attention::mix, block::layer_norm, vision::PatchEmbedding,
};
use crate::Init;

/// Added to variances in SigLIP's image encoder. 1e-6: timm's layer norm.
pub const SIGLIP_EPSILON: f64 = 1e-6;
/// Deviation of initial matrices and positions: timm's `init_weights_vit_timm`. Its bounds, 100 deviations away, cut
/// nothing off.
const STD: f64 = 0.02;

/// The numbers of a vision transformer of timm's, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiglipShape {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Features of a token, and of the joint space.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden features of an MLP.
    pub mlp_width: usize,
    /// The blocks' non-linearity.
    pub activation: Activation,
}

impl SiglipShape {
    /// The shape behind a name such as `vit_base_patch16_siglip_224` (timm, `models/vision_transformer.py`).
    pub fn by_timm_name(name: &str) -> Option<Self> {
        let (body, image_size) = name.rsplit_once('_')?;
        let image_size: usize = image_size.parse().ok()?;
        let (body, patch_size) = body.strip_suffix("_siglip")?.rsplit_once("_patch")?;
        let patch_size: usize = patch_size.parse().ok()?;
        let exact = Activation::Gelu;
        let (width, layers, heads, mlp_width, activation) = match (body, patch_size, image_size) {
            ("vit_base", 16, 224 | 256 | 384 | 512) => (768, 12, 12, 3072, exact),
            ("vit_base", 32, 256) => (768, 12, 12, 3072, Activation::GeluTanh),
            ("vit_large", 16, 256 | 384) => (1024, 24, 16, 4096, exact),
            ("vit_large", 16, 512) => (1024, 24, 16, 4096, Activation::GeluTanh),
            // 1152 * 3.7362, rounded down.
            ("vit_so400m", 14, 224 | 378 | 384) => (1152, 27, 16, 4304, exact),
            ("vit_so400m", 16, 256 | 384 | 512) => (1152, 27, 16, 4304, Activation::GeluTanh),
            ("vit_giantopt", 16, 256 | 384) => (1536, 40, 16, 6144, Activation::GeluTanh),
            _ => return None,
        };
        Some(Self {
            image_size,
            patch_size,
            width,
            layers,
            heads,
            mlp_width,
            activation,
        })
    }

    /// Patches of an image.
    fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

/// SigLIP's image encoder: a vision transformer without class token, pooled by attention of a learned query.
///
/// # References
/// Zhai et al. 2023, [Sigmoid Loss for Language Image Pre-Training](https://arxiv.org/abs/2303.15343); parameters as
/// timm names them.
#[derive(Module, Debug)]
pub struct SiglipVisionTransformer {
    /// OpenCLIP wraps timm's models in this name.
    pub trunk: Trunk,
}

/// timm's model.
#[derive(Module, Debug)]
pub struct Trunk {
    /// The patch embedding.
    pub patch_embed: PatchEmbed,
    /// `[1, patches, width]`, row by row.
    pub pos_embed: Param<Tensor<3>>,
    /// The blocks.
    pub transformer: Transformer,
    /// After the blocks.
    pub norm: LayerNorm,
    /// From tokens to features.
    pub attn_pool: AttentionPoolLatent,
}

/// timm's patch embedding.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[width, 3, patch_size, patch_size]`, with bias.
    pub proj: PatchEmbedding,
}

/// Multi-head attention pooling: one learned query, then an MLP beside a residual path.
///
/// # References
/// Lee et al. 2019 (Set Transformer); Zhai et al. 2022.
#[derive(Module, Debug)]
pub struct AttentionPoolLatent {
    /// `[1, 1, width]`: the query before its projection.
    pub latent: Param<Tensor<3>>,
    /// `[width, width]`.
    pub q: Linear,
    /// `[width, 2 * width]`: keys and values side by side.
    pub kv: Linear,
    /// `[width, width]`.
    pub proj: Linear,
    /// Before the MLP.
    pub norm: LayerNorm,
    /// Mixes features.
    pub mlp: Mlp,
    heads: usize,
}

fn mlp(width: usize, hidden: usize, activation: Activation, init: &mut Init) -> Mlp {
    Mlp {
        c_fc: init.linear_of_timm(width, hidden, STD),
        c_proj: init.linear_of_timm(hidden, width, STD),
        activation,
    }
}

impl SiglipVisionTransformer {
    pub(crate) fn init(shape: &SiglipShape, init: &mut Init) -> Self {
        let SiglipShape {
            patch_size,
            width,
            heads,
            mlp_width,
            activation,
            ..
        } = *shape;
        let bound = 1.0 / ((3 * patch_size * patch_size) as f64).sqrt();
        let resblocks = (0..shape.layers).map(|_| ResidualAttentionBlock {
            ln_1: init.layer_norm(width, SIGLIP_EPSILON),
            attn: MultiHeadAttention::init_normal(width, heads, STD, STD, init),
            ls_1: None,
            ln_2: init.layer_norm(width, SIGLIP_EPSILON),
            mlp: mlp(width, mlp_width, activation, init),
            ls_2: None,
            epsilon: SIGLIP_EPSILON,
        });
        let transformer = Transformer {
            resblocks: resblocks.collect(),
        };
        Self {
            trunk: Trunk {
                patch_embed: PatchEmbed {
                    proj: PatchEmbedding {
                        weight: init.uniform([width, 3, patch_size, patch_size], bound),
                        bias: Some(init.uniform([width], bound)),
                    },
                },
                pos_embed: init.normal([1, shape.patches(), width], STD),
                transformer,
                norm: init.layer_norm(width, SIGLIP_EPSILON),
                attn_pool: AttentionPoolLatent::init(
                    width,
                    heads,
                    mlp_width,
                    activation,
                    SIGLIP_EPSILON,
                    init,
                ),
            },
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, width]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self
            .trunk
            .transformer
            .forward(self.stem(&images), None, None);
        self.head(x, &images)
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The last block's has `norm`, and the head is the
    /// pooling.
    pub(super) fn lock(self, unlocked_groups: usize) -> Self {
        let trunk = self.trunk;
        let groups = LockedGroups::of(trunk.transformer.resblocks.len(), unlocked_groups);
        Self {
            trunk: Trunk {
                patch_embed: groups.stem(trunk.patch_embed),
                pos_embed: groups.stem(trunk.pos_embed),
                transformer: groups.transformer(trunk.transformer),
                norm: groups.last_block(trunk.norm),
                attn_pool: groups.head(trunk.attn_pool),
            },
        }
    }

    /// Number of parameters.
    pub(crate) fn num_params(shape: &SiglipShape) -> usize {
        let width = shape.width;
        let linear = |from: usize, to: usize| (from + 1) * to;
        let norm = 2 * width;
        let mlp = linear(width, shape.mlp_width) + linear(shape.mlp_width, width);
        let attention = linear(width, 3 * width) + linear(width, width);
        let patches = linear(3 * shape.patch_size.pow(2), width) + shape.patches() * width;
        let pool = AttentionPoolLatent::num_params(width, shape.mlp_width);
        patches + shape.layers * (attention + mlp + 2 * norm) + norm + pool
    }
}

impl Chain for SiglipVisionTransformer {
    /// Images.
    type Input = Tensor<4>;

    fn stem(&self, images: &Self::Input) -> Tensor<3> {
        let positions = self.trunk.pos_embed.val();
        self.trunk.patch_embed.proj.forward(images.clone()) + positions
    }

    fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.trunk.transformer.resblocks
    }

    fn mask(&self, _x: &Tensor<3>) -> Option<Tensor<4>> {
        None
    }

    fn pool(&self, _x: &Tensor<3>, _input: &Self::Input) -> Option<Tensor<2, Int>> {
        None
    }

    fn head(&self, x: Tensor<3>, _input: &Self::Input) -> Tensor<2> {
        let x = layer_norm(&self.trunk.norm, x);
        self.trunk.attn_pool.forward(x)
    }
}

impl AttentionPoolLatent {
    /// As timm's transformers begin; `mlp_width` hidden features, and a norm with `epsilon`.
    pub(super) fn init(
        width: usize,
        heads: usize,
        mlp_width: usize,
        activation: Activation,
        epsilon: f64,
        init: &mut Init,
    ) -> Self {
        Self {
            latent: init.truncated_normal([1, 1, width], (width as f64).powf(-0.5)),
            q: init.linear_of_timm(width, width, STD),
            kv: init.linear_of_timm(width, 2 * width, STD),
            proj: init.linear_of_timm(width, width, STD),
            norm: init.layer_norm(width, epsilon),
            mlp: mlp(width, mlp_width, activation, init),
            heads,
        }
    }

    /// Number of parameters: a block's, with a learned query and one norm less.
    pub(super) fn num_params(width: usize, mlp_width: usize) -> usize {
        let linear = |from: usize, to: usize| (from + 1) * to;
        let attention = linear(width, 3 * width) + linear(width, width);
        let mlp = linear(width, mlp_width) + linear(mlp_width, width);
        width + attention + 2 * width + mlp
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - returns `[batch, width]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, tokens, width] = x.dims();
        let split = |rows: Tensor<2>, tokens: usize| {
            rows.reshape([batch, tokens, self.heads, width / self.heads])
                .swap_dims(1, 2)
        };
        let query = self.q.forward(self.latent.val().reshape([1, width]));
        let query = split(query.expand([batch, width]), 1);
        let rows = self.kv.forward(x.reshape([batch * tokens, width]));
        let key = split(rows.clone().narrow(1, 0, width), tokens);
        let value = split(rows.narrow(1, width, width), tokens);
        let pooled = mix(query, key, value, None); // [batch, heads, 1, width / heads]
        let pooled = self.proj.forward(pooled.reshape([batch, 1, width]));
        let pooled = pooled.clone() + self.mlp.forward(layer_norm(&self.norm, pooled));
        pooled.reshape([batch, width])
    }
}
