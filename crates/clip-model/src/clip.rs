use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Int, Tensor},
};

use crate::{
    ClipConfig, Init,
    encoder::{
        BatchStatistics, ImageEncoder, TextEncoder, TrainingDraws, coca::MultimodalTransformer,
    },
};

/// ln(1 / 0.07), the first temperature. CLIP section 2.5, from Wu et al. 2018.
pub const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// ln 100, the highest `logit_scale` that training keeps. CLIP section 2.5.
pub const MAX_LOGIT_SCALE: f32 = 4.605_17;

/// ln 10, the first temperature of SigLIP. Zhai et al. 2023, algorithm 1.
pub const SIGLIP_LOGIT_SCALE: f64 = std::f64::consts::LN_10;

/// The first bias of SigLIP: most pairs of a batch don't match. Zhai et al. 2023, section 3.2.
pub const SIGLIP_LOGIT_BIAS: f64 = -10.0;

/// Two encoders into one space, and the temperature of their agreement.
///
/// # References
/// Radford et al. 2021, figure 3.
#[derive(Module, Debug)]
pub struct Clip {
    /// The image encoder.
    pub visual: ImageEncoder,
    /// The text encoder.
    pub text: TextEncoder,
    /// What writes captions of images, in a CoCa model.
    pub text_decoder: Option<MultimodalTransformer>,
    /// `[1]`: logarithm of the factor between cosines and logits.
    pub logit_scale: Param<Tensor<1>>,
    /// `[1]`: added to every logit by SigLIP's loss; models of other losses have none.
    pub logit_bias: Option<Param<Tensor<1>>>,
    /// Whether OpenCLIP names the text encoder's parameters `text.*`.
    pub(crate) custom_text: bool,
}

impl Clip {
    pub(crate) fn init(config: &ClipConfig, init: &mut Init) -> Self {
        let activation = config.activation();
        let initial_logit_scale = config
            .init_logit_scale
            .map_or(INITIAL_LOGIT_SCALE, |scale| scale as f32);
        Self {
            visual: ImageEncoder::init(&config.vision_cfg, config.embed_dim, activation, init),
            text: TextEncoder::init(&config.text_cfg, config.embed_dim, activation, init),
            text_decoder: config.multimodal_cfg.as_ref().map(|decoder| {
                let vocab_size = config.text_cfg.vocab_size;
                MultimodalTransformer::init(decoder, vocab_size, activation, init)
            }),
            logit_scale: init.constant([1], initial_logit_scale),
            logit_bias: config
                .init_logit_bias
                .map(|bias| init.constant([1], bias as f32)),
            custom_text: config.custom_text || config.text_cfg.hf_model_name.is_some(),
        }
    }

    /// Image features, not normalised. Batch norms use their running statistics.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, as [`ImageNorm`](crate::ImageNorm) makes them
    /// - returns `[batch, embed_dim]`
    pub fn encode_image(&self, images: Tensor<4>) -> Tensor<2> {
        self.visual.forward(images).cast(DType::F32)
    }

    /// Image features in a training step, not normalised: without what `draws` leave out (patch dropout, stochastic
    /// depth), and with batch norms that use the batch's own statistics, which come back for
    /// [`ImageEncoder::update_running_statistics`].
    ///
    /// # Shapes
    /// As [`encode_image`](Self::encode_image).
    ///
    /// # Panics
    /// If `draws` leave out what the encoder doesn't have, or always computes.
    pub fn encode_image_in_training(
        &self,
        images: Tensor<4>,
        draws: TrainingDraws,
    ) -> (Tensor<2>, BatchStatistics) {
        let (features, statistics) = self.visual.forward_in_training(images, draws);
        (features.cast(DType::F32), statistics)
    }

    /// Image features before the projection into the joint space, which the paper's linear probes use, and after it.
    ///
    /// # Shapes
    /// - `images`: as [`encode_image`](Self::encode_image)
    /// - returns `[batch, width]` and `[batch, embed_dim]`; both the same where nothing but the pooling projects
    pub fn encode_image_twofold(&self, images: Tensor<4>) -> [Tensor<2>; 2] {
        let features = self.visual.forward_features(images);
        let projected = self.visual.project(features.clone());
        [features, projected].map(|features| features.cast(DType::F32))
    }

    /// Text features, not normalised.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, from the start token to the end token, padded as the model's tokenizer does
    /// - returns `[batch, embed_dim]`
    pub fn encode_text(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.text.forward(tokens).cast(DType::F32)
    }

    /// Logits of the token that follows each of some captions', given their images.
    ///
    /// # Shapes
    /// - `images`: as [`encode_image`](Self::encode_image)
    /// - `tokens`: `[batch, tokens]`, as [`encode_text`](Self::encode_text)
    /// - returns `[batch, tokens, vocab_size]`
    ///
    /// # Panics
    /// If the model has no decoder.
    pub fn caption_logits(&self, images: Tensor<4>, tokens: &Tensor<2, Int>) -> Tensor<3> {
        let (_, image) = self.visual.forward_with_tokens(images, None);
        let (decoder, x) = self.decoded(&image, tokens);
        let [batch, length, width] = x.dims();
        let logits = decoder.logits(x.reshape([batch * length, width]));
        let [_, vocab_size] = logits.dims();
        logits.reshape([batch, length, vocab_size])
    }

    /// Logits of the token that follows the last of some captions', given their images' tokens.
    ///
    /// # Shapes
    /// - `image`: `[batch, image tokens, width]`
    /// - returns `[batch, vocab_size]`
    pub(crate) fn last_logits(&self, image: &Tensor<3>, tokens: &Tensor<2, Int>) -> Tensor<2> {
        let (decoder, x) = self.decoded(image, tokens);
        let [_, length, _] = x.dims();
        decoder.logits(x.narrow(1, length - 1, 1).squeeze_dim(1))
    }

    fn decoded(
        &self,
        image: &Tensor<3>,
        tokens: &Tensor<2, Int>,
    ) -> (&MultimodalTransformer, Tensor<3>) {
        let (Some(decoder), TextEncoder::Coca(text)) = (&self.text_decoder, &self.text) else {
            panic!("the model has no decoder, which CoCa's have");
        };
        (decoder, decoder.forward(image, text.tokens(tokens)))
    }

    /// The factor between cosines and logits, `exp(logit_scale)`. Waits for the device.
    pub fn temperature_factor(&self) -> f32 {
        self.logit_scale.val().exp().into_scalar()
    }

    /// What is added to every logit, in a model that has it. Waits for the device.
    pub fn bias_of_logits(&self) -> Option<f32> {
        let bias = self.logit_bias.as_ref();
        bias.map(|bias| bias.val().into_scalar())
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.logit_scale.val().device()
    }
}

/// Divides each row by its Euclidean norm, as `torch.nn.functional.normalize` does.
///
/// # Shapes
/// - `features`: `[batch, embed_dim]`, and so is the result
pub fn l2_normalize(features: Tensor<2>) -> Tensor<2> {
    let norm = features.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    features / norm
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, TensorData, Tolerance};

    use super::*;
    use crate::weights::weights_bytes;

    fn small() -> ClipConfig {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 2, "width": 32,
            "head_width": 16, "patch_size": 8}, "text_cfg": {"context_length": 12,
            "vocab_size": 50, "width": 32, "heads": 2, "layers": 2}}"#;
        ClipConfig::from_json(json, "test").unwrap()
    }

    fn tokens(rows: &[&[i32]], device: &Device) -> Tensor<2, Int> {
        let flat: Vec<i32> = rows.concat();
        Tensor::from_data(TensorData::new(flat, [rows.len(), rows[0].len()]), device)
    }

    #[test]
    fn count_from_the_configuration_is_the_models_own() {
        let config = small();
        assert_eq!(
            config.init(0, &Device::flex()).num_params(),
            config.num_params()
        );
    }

    #[test]
    fn permuting_a_batch_permutes_a_resnets_features_except_in_training() {
        let json = r#"{"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4,
            "head_width": 32}, "text_cfg": {"vocab_size": 50, "width": 8, "heads": 2, "layers": 1}}"#;
        let device = Device::flex();
        let config = ClipConfig::from_json(json, "test").unwrap();
        let model = config.init(4, &device);
        let params = crate::weights::parameter_shapes(&model).into_iter();
        let params = params.filter(|(name, _)| !crate::weights::is_buffer(name));
        let count: usize = params
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        assert_eq!(count, config.num_params());

        let images = Tensor::random([3, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
        let order = Tensor::<1, Int>::from_data([2, 0, 1], &device);
        let expected = model.encode_image(images.clone()).select(0, order.clone());
        let permuted = model.encode_image(images.clone().select(0, order));
        let tolerance = Tolerance::absolute(1e-5);
        permuted
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), tolerance);
        // In training, an image's features depend on its batch.
        let alone = model
            .encode_image_in_training(images.clone().narrow(0, 0, 1), TrainingDraws::default())
            .0;
        let together = model
            .encode_image_in_training(images, TrainingDraws::default())
            .0
            .narrow(0, 0, 1);
        let apart: f32 = (alone - together).abs().max().into_scalar();
        assert!(apart > 1e-3, "{apart}");
    }

    #[test]
    fn a_seed_means_its_weights() {
        let device = Device::flex();
        let proj = |seed| weights_bytes(&small().init(seed, &device));
        assert_eq!(proj(1), proj(1));
        assert_ne!(proj(1), proj(2));
    }

    #[test]
    fn what_follows_the_end_of_text_changes_nothing() {
        let device = Device::flex();
        let model = small().init(3, &device);
        let trimmed = model.encode_text(tokens(&[&[48, 5, 9, 49]], &device));
        let padded = model.encode_text(tokens(&[&[48, 5, 9, 49, 0, 0, 0]], &device));
        let followed = model.encode_text(tokens(&[&[48, 5, 9, 49, 7, 3, 11]], &device));
        let tolerance = Tolerance::absolute(1e-6);
        padded
            .into_data()
            .assert_approx_eq::<f32>(&trimmed.clone().into_data(), tolerance);
        followed
            .into_data()
            .assert_approx_eq::<f32>(&trimmed.into_data(), tolerance);
    }

    #[test]
    fn permuting_a_batch_permutes_its_features() {
        let device = Device::flex();
        let model = small().init(4, &device);
        let images = Tensor::random([3, 3, 16, 16], Distribution::Normal(0.0, 1.0), &device);
        let order = Tensor::<1, Int>::from_data([2, 0, 1], &device);
        let permuted = model.encode_image(images.clone().select(0, order.clone()));
        let expected = model.encode_image(images).select(0, order);
        // A product may sum a row elsewhere in another order.
        let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
        permuted
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), tolerance);
    }

    #[test]
    fn normalised_features_have_length_one() {
        let device = Device::flex();
        let features = Tensor::random([4, 16], Distribution::Normal(0.0, 3.0), &device);
        let norms: Vec<f32> = l2_normalize(features)
            .square()
            .sum_dim(1)
            .into_data()
            .try_to_vec()
            .unwrap();
        assert!(
            norms.iter().all(|norm| (norm - 1.0).abs() < 1e-5),
            "{norms:?}"
        );
    }
}
