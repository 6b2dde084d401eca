use burn::{
    module::{Module, Param},
    nn::LayerNorm,
    tensor::{Tensor, assert_shape},
};

use super::{Activation, Transformer, block::LAYER_NORM_EPSILON};
use crate::{Init, VisionConfig};

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
    /// Before the blocks.
    pub ln_pre: LayerNorm,
    /// The blocks.
    pub transformer: Transformer,
    /// On the class token, after the blocks.
    pub ln_post: LayerNorm,
    /// `[width, embed_dim]`.
    pub proj: Param<Tensor<2>>,
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
        let weight = self.weight.val();
        let [features, channels, patch, _] = weight.dims();
        assert_shape!(images, [_, channels, ..]);
        let [batch, _, height, width] = images.dims();
        let (rows, columns) = (height / patch, width / patch);
        let images = images
            .narrow(2, 0, rows * patch)
            .narrow(3, 0, columns * patch);
        let patches = images
            .reshape([batch, channels, rows, patch, columns, patch])
            .permute([0, 2, 4, 1, 3, 5]) // [batch, rows, columns, channels, patch, patch]
            .reshape([batch * rows * columns, channels * patch * patch]);
        let weight = weight.reshape([features, channels * patch * patch]);
        let embedded = patches.matmul(weight.transpose());
        let embedded = match &self.bias {
            Some(bias) => embedded + bias.val().unsqueeze(),
            None => embedded,
        };
        embedded.reshape([batch, rows * columns, features])
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
        Self {
            conv1: PatchEmbedding {
                weight: init.uniform(patch, 1.0 / (fan_in as f64).sqrt()),
                bias: None,
            },
            class_embedding: init.normal([width], scale),
            positional_embedding: init.normal([config.tokens(), width], scale),
            ln_pre: init.layer_norm(width, LAYER_NORM_EPSILON),
            transformer: Transformer::init_default(
                width,
                layers,
                config.heads(),
                config.mlp_width(),
                activation,
                init,
            ),
            ln_post: init.layer_norm(width, LAYER_NORM_EPSILON),
            proj: init.normal([width, embed_dim], scale),
        }
    }

    /// Features of each image in the joint space, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - `keep`: `[batch, kept]`, indices of the patches to keep (patch dropout), or all of them
    /// - returns `[batch, embed_dim]`
    pub fn forward(
        &self,
        images: Tensor<4>,
        keep: Option<Tensor<2, burn::tensor::Int>>,
    ) -> Tensor<2> {
        self.forward_features(images, keep).matmul(self.proj.val())
    }

    /// Features of each image before the projection, what the paper's linear probes use.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward), but returns `[batch, width]`.
    pub fn forward_features(
        &self,
        images: Tensor<4>,
        keep: Option<Tensor<2, burn::tensor::Int>>,
    ) -> Tensor<2> {
        let patches = self.conv1.forward(images);
        let [batch, count, width] = patches.dims();
        let positions = self.positional_embedding.val();
        let class = self.class_embedding.val().unsqueeze::<2>() + positions.clone().narrow(0, 0, 1);
        let patches = patches + positions.narrow(0, 1, count).unsqueeze();
        let patches = match keep {
            Some(keep) => {
                let [_, kept] = keep.dims();
                let index = keep.unsqueeze_dim::<3>(2).expand([batch, kept, width]);
                patches.gather(1, index)
            }
            None => patches,
        };
        let class = class.unsqueeze::<3>().expand([batch, 1, width]);
        let x = self.ln_pre.forward(Tensor::cat(vec![class, patches], 1));
        let x = self.transformer.forward(x, None); // [batch, 1 + kept, width]
        self.ln_post
            .forward(x.narrow(1, 0, 1).reshape([batch, width]))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance, module::conv2d, ops::ConvOptions};

    use super::*;

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
}
