use burn::{module::Module, tensor::Tensor};

use super::{
    Activation, BatchStatistics, ModifiedResNet, SiglipVisionTransformer, Statistics,
    VisionTransformer,
};
use crate::{Init, VisionConfig, config::Tower};

/// The image encoder that a configuration asks for.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One lives a model, and Burn's modules don't go into boxes.
pub enum ImageEncoder {
    /// The paper's vision transformer.
    VisionTransformer(VisionTransformer),
    /// The paper's residual network.
    ModifiedResNet(ModifiedResNet),
    /// SigLIP's vision transformer.
    Siglip(SiglipVisionTransformer),
}

impl ImageEncoder {
    pub(crate) fn init(
        config: &VisionConfig,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        match config.tower() {
            Tower::VisionTransformer { layers } => Self::VisionTransformer(
                VisionTransformer::init(config, layers, embed_dim, activation, init),
            ),
            Tower::ModifiedResNet(stages) => {
                Self::ModifiedResNet(ModifiedResNet::init(config, stages, embed_dim, init))
            }
            Tower::Siglip(shape) => Self::Siglip(SiglipVisionTransformer::init(&shape, init)),
        }
    }

    /// Features of each image in the joint space, not normalised. Batch norms use their running statistics.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::VisionTransformer(encoder) => encoder.forward(images, None),
            Self::ModifiedResNet(encoder) => encoder.forward(images, &mut Statistics::Running),
            Self::Siglip(encoder) => encoder.forward(images),
        }
    }

    /// As [`forward`](Self::forward), but batch norms use the batch's own statistics, and leave the running ones as
    /// they are until [`update_running_statistics`](Self::update_running_statistics).
    pub fn forward_in_training(&self, images: Tensor<4>) -> (Tensor<2>, BatchStatistics) {
        let Self::ModifiedResNet(encoder) = self else {
            return (self.forward(images), BatchStatistics::default());
        };
        let mut statistics = Statistics::OfBatch(BatchStatistics::default());
        let features = encoder.forward(images, &mut statistics);
        (features, statistics.of_batch())
    }

    /// Mixes what a batch showed into the batch norms' running statistics, once. Clones of the model share them.
    pub fn update_running_statistics(&self, found: &BatchStatistics) {
        if let Self::ModifiedResNet(encoder) = self {
            encoder.update_running_statistics(found);
        }
    }
}
