mod coca;
mod differences;
mod flops;
mod hugging_face_text;
mod text;
mod timm_vision;
mod vision;

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::hugging_face_text::TextTower;
pub use self::{
    coca::MultimodalConfig,
    differences::Difference,
    hugging_face_text::{HfPooler, HfProjType},
    text::{ActKwargs, Approximate, NormKwargs, ProjType, TextConfig, TextPool},
    vision::{Layers, Tower, VisionConfig, VisionPool},
};
use crate::{
    Clip, Init, ModelError,
    encoder::Activation,
    presets, published,
    weights::{CONFIG_FILE, ModelDir, WeightsFile, without_local_dir},
};

/// Presets that are named in the place of one that isn't known.
const NAMED: usize = 3;

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
    /// What writes captions of images, in a CoCa model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multimodal_cfg: Option<MultimodalConfig>,
    /// `x * sigmoid(1.702 x)` instead of GELU in OpenCLIP's own encoders. OpenAI's own weights need it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quick_gelu: bool,
    /// `logit_scale` of a new model. By default ln(1 / 0.07): CLIP, section 2.5. For the sigmoid loss ln 10: Zhai et
    /// al. 2023, section 3.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_scale: Option<f64>,
    /// `logit_bias` of a new model, which has one only then. -10 for the sigmoid loss: Zhai et al. 2023, section 3.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_logit_bias: Option<f64>,
    /// Whether OpenCLIP names the text encoder's parameters `text.*`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub custom_text: bool,
    /// Keys that this crate doesn't know; any that would change the model is refused by name.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// Largest of the numbers of an architecture, far beyond any model's: whatever is counted of them fits in 64 bits.
const LARGEST: usize = 1 << 16;
/// Most blocks of a tower or a stage.
const MOST_LAYERS: usize = 1 << 10;
/// Most tokens of a vocabulary.
const LARGEST_VOCABULARY: usize = 1 << 24;

fn default_mlp_ratio() -> f64 {
    4.0
}

/// Whether an unknown key leaves the model as this crate builds it: `false`, `null` and 0 switch a feature
/// off, except that a projection is there unless it is switched off.
fn is_implemented(key: &str, value: &Value) -> bool {
    match key {
        "proj_type" => value == "linear",
        _ => matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(0.0),
    }
}

impl ClipConfig {
    /// The configuration of a preset, or of a JSON file or a model directory when `name` is a path to one, with OpenCLIP's
    /// `local-dir:` before it or without.
    ///
    /// # Errors
    /// [`ModelError::UnknownPreset`], or what [`from_json`](Self::from_json) refuses.
    pub fn load(name: &str) -> Result<Self, ModelError> {
        let name = without_local_dir(name);
        if let Some(json) = presets::json(name) {
            return Self::from_json(json, &format!("preset {name}"));
        }
        let path = Path::new(name);
        if path.join(CONFIG_FILE).is_file() {
            return Ok(ModelDir::open(path)?.config);
        }
        if path.file_name().is_some_and(|name| name == CONFIG_FILE)
            && let Some(folder) = path.parent()
        {
            return Ok(ModelDir::open(folder)?.config);
        }
        if !path.is_file() {
            return Err(ModelError::UnknownPreset {
                name: name.to_owned(),
                nearest: presets::nearest(published::preset_in(name), NAMED),
            });
        }
        if WeightsFile::open(path).is_ok() {
            let reason = "these are weights, which say too little of their model: `clip weights import` makes a model \
                directory of them";
            return Err(invalid(reason.to_owned(), name));
        }
        let json = std::fs::read_to_string(path).map_err(clip_files::io("read", path))?;
        Self::from_json(&json, name)
    }

    /// Parses OpenCLIP's JSON; `origin` names it in errors.
    ///
    /// # Errors
    /// Broken JSON, numbers that don't fit together, and every key that asks for something not implemented.
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ModelError> {
        let mut config: Self =
            serde_json::from_str(json).map_err(|source| ModelError::ConfigSyntax {
                origin: origin.to_owned(),
                source,
            })?;
        config.text_cfg = config.text_cfg.with_numbers_of_named();
        config.validate(origin)?;
        Ok(config)
    }

    /// Checks what [`from_json`](Self::from_json) does, of a configuration that was changed since; `origin` names it in
    /// errors.
    ///
    /// # Errors
    /// Numbers that don't fit together, and every key that asks for something not implemented.
    pub fn validate(&self, origin: &str) -> Result<(), ModelError> {
        refuse_unknown(&self.other, "", origin)?;
        within(LARGEST, &[("embed_dim", self.embed_dim)], origin)?;
        self.vision_cfg.validate(self.embed_dim, origin)?;
        self.text_cfg.validate(self.embed_dim, origin)?;
        self.validate_decoder(origin)?;
        if self.quick_gelu && self.text_cfg.act_kwargs.is_some() {
            // OpenCLIP would pass them to a function that takes none.
            let reason = "`text_cfg.act_kwargs` are GELU's, but `quick_gelu` is true";
            return Err(invalid(reason.to_owned(), origin));
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

    /// The blocks' non-linearity, of both encoders unless one says otherwise.
    pub fn activation(&self) -> Activation {
        if self.quick_gelu {
            Activation::QuickGelu
        } else {
            Activation::Gelu
        }
    }

    /// Number of parameters, from the configuration alone. Batch norms' running statistics are none.
    pub fn num_params(&self) -> usize {
        let scalars = 1 + usize::from(self.init_logit_bias.is_some());
        self.image_params() + self.text_params() + self.decoder_params() + scalars
    }

    /// Number of the image encoder's parameters.
    pub fn image_params(&self) -> usize {
        self.vision_cfg.num_params(self.embed_dim)
    }

    /// Number of the text encoder's parameters.
    pub fn text_params(&self) -> usize {
        self.text_cfg.num_params(self.embed_dim)
    }

    /// Number of the decoder's parameters; 0 without one.
    fn decoder_params(&self) -> usize {
        let decoder = self.multimodal_cfg.as_ref();
        decoder.map_or(0, |decoder| decoder.num_params(self.text_cfg.vocab_size))
    }
}

/// Number of parameters of a transformer's block.
fn block_params(width: usize, mlp: usize) -> usize {
    let attention = 4 * width * width + 4 * width;
    let mlp = 2 * width * mlp + mlp + width;
    attention + mlp + 4 * width
}

fn invalid(reason: String, origin: &str) -> ModelError {
    ModelError::InvalidConfig {
        origin: origin.to_owned(),
        reason,
    }
}

fn unsupported(key: &str, value: &Value, origin: &str) -> ModelError {
    ModelError::UnsupportedConfig {
        origin: origin.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
    }
}

fn refuse_unknown(
    other: &Map<String, Value>,
    prefix: &str,
    origin: &str,
) -> Result<(), ModelError> {
    let asked = other
        .iter()
        .find(|(key, value)| !is_implemented(key, value));
    match asked {
        Some((key, value)) => Err(unsupported(&format!("{prefix}{key}"), value, origin)),
        None => Ok(()),
    }
}

fn within(most: usize, values: &[(&str, usize)], origin: &str) -> Result<(), ModelError> {
    match values.iter().find(|(_, value)| !(1..=most).contains(value)) {
        Some((key, 0)) => Err(invalid(format!("`{key}` must be at least 1"), origin)),
        Some((key, value)) => Err(invalid(
            format!("`{key}` {value} is more than {most}, the most that is taken for meant"),
            origin,
        )),
        None => Ok(()),
    }
}

/// Checks the hidden width of a tower's MLPs, which is `width * mlp_ratio`.
fn validate_mlp(prefix: &str, width: usize, ratio: f64, origin: &str) -> Result<(), ModelError> {
    let hidden = width as f64 * ratio;
    if (1.0..=(16 * LARGEST) as f64).contains(&hidden) {
        return Ok(());
    }
    let reason = format!(
        "`{prefix}.mlp_ratio` {ratio} gives a block's MLP a hidden width of {hidden}; 4 is usual"
    );
    Err(invalid(reason, origin))
}

fn multiple(
    (dividend, value): (&str, usize),
    (divisor, by): (&str, usize),
    origin: &str,
) -> Result<(), ModelError> {
    if value.is_multiple_of(by) {
        return Ok(());
    }
    let reason = format!("`{dividend}` {value} is not a multiple of `{divisor}` {by}");
    Err(invalid(reason, origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_not_implemented_is_refused_by_name() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8,
            "head_width": 8, "patch_size": 4, "qk_norm": true},
            "text_cfg": {"width": 8, "heads": 1, "layers": 1}}"#;
        let error = ClipConfig::from_json(json, "x.json")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "x.json: `vision_cfg.qk_norm` = true is not implemented"
        );
        for (key, value) in [
            ("proj_type", "null"),
            ("proj_type", "\"none\""),
            ("attn_drop", "0.1"),
        ] {
            let json = json.replace("\"qk_norm\": true", &format!("\"{key}\": {value}"));
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("`vision_cfg.{key}` = {value}")),
                "{error}"
            );
        }
        let zero = json.replace("\"qk_norm\": true", "\"attn_drop\": 0.0");
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
    fn numbers_that_no_model_has_are_refused() {
        let json = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "head_width": 8,
            "patch_size": 4, "mlp_ratio": 2.0}, "text_cfg": {"width": 8, "heads": 1, "layers": 1, "mlp_ratio": 4.0}}"#;
        assert!(ClipConfig::from_json(json, "x.json").is_ok());
        for (from, to, refusal) in [
            ("2.0", "0.0", "`vision_cfg.mlp_ratio` 0 gives"),
            ("2.0", "-2", "`vision_cfg.mlp_ratio` -2 gives"),
            ("4.0", "0.1", "`text_cfg.mlp_ratio` 0.1 gives"),
            ("4.0", "1e300", "`text_cfg.mlp_ratio`"),
            (
                "\"width\": 8",
                "\"width\": 100000000",
                "`vision_cfg.width` 100000000 is more than",
            ),
            (
                "\"heads\"",
                "\"vocab_size\": 99999999, \"heads\"",
                "`text_cfg.vocab_size` 99999999",
            ),
            (
                "\"layers\": 1",
                "\"layers\": 5000",
                "`vision_cfg.layers` 5000",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{error}");
        }
    }

    #[test]
    fn what_only_other_towers_have_is_refused() {
        let resnet = r#"{"embed_dim": 8, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1],
            "width": 8, "head_width": 16, "patch_size": null}, "text_cfg":
            {"width": 8, "heads": 1, "layers": 1}}"#;
        let siglip = r#"{"embed_dim": 768, "vision_cfg": {"image_size": 224, "timm_model_name":
            "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}, "text_cfg":
            {"width": 8, "heads": 1, "layers": 1}}"#;
        for json in [resnet, siglip] {
            assert!(ClipConfig::from_json(json, "x.json").is_ok());
        }
        for (json, from, to, refusal) in [
            (
                resnet,
                "64",
                "60",
                "`vision_cfg.image_size` 60 is not a multiple of `32`",
            ),
            (
                resnet,
                "[1, 1, 1, 1]",
                "[1, 0, 1, 1]",
                "`vision_cfg.layers` must be at least 1",
            ),
            (
                resnet,
                "[1, 1, 1, 1]",
                "12",
                "`vision_cfg.patch_size` is null",
            ),
            (
                resnet,
                "null",
                "null, \"patch_dropout\": 0.5",
                "`vision_cfg.patch_dropout`",
            ),
            (
                siglip,
                "siglip_224",
                "siglip_225",
                "`vision_cfg.timm_model_name` = \"vit_base",
            ),
            (
                siglip,
                "map",
                "avg",
                "`vision_cfg.timm_pool` = \"avg\" is not implemented",
            ),
            (
                siglip,
                "\"none\"",
                "\"linear\"",
                "`vision_cfg.timm_proj` = \"linear\"",
            ),
            (
                siglip,
                "224, ",
                "256, ",
                "`vision_cfg.image_size` 256 does not fit",
            ),
            (siglip, "768", "512", "`embed_dim` 512 does not fit"),
            (
                siglip,
                "224, ",
                "224, \"no_ln_pre\": true, ",
                "`vision_cfg.no_ln_pre` is a vision transformer's",
            ),
            (
                resnet,
                "null",
                "null, \"pool_type\": \"avg\"",
                "`vision_cfg.pool_type` is a vision transformer's",
            ),
            (
                siglip,
                "\"heads\"",
                "\"proj_type\": \"none\", \"heads\"",
                "without a projection",
            ),
            (
                siglip,
                "\"heads\"",
                "\"pool_type\": \"none\", \"heads\"",
                "unknown variant `none`",
            ),
            (
                siglip,
                "\"heads\"",
                "\"embed_cls\": true, \"heads\"",
                "`text_cfg.embed_cls` is for models",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json").unwrap_err();
            let error = clip_files::one_line(&error);
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
    }

    #[test]
    fn what_a_convnext_has_not_is_refused() {
        let json = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 224, "timm_model_name": "convnext_tiny",
            "timm_pool": "", "timm_proj": "linear", "timm_drop_path": 0.1}, "text_cfg": {"width": 8, "heads": 1,
            "layers": 1}}"#;
        assert!(ClipConfig::from_json(json, "x.json").is_ok());
        for (from, to, refusal) in [
            (
                "\"\"",
                "\"abs_attn\"",
                "`vision_cfg.timm_pool` = \"abs_attn\" is not implemented",
            ),
            (
                "\"linear\"",
                "null",
                "`vision_cfg.timm_proj` = null is not implemented",
            ),
            ("224", "31", "`vision_cfg.image_size` 31 leaves nothing"),
            (
                "224",
                "224, \"patch_dropout\": 0.5",
                "`vision_cfg.patch_dropout` = 0.5",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
        let siglip = json
            .replace("convnext_tiny", "vit_base_patch16_siglip_224")
            .replace("\"\"", "\"map\"")
            .replace("linear", "none");
        let error = ClipConfig::from_json(&siglip, "x.json").unwrap_err();
        let refusal = "`vision_cfg.timm_drop_path` = 0.1 is not implemented";
        assert!(error.to_string().contains(refusal), "{error}");
    }
}
