use burn::{
    module::{Module, Param},
    tensor::{Device, Int, Tensor},
};

use crate::{
    ClipConfig, Init,
    encoder::{Activation, TextTransformer, VisionTransformer},
};

/// ln(1 / 0.07), the first temperature. CLIP section 2.5, from Wu et al. 2018.
pub const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// ln 100, the highest `logit_scale` that training keeps. CLIP section 2.5.
pub const MAX_LOGIT_SCALE: f32 = 4.605_17;

/// Two encoders into one space, and the temperature of their agreement.
///
/// # References
/// Radford et al. 2021, figure 3.
#[derive(Module, Debug)]
pub struct Clip {
    /// The image encoder.
    pub visual: VisionTransformer,
    /// The text encoder.
    pub text: TextTransformer,
    /// `[1]`: logarithm of the factor between cosines and logits.
    pub logit_scale: Param<Tensor<1>>,
}

impl Clip {
    pub(crate) fn init(config: &ClipConfig, init: &mut Init) -> Self {
        let activation = if config.quick_gelu {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        };
        Self {
            visual: VisionTransformer::init(&config.vision_cfg, config.embed_dim, activation, init),
            text: TextTransformer::init(&config.text_cfg, config.embed_dim, activation, init),
            logit_scale: init.constant([1], INITIAL_LOGIT_SCALE),
        }
    }

    /// Image features, not normalised.
    ///
    /// # Shapes
    /// - `images`: `[batch, 3, image_size, image_size]`, as [`ImageNorm`](crate::ImageNorm) makes them
    /// - returns `[batch, embed_dim]`
    pub fn encode_image(&self, images: Tensor<4>) -> Tensor<2> {
        self.visual.forward(images, None)
    }

    /// Image features before the projection into the joint space, which the paper's linear probes use, and after it.
    ///
    /// # Shapes
    /// - `images`: as [`encode_image`](Self::encode_image)
    /// - returns `[batch, width]` and `[batch, embed_dim]`
    pub fn encode_image_twofold(&self, images: Tensor<4>) -> [Tensor<2>; 2] {
        let unprojected = self.visual.forward_features(images, None);
        let projected = unprojected.clone().matmul(self.visual.proj.val());
        [unprojected, projected]
    }

    /// Text features, not normalised.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, from the start token to the end token, zero padded
    /// - returns `[batch, embed_dim]`
    pub fn encode_text(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.text.forward(tokens)
    }

    /// The factor between cosines and logits, `exp(logit_scale)`. Waits for the device.
    pub fn temperature_factor(&self) -> f32 {
        self.logit_scale.val().exp().into_scalar()
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
    fn a_seed_means_its_weights() {
        let device = Device::flex();
        let proj = |seed| small().init(seed, &device).visual.proj.val().into_data();
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
        let tolerance = Tolerance::absolute(1e-6);
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
