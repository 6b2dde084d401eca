use burn::{
    module::Module,
    tensor::{Int, Tensor},
};

use super::{
    Activation, BatchStatistics, Statistics, TrainingDraws, VisionTransformer, convnext::ConvNeXt,
    eva::Eva, fastvit::FastVit, modified_resnet::ModifiedResNet, siglip::SiglipVisionTransformer,
    timm_vit::TimmVisionTransformer, vitamin::ViTamin,
};
use crate::{Init, Tower, VisionConfig};

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
    /// timm's convolutional network, with OpenCLIP's projection.
    ConvNeXt(ConvNeXt),
    /// timm's vision transformer of EVA's families.
    Eva(Eva),
    /// timm's convolutional network of `MobileCLIP`.
    FastVit(FastVit),
    /// timm's vision transformer of `MobileCLIP`.
    TimmVit(TimmVisionTransformer),
    /// timm's convolutions before a transformer, with OpenCLIP's projection.
    ViTamin(ViTamin),
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
            Tower::ConvNeXt(shape) => Self::ConvNeXt(ConvNeXt::init(&shape, embed_dim, init)),
            Tower::Eva(shape) => Self::Eva(Eva::init(&shape, embed_dim, init)),
            Tower::FastVit(shape) => Self::FastVit(FastVit::init(&shape, embed_dim, init)),
            Tower::TimmVit(shape) => {
                Self::TimmVit(TimmVisionTransformer::init(&shape, embed_dim, init))
            }
            Tower::ViTamin(shape) => Self::ViTamin(ViTamin::init(&shape, embed_dim, init)),
        }
    }

    /// Features of each image in the joint space, not normalised. Batch norms use their running statistics.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.project(self.forward_features(images))
    }

    /// Features of each image before [`project`](Self::project), not normalised. Where the pooling itself leads into
    /// the joint space, as a [`ModifiedResNet`]'s and SigLIP's does, they are those of [`forward`](Self::forward).
    /// Batch norms use their running statistics.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - returns `[batch, width]`
    pub fn forward_features(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::VisionTransformer(encoder) => encoder.forward_features(images, None),
            Self::ModifiedResNet(encoder) => encoder.forward(images, &mut Statistics::Running),
            Self::Siglip(encoder) => encoder.forward(images),
            Self::ConvNeXt(encoder) => encoder.forward_features(images),
            Self::Eva(encoder) => encoder.forward_features(images),
            Self::FastVit(encoder) => encoder.forward_features(images, &mut Statistics::Running),
            Self::TimmVit(encoder) => encoder.forward_features(images, &mut Statistics::Running),
            Self::ViTamin(encoder) => encoder.forward_features(images),
        }
    }

    /// Features of the joint space, not normalised, from those that [`forward_features`](Self::forward_features) gives.
    ///
    /// # Shapes
    /// - `features`: `[batch, width]`
    /// - returns `[batch, embed_dim]`
    pub fn project(&self, features: Tensor<2>) -> Tensor<2> {
        match self {
            Self::VisionTransformer(encoder) => encoder.project(features),
            Self::ModifiedResNet(_) | Self::Siglip(_) => features,
            Self::ConvNeXt(encoder) => encoder.project(features),
            Self::Eva(encoder) => encoder.project(features),
            Self::FastVit(encoder) => encoder.project(features),
            Self::TimmVit(encoder) => encoder.project(features),
            Self::ViTamin(encoder) => encoder.project(features),
        }
    }

    /// Features of each image in the joint space, not normalised, and the tokens that a decoder reads: from all of its
    /// patches, or from those that `keep` names.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, normalised by the model's mean and deviation
    /// - `keep`: `[batch, kept]`, indices of patches
    /// - returns `[batch, embed_dim]` and `[batch, tokens, width]`
    ///
    /// # Panics
    /// If the encoder is another than the paper's vision transformer.
    pub fn forward_with_tokens(
        &self,
        images: Tensor<4>,
        keep: Option<Tensor<2, Int>>,
    ) -> (Tensor<2>, Tensor<3>) {
        match self {
            Self::VisionTransformer(encoder) => encoder.forward_with_tokens(images, keep),
            _ => panic!("no decoder reads this image encoder's tokens"),
        }
    }

    /// Features of each image in a training step, in the joint space and not normalised: without what `draws` leave
    /// out, and with batch norms that use the batch's own statistics and leave the running ones as they are until
    /// [`update_running_statistics`](Self::update_running_statistics).
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    ///
    /// # Panics
    /// If `draws` leave out what this encoder doesn't have, or always computes.
    pub fn forward_in_training(
        &self,
        images: Tensor<4>,
        draws: TrainingDraws,
    ) -> (Tensor<2>, BatchStatistics) {
        let mut statistics = Statistics::OfBatch(BatchStatistics::default());
        let features = match self {
            Self::VisionTransformer(encoder) => encoder.forward(images, draws.patches_alone()),
            Self::ModifiedResNet(encoder) => {
                draws.assert_none();
                encoder.forward(images, &mut statistics)
            }
            Self::Siglip(encoder) => {
                draws.assert_none();
                encoder.forward(images)
            }
            Self::ConvNeXt(encoder) => encoder.forward_along(images, draws.paths_alone().as_ref()),
            Self::Eva(encoder) => {
                draws.assert_none();
                encoder.forward(images)
            }
            Self::FastVit(encoder) => {
                draws.assert_none();
                encoder.forward(images, &mut statistics)
            }
            Self::TimmVit(encoder) => {
                encoder.forward_along(images, &mut statistics, draws.paths_alone().as_ref())
            }
            Self::ViTamin(encoder) => encoder.forward_along(images, draws.paths_alone().as_ref()),
        };
        (features, statistics.of_batch())
    }

    /// Whether features of an image in training depend on the others of its batch.
    pub fn has_batch_norms(&self) -> bool {
        match self {
            Self::ModifiedResNet(_) | Self::FastVit(_) => true,
            Self::TimmVit(encoder) => encoder.has_batch_norms(),
            Self::VisionTransformer(_)
            | Self::Siglip(_)
            | Self::ConvNeXt(_)
            | Self::Eva(_)
            | Self::ViTamin(_) => false,
        }
    }

    /// Locks all but the last groups of layers: those have no gradient, and training leaves them as they are. Groups
    /// are what comes before the blocks, each block, and what makes features of the last one's tokens or places. A
    /// [`ModifiedResNet`] is one group: as in OpenCLIP, it is locked whole.
    ///
    /// # References
    /// Zhai et al. 2021, [Zero-Shot Transfer with Locked-image Text Tuning](https://arxiv.org/abs/2111.07991);
    /// OpenCLIP's `--lock-image-unlocked-groups`.
    pub fn lock(self, unlocked_groups: usize) -> Self {
        match self {
            Self::VisionTransformer(encoder) => {
                Self::VisionTransformer(encoder.lock(unlocked_groups))
            }
            Self::ModifiedResNet(encoder) => {
                Self::ModifiedResNet(encoder.set_require_grad(unlocked_groups > 0))
            }
            Self::Siglip(encoder) => Self::Siglip(encoder.lock(unlocked_groups)),
            Self::ConvNeXt(encoder) => Self::ConvNeXt(encoder.lock(unlocked_groups)),
            Self::Eva(encoder) => Self::Eva(encoder.lock(unlocked_groups)),
            Self::FastVit(encoder) => Self::FastVit(encoder.lock(unlocked_groups)),
            Self::TimmVit(encoder) => Self::TimmVit(encoder.lock(unlocked_groups)),
            Self::ViTamin(encoder) => Self::ViTamin(encoder.lock(unlocked_groups)),
        }
    }

    /// Mixes what a batch showed into the batch norms' running statistics, once. Clones of the model share them.
    pub fn update_running_statistics(&self, found: &BatchStatistics) {
        match self {
            Self::ModifiedResNet(encoder) => encoder.update_running_statistics(found),
            Self::FastVit(encoder) => encoder.update_running_statistics(found),
            Self::TimmVit(encoder) => encoder.update_running_statistics(found),
            Self::VisionTransformer(_)
            | Self::Siglip(_)
            | Self::ConvNeXt(_)
            | Self::Eva(_)
            | Self::ViTamin(_) => {}
        }
    }
}
