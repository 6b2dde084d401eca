use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Clip, Init, ModelError, presets};

/// A CLIP model's architecture, in the keys of OpenCLIP's model configurations.
///
/// # References
/// The nine models of the paper: Radford et al. 2021, table 19. Keys: `open_clip/model_configs/*.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Width of the joint embedding, in features.
    pub embed_dim: usize,
    /// The image encoder.
    pub vision_cfg: VisionConfig,
    /// The text encoder.
    pub text_cfg: TextConfig,
    /// `x * sigmoid(1.702 x)` instead of GELU in both encoders. OpenAI's own weights need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quick_gelu: bool,
    /// Keys that this crate doesn't know; any that would change the model is refused by name.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// A vision transformer's architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Features of a token.
    pub width: usize,
    /// Features of an attention head; `width / head_width` heads. 64: CLIP, table 19.
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    /// Hidden features of a block's MLP, in multiples of `width`. 4: Vaswani et al. 2017.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Share of patch tokens dropped in training, in `[0, 1)`.
    #[serde(default)]
    pub patch_dropout: f64,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// A text transformer's architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Longest caption, in tokens, start and end included. 77: CLIP's code.
    #[serde(default = "default_context_length")]
    pub context_length: usize,
    /// Tokens of the vocabulary. 49,408: CLIP's own; any other asks for one trained on the run's captions.
    #[serde(default = "default_vocab_size")]
    pub vocab_size: usize,
    /// Features of a token.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Hidden features of a block's MLP, in multiples of `width`.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Where OpenCLIP finds the tokenizer when it isn't CLIP's own; unused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_tokenizer_name: Option<String>,
    /// Keyword arguments for OpenCLIP's tokenizer; unused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_kwargs: Option<Value>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

fn default_head_width() -> usize {
    64
}

fn default_mlp_ratio() -> f64 {
    4.0
}

fn default_context_length() -> usize {
    77
}

fn default_vocab_size() -> usize {
    presets::CLIP_VOCAB_SIZE
}

/// Whether an unknown key leaves the model as this crate builds it: `false`, `null` and 0 switch a feature
/// off, except that a text projection is there unless it is switched off.
fn is_implemented(key: &str, value: &Value) -> bool {
    match key {
        "proj_type" => value == "linear",
        _ => matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(0.0),
    }
}

impl ClipConfig {
    /// The configuration of a preset, or of a JSON file when `name` is a path to one.
    ///
    /// # Errors
    /// [`ModelError::UnknownPreset`], or what [`from_json`](Self::from_json) refuses.
    pub fn load(name: &str) -> Result<Self, ModelError> {
        if let Some(json) = presets::json(name) {
            return Self::from_json(json, &format!("preset {name}"));
        }
        let path = Path::new(name);
        if !path.is_file() {
            return Err(ModelError::UnknownPreset {
                name: name.to_owned(),
                known: presets::names().map(str::to_owned).collect(),
            });
        }
        let json = std::fs::read_to_string(path).map_err(ModelError::io("read", path))?;
        Self::from_json(&json, name)
    }

    /// Parses OpenCLIP's JSON; `origin` names it in errors.
    ///
    /// # Errors
    /// Broken JSON, numbers that don't fit together, and every key that asks for something not implemented.
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ModelError> {
        let config: Self =
            serde_json::from_str(json).map_err(|source| ModelError::ConfigSyntax {
                origin: origin.to_owned(),
                source,
            })?;
        config.validate(origin)?;
        Ok(config)
    }

    pub(crate) fn validate(&self, origin: &str) -> Result<(), ModelError> {
        let Self {
            vision_cfg: vision,
            text_cfg: text,
            ..
        } = self;
        for (prefix, other) in [
            ("", &self.other),
            ("vision_cfg.", &vision.other),
            ("text_cfg.", &text.other),
        ] {
            let asked = other
                .iter()
                .find(|(key, value)| !is_implemented(key, value));
            if let Some((key, value)) = asked {
                return Err(ModelError::UnsupportedConfig {
                    origin: origin.to_owned(),
                    key: format!("{prefix}{key}"),
                    value: value.to_string(),
                });
            }
        }
        let invalid = |reason: String| ModelError::InvalidConfig {
            origin: origin.to_owned(),
            reason,
        };
        for (key, value) in [
            ("embed_dim", self.embed_dim),
            ("vision_cfg.image_size", vision.image_size),
            ("vision_cfg.layers", vision.layers),
            ("vision_cfg.width", vision.width),
            ("vision_cfg.head_width", vision.head_width),
            ("vision_cfg.patch_size", vision.patch_size),
            ("text_cfg.width", text.width),
            ("text_cfg.heads", text.heads),
            ("text_cfg.layers", text.layers),
        ] {
            if value == 0 {
                return Err(invalid(format!("`{key}` must be at least 1")));
            }
        }
        if vision.patch_size > vision.image_size {
            return Err(invalid(format!(
                "`vision_cfg.patch_size` {} is larger than `vision_cfg.image_size` {}",
                vision.patch_size, vision.image_size
            )));
        }
        if !vision.width.is_multiple_of(vision.head_width) {
            return Err(invalid(format!(
                "`vision_cfg.width` {} is not a multiple of `vision_cfg.head_width` {}",
                vision.width, vision.head_width
            )));
        }
        if !text.width.is_multiple_of(text.heads) {
            return Err(invalid(format!(
                "`text_cfg.width` {} is not a multiple of `text_cfg.heads` {}",
                text.width, text.heads
            )));
        }
        if text.context_length < 3 || text.vocab_size < 3 {
            return Err(invalid(
                "`text_cfg.context_length` and `text_cfg.vocab_size` must be at least 3: \
                 a start token, an end token and one between"
                    .to_owned(),
            ));
        }
        if !(0.0..1.0).contains(&vision.patch_dropout) {
            return Err(invalid(format!(
                "`vision_cfg.patch_dropout` {} is outside [0, 1)",
                vision.patch_dropout
            )));
        }
        Ok(())
    }

    /// A model with random weights, drawn from `seed` alone: the same on every backend and machine.
    pub fn init(&self, seed: u64, device: &Device) -> Clip {
        Clip::init(self, &mut Init::new(seed, device))
    }

    /// A model whose weights are still to come from a file, at no cost until then.
    pub fn init_blank(&self, device: &Device) -> Clip {
        Clip::init(self, &mut Init::blank(device))
    }

    /// Number of parameters, from the configuration alone.
    pub fn num_params(&self) -> usize {
        let Self {
            embed_dim,
            vision_cfg: vision,
            text_cfg: text,
            ..
        } = self;
        let block = |width: usize, mlp: usize| {
            let attention = 4 * width * width + 4 * width;
            let mlp = 2 * width * mlp + mlp + width;
            attention + mlp + 4 * width
        };
        let visual = vision.width * 3 * vision.patch_size.pow(2)
            + vision.width
            + vision.tokens() * vision.width
            + 4 * vision.width
            + vision.layers * block(vision.width, vision.mlp_width())
            + vision.width * embed_dim;
        let text = text.vocab_size * text.width
            + text.context_length * text.width
            + text.layers * block(text.width, text.mlp_width())
            + 2 * text.width
            + text.width * embed_dim;
        visual + text + 1
    }
}

impl VisionConfig {
    /// Patches along one side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Tokens of an image: the class token and one for each patch.
    pub fn tokens(&self) -> usize {
        self.grid().pow(2) + 1
    }

    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.width / self.head_width
    }

    /// Hidden features of a block's MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }
}

impl TextConfig {
    /// Hidden features of a block's MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenCLIP's `docs/model_profile.csv` and the models' own `sum(p.numel())`.
    #[test]
    fn parameter_counts_are_the_references() {
        for (name, params) in [
            ("ViT-B-32", 151_277_313),
            ("ViT-B-16", 149_620_737),
            ("ViT-L-14", 427_616_513),
            ("ViT-L-14-336", 427_944_193),
        ] {
            assert_eq!(
                ClipConfig::load(name).unwrap().num_params(),
                params,
                "{name}"
            );
        }
    }

    #[test]
    fn a_key_that_is_not_implemented_is_refused_by_name() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8,
            "head_width": 8, "patch_size": 4, "attentional_pool": true},
            "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let error = ClipConfig::from_json(json, "x.json")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "x.json: `vision_cfg.attentional_pool` = true is not implemented"
        );
        for (key, value) in [
            ("proj_type", "null"),
            ("proj_type", "\"none\""),
            ("attn_drop", "0.1"),
        ] {
            let json = json.replace("\"attentional_pool\": true", &format!("\"{key}\": {value}"));
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("`vision_cfg.{key}` = {value}")),
                "{error}"
            );
        }
        let zero = json.replace("\"attentional_pool\": true", "\"attn_drop\": 0.0");
        assert!(ClipConfig::from_json(&zero, "x.json").is_ok());
        let off = json.replace("true", "false");
        assert!(ClipConfig::from_json(&off, "x.json").is_ok());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 9,
            "head_width": 8, "patch_size": 4}, "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let error = ClipConfig::from_json(json, "x.json")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`vision_cfg.width` 9 is not a multiple"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_preset_lists_the_known_ones() {
        let error = ClipConfig::load("ViT-Z").unwrap_err().to_string();
        assert!(
            error.contains("ViT-Z") && error.contains("ViT-B-32"),
            "{error}"
        );
    }
}
