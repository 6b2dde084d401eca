use serde::Deserialize;
use serde_json::{Value, json};

use crate::{ClipConfig, Layers, ModelError, ProjType, TextPool, VisionPool, weights::FloatType};

/// `config.json` as far as the model depends on it; the defaults are transformers'.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    model_type: String,
    projection_dim: usize,
    #[serde(rename = "text_config")]
    text: Tower,
    #[serde(rename = "vision_config")]
    vision: Tower,
}

/// Either encoder's part, of which each uses its own keys.
#[derive(Deserialize, Default)]
struct Tower {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_channels: Option<usize>,
    max_position_embeddings: Option<usize>,
    vocab_size: Option<usize>,
    eos_token_id: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: String::new(),
            projection_dim: 512,
            text: Tower::default(),
            vision: Tower::default(),
        }
    }
}

/// What transformers uses where `config.json` is silent (`CLIPTextConfig` and `CLIPVisionConfig`).
struct Defaults {
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
}

const TEXT: Defaults = Defaults {
    hidden_size: 512,
    intermediate_size: 2048,
    num_attention_heads: 8,
};
const VISION: Defaults = Defaults {
    hidden_size: 768,
    intermediate_size: 3072,
    num_attention_heads: 12,
};
const LAYERS: usize = 12;
/// The end of text, unless a configuration names another.
const END: usize = 49_407;
/// What files from before transformers pooled by the end of text name, whatever their tokenizer's is: the highest token is
/// the end.
const LEGACY_END: usize = 2;

/// The only epsilon of layer norms that is implemented.
const EPSILON: f64 = 1e-5;

/// The architecture that a `config.json` describes.
pub(in crate::weights) fn from_config(json: &str, origin: &str) -> Result<ClipConfig, ModelError> {
    let config: Config = serde_json::from_str(json).map_err(|source| ModelError::ConfigSyntax {
        origin: origin.to_owned(),
        source,
    })?;
    let refuse = |key: &str, value: &dyn std::fmt::Debug| ModelError::UnsupportedConfig {
        origin: origin.to_owned(),
        key: key.to_owned(),
        value: format!("{value:?}"),
    };
    let Config {
        model_type,
        projection_dim,
        text,
        vision,
    } = config;
    if model_type != "clip" {
        return Err(refuse("model_type", &model_type));
    }
    for (tower, name) in [(&text, "text_config"), (&vision, "vision_config")] {
        let epsilon = tower.layer_norm_eps.unwrap_or(EPSILON);
        if (epsilon - EPSILON).abs() > 1e-12 {
            return Err(refuse(&format!("{name}.layer_norm_eps"), &epsilon));
        }
    }
    if vision.num_channels.is_some_and(|channels| channels != 3) {
        return Err(refuse("vision_config.num_channels", &vision.num_channels));
    }
    let text_activation = text
        .quick_gelu()
        .map_err(|other| refuse("text_config.hidden_act", &other))?;
    let quick_gelu = vision
        .quick_gelu()
        .map_err(|other| refuse("vision_config.hidden_act", &other))?;
    if text_activation != quick_gelu {
        return Err(refuse(
            "vision_config.hidden_act` unlike `text_config.hidden_act",
            &vision.hidden_act,
        ));
    }
    let (text_width, text_ratio, heads) = text.sizes(&TEXT);
    let (width, ratio, vision_heads) = vision.sizes(&VISION);
    let head_width = width / vision_heads.max(1);
    let vocab_size = text.vocab_size.unwrap_or(crate::presets::CLIP_VOCAB_SIZE);
    let mut config = json!({
        "embed_dim": projection_dim,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": vision.image_size.unwrap_or(224),
            "layers": vision.num_hidden_layers.unwrap_or(LAYERS),
            "width": width,
            "head_width": head_width,
            "mlp_ratio": ratio,
            "patch_size": vision.patch_size.unwrap_or(32),
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings.unwrap_or(77),
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": heads,
            "layers": text.num_hidden_layers.unwrap_or(LAYERS),
            "mlp_ratio": text_ratio,
        },
    });
    if let Some(end) = text.end_below_the_highest(vocab_size) {
        config["text_cfg"]["pool_type"] = json!("eos");
        config["text_cfg"]["eos_id"] = json!(end);
    }
    ClipConfig::from_json(&config.to_string(), origin)
}

impl Tower {
    /// Whether it uses QuickGELU, as it does unless it says otherwise; or what is not implemented.
    fn quick_gelu(&self) -> Result<bool, String> {
        match self.hidden_act.as_deref() {
            None | Some("quick_gelu") => Ok(true),
            Some("gelu") => Ok(false),
            Some(other) => Err(other.to_owned()),
        }
    }

    /// The end of text where it isn't the highest token, which needs no name: `CLIPTextModel` pools at it.
    fn end_below_the_highest(&self, vocab_size: usize) -> Option<usize> {
        let end = self.eos_token_id.unwrap_or(END);
        (end != LEGACY_END && end + 1 < vocab_size).then_some(end)
    }

    /// Width, the MLP's width in multiples of it, and heads.
    fn sizes(&self, defaults: &Defaults) -> (usize, f64, usize) {
        let width = self.hidden_size.unwrap_or(defaults.hidden_size);
        let hidden = self.intermediate_size.unwrap_or(defaults.intermediate_size);
        let heads = self
            .num_attention_heads
            .unwrap_or(defaults.num_attention_heads);
        (width, mlp_ratio(width, hidden), heads)
    }
}

/// The smallest ratio of which `width` times makes `hidden` when rounded down, as the encoders do.
pub(in crate::weights) fn mlp_ratio(width: usize, hidden: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    if (width as f64 * ratio) as usize == hidden {
        ratio
    } else {
        ratio.next_up()
    }
}

/// The tokens that `CLIPTextModel` needs to know: it pools at the first end of text.
#[derive(Clone, Copy, Debug)]
pub struct TextTokens {
    /// Start of text.
    pub start: u32,
    /// End of text.
    pub end: u32,
}

/// A `config.json` for `CLIPModel`.
pub(in crate::weights) fn to_config(
    config: &ClipConfig,
    tokens: TextTokens,
    dtype: FloatType,
) -> Result<Value, ModelError> {
    let (text, vision) = (&config.text_cfg, &config.vision_cfg);
    if let Some(key) = beyond_clip_model(config) {
        return Err(ModelError::NotHuggingFace {
            reason: format!("it has nothing like {key}"),
        });
    }
    // transformers takes 2 for the end of text of models from before it pooled by that token.
    if tokens.end == LEGACY_END as u32 {
        return Err(ModelError::NotHuggingFace {
            reason: "the end of text is token 2, which it treats otherwise".to_owned(),
        });
    }
    let activation = if config.quick_gelu {
        "quick_gelu"
    } else {
        "gelu"
    };
    Ok(json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype.torch_name(),
        "torch_dtype": dtype.torch_name(), // what transformers before 4.56 read
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": crate::INITIAL_LOGIT_SCALE,
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width(),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "projection_dim": config.embed_dim,
            "hidden_act": activation,
            "layer_norm_eps": EPSILON,
            "bos_token_id": tokens.start,
            "eos_token_id": tokens.end,
            "pad_token_id": tokens.end,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": 3,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width(),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads(),
            "projection_dim": config.embed_dim,
            "hidden_act": activation,
            "layer_norm_eps": EPSILON,
        },
    }))
}

/// The first key that asks for what `CLIPModel` doesn't compute, whatever the parameters are called.
fn beyond_clip_model(config: &ClipConfig) -> Option<&'static str> {
    let (text, vision) = (&config.text_cfg, &config.vision_cfg);
    let pools_at_the_end = matches!(text.pool_type, TextPool::Argmax | TextPool::Eos);
    [
        (
            "`vision_cfg.timm_model_name`",
            vision.timm_model_name.is_some(),
        ),
        (
            "a residual network (`vision_cfg.layers`)",
            matches!(vision.layers, Layers::Stages(_)),
        ),
        ("`multimodal_cfg`", config.multimodal_cfg.is_some()),
        ("`vision_cfg.attentional_pool`", vision.attentional_pool),
        ("`vision_cfg.no_ln_pre`", vision.no_ln_pre),
        ("`vision_cfg.ls_init_value`", vision.ls_init_value.is_some()),
        (
            "`vision_cfg.pool_type`",
            vision.pool_type != VisionPool::Tok,
        ),
        ("`text_cfg.hf_model_name`", text.hf_model_name.is_some()),
        ("`text_cfg.no_causal_mask`", text.no_causal_mask),
        ("`text_cfg.pool_type`", !pools_at_the_end),
        ("`text_cfg.proj_bias`", text.proj_bias),
        ("`text_cfg.proj_type`", text.proj_type != ProjType::Linear),
        ("`text_cfg.norm_kwargs`", text.norm_kwargs.is_some()),
        ("`text_cfg.act_kwargs`", text.act_kwargs.is_some()),
        ("`init_logit_bias`", config.init_logit_bias.is_some()),
    ]
    .into_iter()
    .find_map(|(key, asked)| asked.then_some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_hugging_faces_form() {
        let tokens = TextTokens {
            start: 49_406,
            end: 49_407,
        };
        for name in ["ViT-B-32-quickgelu", "ViT-L-14-336", "ViT-Nano-6-36"] {
            let config = ClipConfig::load(name).unwrap();
            let theirs = to_config(&config, tokens, FloatType::F32).unwrap();
            let back = from_config(&theirs.to_string(), "config.json").unwrap();
            assert_eq!(back, config, "{name}");
        }
    }

    #[test]
    fn what_clip_model_cannot_hold_is_refused_by_name() {
        let tokens = TextTokens {
            start: 49_406,
            end: 49_407,
        };
        for (preset, name) in [
            ("RN50", "a residual network (`vision_cfg.layers`)"),
            ("ViT-B-16-SigLIP", "`vision_cfg.timm_model_name`"),
            ("roberta-ViT-B-32", "`text_cfg.hf_model_name`"),
            ("coca_ViT-B-32", "`multimodal_cfg`"),
        ] {
            let config = ClipConfig::load(preset).unwrap();
            let error = to_config(&config, tokens, FloatType::F32).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
        let mut config = ClipConfig::load("ViT-Nano-6-36").unwrap();
        config.text_cfg.no_causal_mask = true;
        let error = to_config(&config, tokens, FloatType::F32).unwrap_err();
        assert!(error.to_string().contains("no_causal_mask"), "{error}");
    }

    /// `openai/clip-vit-base-patch32` says little more than this: the rest are transformers' defaults.
    #[test]
    fn defaults_are_openais_base_model() {
        let config = from_config(r#"{"model_type": "clip"}"#, "config.json").unwrap();
        assert_eq!(config, ClipConfig::load("ViT-B-32-quickgelu").unwrap());
    }

    /// `CLIPTextTransformer.forward`: the highest token where `eos_token_id` is 2, else the first that equals it.
    #[test]
    fn text_is_pooled_at_the_end_that_is_named() {
        let pooled = |text: &str| {
            let json = format!(r#"{{"model_type": "clip", "text_config": {{{text}}}}}"#);
            let text = from_config(&json, "config.json").unwrap().text_cfg;
            (text.pool_type, text.eos_id)
        };
        let highest = pooled("");
        assert_eq!(highest.0, TextPool::Argmax);
        for text in [
            r#""eos_token_id": 2"#,
            r#""eos_token_id": 49407"#,
            r#""vocab_size": 1000, "eos_token_id": 999"#,
            r#""vocab_size": 1000"#,
        ] {
            assert_eq!(pooled(text), highest, "{text}");
        }
        let named = pooled(r#""vocab_size": 1000, "eos_token_id": 3"#);
        assert_eq!((named.0, named.1), (TextPool::Eos, 3));
        let longer = pooled(r#""vocab_size": 50000"#);
        assert_eq!((longer.0, longer.1), (TextPool::Eos, 49_407));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (json, name) in [
            (r#"{"model_type": "siglip"}"#, "model_type"),
            (
                r#"{"model_type": "clip", "text_config": {"hidden_act": "silu"}}"#,
                "text_config.hidden_act",
            ),
            (
                r#"{"model_type": "clip", "text_config": {"hidden_act": "gelu"}}"#,
                "unlike",
            ),
            (
                r#"{"model_type": "clip", "vision_config": {"layer_norm_eps": 1e-6}}"#,
                "vision_config.layer_norm_eps",
            ),
        ] {
            let error = from_config(json, "config.json").unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    /// Width and MLP of OpenCLIP's g/14 and bigG/14, whose ratios are no whole numbers.
    #[test]
    fn a_ratio_gives_back_its_width() {
        for (width, hidden) in [(1408, 6144), (1664, 8192), (768, 3072), (3, 7), (0, 0)] {
            assert_eq!((width as f64 * mlp_ratio(width, hidden)) as usize, hidden);
        }
    }
}
