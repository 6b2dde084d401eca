use burn::{
    module::{Module, Param},
    nn::LayerNorm,
    tensor::{DType, Int, Tensor, assert_shape},
};

use super::{
    Activation, Chain, LockedGroups, ResidualAttentionBlock, Transformer,
    block::{LAYER_NORM_EPSILON, layer_norm},
    coca::AttentionalPooler,
    sequences,
};
use crate::{Init, VisionConfig, VisionPool, products};

/// The vision transformer of the paper: patches, a class token, `ln_pre`, blocks, `ln_post`, a projection.
///
/// # References
/// Dosovitskiy et al. 2020; CLIP section 2.4 adds the layer norm before the blocks.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    /// `[width, 3, patch_size, patch_size]`: the patch embedding, without bias.
    pub conv1: PatchEmbedding,
    /// `[width]`.
    pub class_embedding: Param<Tensor<1>>,
    /// `[tokens, width]`: the class token's first, then patches row by row.
    pub positional_embedding: Param<Tensor<2>>,
    /// Before the blocks; the paper's encoder has it.
    pub ln_pre: Option<LayerNorm>,
    /// The blocks.
    pub transformer: Transformer,
    /// What makes features of the tokens instead of the class token: CoCa's.
    pub attn_pool: Option<AttentionalPooler>,
    /// After the blocks, on the class token in the paper's encoder; after the pooling in CoCa's.
    pub ln_post: LayerNorm,
    /// `[width, embed_dim]`, or `[embed_dim, embed_dim]` after CoCa's pooling.
    pub proj: Param<Tensor<2>>,
    #[module(skip)]
    pool: VisionPool,
    /// Whether `ln_post` is on the mean of the tokens, instead of on each before the mean.
    final_ln_after_pool: bool,
}

/// A convolution whose stride is its kernel size, computed as one matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// `[width, 3, patch_size, patch_size]`.
    pub weight: Param<Tensor<4>>,
    /// `[width]`; the paper's encoder has none.
    pub bias: Option<Param<Tensor<1>>>,
}

impl PatchEmbedding {
    /// # Shapes
    /// - `images`: `[batch, 3, height, width]`; rows and columns past the last whole patch are ignored
    /// - returns `[batch, patches, features]`, row by row
    pub fn forward(&self, images: Tensor<4>) -> Tensor<3> {
        self.embed(self.patches(images))
    }

    /// `[batch, patches, channels * patch_size * patch_size]`: the pixels of each patch.
    fn patches(&self, images: Tensor<4>) -> Tensor<3> {
        let [_, channels, patch, _] = self.weight.val().dims();
        assert_shape!(images, [_, channels, ..]);
        let [batch, _, height, width] = images.dims();
        let (rows, columns) = (height / patch, width / patch);
        let images = images
            .narrow(2, 0, rows * patch)
            .narrow(3, 0, columns * patch);
        images
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5]) // [batch, rows, columns, channels, patch, patch]
            .reshape([batch, rows * columns, channels * patch * patch])
    }

    /// `[batch, patches, features]`.
    fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val();
        let [features, ..] = weight.dims();
        let [batch, count, pixels] = patches.dims();
        let rows = patches
            .reshape([batch * count, pixels])
            .cast(weight.dtype());
        let weight = weight.reshape([features, pixels]);
        let embedded = products::project(rows, weight.transpose());
        let embedded = match &self.bias {
            Some(bias) => embedded + bias.val().unsqueeze(),
            None => embedded,
        };
        embedded.reshape([batch, count, features])
    }
}

impl VisionTransformer {
    pub(crate) fn init(
        config: &VisionConfig,
        layers: usize,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        let width = config.width;
        let scale = (width as f64).powf(-0.5);
        let side = config.patch_size();
        let fan_in = 3 * side.pow(2);
        let patch = [width, 3, side, side];
        let transformer = |init: &mut Init| {
            let (heads, hidden) = (config.heads(), config.mlp_width());
            Transformer::init_default(width, layers, heads, hidden, activation, init)
        };
        let pooled = if config.attentional_pool {
            embed_dim
        } else {
            width
        };
        Self {
            conv1: PatchEmbedding {
                weight: init.uniform(patch, 1.0 / (fan_in as f64).sqrt()),
                bias: None,
            },
            class_embedding: init.normal([width], scale),
            positional_embedding: init.normal([config.tokens(), width], scale),
            ln_pre: (!config.no_ln_pre).then(|| init.layer_norm(width, LAYER_NORM_EPSILON)),
            transformer: match config.ls_init_value {
                Some(value) => transformer(init).with_layer_scales(value, init),
                None => transformer(init),
            },
            attn_pool: config
                .attentional_pool
                .then(|| AttentionalPooler::init(config, embed_dim, init)),
            ln_post: init.layer_norm(pooled, LAYER_NORM_EPSILON),
            proj: init.normal([pooled, embed_dim], scale),
            pool: config.pool_type,
            final_ln_after_pool: config.final_ln_after_pool,
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The last block's has `ln_post`, the head is the
    /// projection, and CoCa's pooling is in none: it is locked in any case.
    pub(super) fn lock(self, unlocked_groups: usize) -> Self {
        let groups = LockedGroups::of(self.transformer.resblocks.len(), unlocked_groups);
        Self {
            conv1: groups.stem(self.conv1),
            class_embedding: groups.stem(self.class_embedding),
            positional_embedding: groups.stem(self.positional_embedding),
            ln_pre: groups.stem(self.ln_pre),
            transformer: groups.transformer(self.transformer),
            attn_pool: self.attn_pool.no_grad(),
            ln_post: groups.last_block(self.ln_post),
            proj: groups.head(self.proj),
            ..self
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - `keep`: `[batch, kept]`, indices of the patches to keep (patch dropout), or all of them
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        self.project(self.forward_features(images, keep))
    }

    /// Features of each image before the projection, what the paper's linear probes use.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, width]`, after CoCa's pooling `[batch, embed_dim]`.
    pub fn forward_features(&self, images: Tensor<4>, keep: Option<Tensor<2, Int>>) -> Tensor<2> {
        let input = (images, keep);
        let x = self.stem(&input);
        let only = self.pool(&x, &input);
        self.pooled(self.transformer.forward(x, None, only.as_ref()))
    }

    /// Features of the joint space from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, width]`
    /// - returns `[batch, embed_dim]`, not normalised
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        products::project(features, self.proj.val())
    }

    /// Features of each image in the joint space, not normalised, and the tokens that a decoder reads: what CoCa's queries
    /// find but for the first, or the patches.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, embed_dim]` and `[batch, tokens, pooled width]`.
    pub fn forward_with_tokens(
        &self,
        images: Tensor<4>,
        keep: Option<Tensor<2, Int>>,
    ) -> (Tensor<2>, Tensor<3>) {
        let x = self.stem(&(images, keep));
        self.head_with_tokens(self.transformer.forward(x, None, None))
    }

    /// Features in the joint space, not normalised, and the tokens that a decoder reads, of what the blocks give for
    /// all tokens.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - returns `[batch, embed_dim]` and `[batch, tokens, pooled width]`
    pub fn head_with_tokens(&self, x: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
        let x = match &self.attn_pool {
            Some(pooler) => pooler.forward(x, pooler.queries()),
            None => x,
        };
        let x = sequences::layer_norm(&self.ln_post, LAYER_NORM_EPSILON, x);
        let [batch, tokens, width] = x.dims();
        let first = x.clone().narrow(1, 0, 1).reshape([batch, width]);
        let features = self.project(first);
        (features, x.narrow(1, 1, tokens - 1))
    }

    /// `[batch, width]`: the class token, which comes alone, what the first query finds, or the mean of the patches, normed.
    fn pooled(&self, x: Tensor<3>) -> Tensor<2> {
        let x = match &self.attn_pool {
            Some(pooler) => pooler.forward(x, 1),
            None => x,
        };
        let [batch, tokens, width] = x.dims();
        let mean = |x: Tensor<3>| {
            let (dtype, patches) = (x.dtype(), x.narrow(1, 1, tokens - 1));
            let mean = patches.cast(DType::F32).mean_dim(1); // a sum of hundreds, in whatever the model computes
            mean.cast(dtype).reshape([batch, width])
        };
        match self.pool {
            VisionPool::Tok => layer_norm(&self.ln_post, x.reshape([batch, width])),
            VisionPool::Avg if self.final_ln_after_pool => layer_norm(&self.ln_post, mean(x)),
            VisionPool::Avg => mean(layer_norm(&self.ln_post, x)),
        }
    }
}

impl Chain for VisionTransformer {
    /// Images, and which patches to keep.
    type Input = (Tensor<4>, Option<Tensor<2, Int>>);

    fn stem(&self, (images, keep): &Self::Input) -> Tensor<3> {
        let patches = self.conv1.patches(images.clone());
        let [batch, count, pixels] = patches.dims();
        let positions = self.positional_embedding.val();
        let [_, width] = positions.dims();
        let class = self.class_embedding.val().unsqueeze::<2>() + positions.clone().narrow(0, 0, 1);
        let positions = positions.narrow(0, 1, count);
        let (patches, positions) = match keep {
            Some(keep) => {
                // Before they are embedded: what is dropped costs nothing, and pixels need no gradient.
                let [_, kept] = keep.dims();
                let first =
                    Tensor::arange(0..batch as i64, &keep.device()).mul_scalar(count as i64);
                let rows = (keep.clone() + first.unsqueeze_dim(1)).reshape([batch * kept]);
                let patches = patches.reshape([batch * count, pixels]).select(0, rows);
                let positions = positions.select(0, keep.clone().reshape([batch * kept]));
                (
                    patches.reshape([batch, kept, pixels]),
                    positions.reshape([batch, kept, width]),
                )
            }
            None => (patches, positions.unsqueeze()),
        };
        let patches = self.conv1.embed(patches) + positions;
        let class = class.unsqueeze::<3>().expand([batch, 1, width]);
        let tokens = Tensor::cat(vec![class, patches], 1); // [batch, 1 + kept, width]
        match &self.ln_pre {
            Some(norm) => layer_norm(norm, tokens),
            None => tokens,
        }
    }

    fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.transformer.resblocks
    }

    fn mask(&self, _x: &Tensor<3>) -> Option<Tensor<4>> {
        None
    }

    /// The class token is the first.
    fn pool(&self, x: &Tensor<3>, _input: &Self::Input) -> Option<Tensor<2, Int>> {
        let [batch, ..] = x.dims();
        let only_class = self.pool == VisionPool::Tok && self.attn_pool.is_none();
        only_class.then(|| Tensor::zeros([batch, 1], &x.device()))
    }

    fn head(&self, x: Tensor<3>, _input: &Self::Input) -> Tensor<2> {
        self.project(self.pooled(x))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance, module::conv2d, ops::ConvOptions};

    use super::*;
    use crate::encoder::ImageEncoder;

    #[test]
    fn patch_embedding_is_a_strided_convolution() {
        let device = Device::flex();
        let mut init = Init::new(0, &device);
        let layer = PatchEmbedding {
            weight: init.uniform([6, 3, 4, 4], 0.1),
            bias: None,
        };
        let images = Tensor::random([2, 3, 8, 12], Distribution::Normal(0.0, 1.0), &device);
        let options = ConvOptions::new([4, 4], [0, 0], [1, 1], 1);
        let convolved = conv2d(images.clone(), layer.weight.val(), None, options);
        let expected = convolved.reshape([2, 6, 6]).swap_dims(1, 2);
        let got = layer.forward(images);
        got.into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::default());
    }

    #[test]
    fn the_order_of_kept_patches_changes_nothing_and_which_they_are_does() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 16, "layers": 1, "width": 16,
            "head_width": 8, "patch_size": 8}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let device = Device::flex();
        let config = crate::ClipConfig::from_json(json, "test").unwrap();
        let ImageEncoder::VisionTransformer(model) = config.init(5, &device).visual else {
            panic!("a vision transformer");
        };
        let images = Tensor::random([2, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        let features = |keep: [[i32; 2]; 2]| {
            let keep = Tensor::from_data(keep, &device);
            model.forward(images.clone(), Some(keep)).into_data()
        };
        let kept = features([[0, 3], [1, 2]]);
        let tolerance = Tolerance::absolute(1e-5);
        kept.assert_approx_eq::<f32>(&features([[3, 0], [2, 1]]), tolerance);
        assert_ne!(kept, features([[0, 3], [1, 3]]));
        let all = Tensor::from_data([[0, 1, 2, 3], [0, 1, 2, 3]], &device);
        let all = model.forward(images.clone(), Some(all)).into_data();
        all.assert_approx_eq::<f32>(&model.forward(images.clone(), None).into_data(), tolerance);
    }
}
