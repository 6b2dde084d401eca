use clip_model::{ClipConfig, Tower, presets};
use serde::{Deserialize, Serialize};

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Loshchilov and Hutter 2019; CLIP's.
    #[default]
    AdamW,
    /// You et al. 2020, for batches of tens of thousands: a matrix's step is scaled to its own norm. Vectors are stepped as
    /// Adam would.
    Lamb,
    /// Chen et al. 2023: the sign of an average, with half of Adam's state. Its authors take a 3 to 10 times smaller `lr`,
    /// as much more `weight_decay`, and `beta_2` 0.99. `epsilon` means nothing to it.
    Lion,
}

/// The optimizer and its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// AdamW: CLIP, section 2.5.
    pub kind: OptimizerKind,
    /// Decay of the first moment. 0.9: CLIP, table 18.
    pub beta_1: f32,
    /// Decay of the second moment. 0.98 for vision transformers, 0.999 for residual networks: CLIP, table 18. `AdamW`'s
    /// default in a run is the model's.
    pub beta_2: f32,
    /// Added to the root of the second moment. 1e-6 for vision transformers, 1e-8 for residual networks: CLIP, table 18.
    /// `AdamW`'s default in a run is the model's.
    pub epsilon: f32,
    /// Decoupled weight decay of matrices. 0.2: CLIP, table 18.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; none by default, as in the reference.
    pub grad_clip_norm: Option<f64>,
    /// What a layer's learning rate is multiplied by for each layer above it in its tower, for fine-tuning: 0.65 to 0.75
    /// for a ViT-B (Clark et al. 2020; Bao et al. 2022). None by default: all layers learn at `lr`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::default(),
            beta_1: 0.9,
            beta_2: 0.98,
            epsilon: 1e-6,
            weight_decay: 0.2,
            grad_clip_norm: None,
            layer_decay: None,
        }
    }
}

/// `beta_2` and `epsilon` of Adam for a model, as `OpenCLIP`'s training has them: it goes by whether a preset's name has
/// "vit" in it. A file's name says nothing, so there its image encoder decides.
///
/// # References
/// `OpenCLIP`, `open_clip_train/params.py`, `get_default_params`.
pub(crate) fn adam_constants(preset: &str, model: &ClipConfig) -> (f32, f32) {
    let is_transformer = if presets::json(preset).is_some() {
        preset.to_lowercase().contains("vit")
    } else {
        match model.vision_cfg.tower() {
            Tower::VisionTransformer { .. }
            | Tower::Siglip(_)
            | Tower::Eva(_)
            | Tower::TimmVit(_)
            | Tower::ViTamin(_) => true,
            Tower::ModifiedResNet(_) | Tower::ConvNeXt(_) | Tower::FastVit(_) => false,
        }
    };
    if is_transformer {
        let of_transformers = OptimizerConfig::default();
        (of_transformers.beta_2, of_transformers.epsilon)
    } else {
        (0.999, 1e-8)
    }
}
