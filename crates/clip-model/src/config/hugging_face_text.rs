use serde::{Deserialize, Serialize};

use super::{TextConfig, invalid, unsupported};
use crate::{ModelError, ProjType, TextPool, encoder::hugging_face::HfTextShape};

/// How OpenCLIP makes a text's features of the tokens' that Hugging Face's model gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HfPooler {
    /// Their mean, without padding.
    #[default]
    MeanPooler,
    /// The first token's, through the model's own pooler where it has one.
    ClsPooler,
    /// The first token's as they are.
    ClsLastHiddenStatePooler,
}

/// What OpenCLIP puts after Hugging Face's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HfProjType {
    /// A matrix.
    Linear,
    /// Two layers around GELU.
    Mlp,
}

/// Which text encoder a configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextTower {
    Transformer,
    HuggingFace(HfTextShape),
}

impl HfPooler {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// OpenCLIP's.
#[allow(clippy::unnecessary_wraps)] // serde wants the field's type.
pub(super) fn default_projection() -> Option<HfProjType> {
    Some(HfProjType::Mlp)
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
pub(super) fn is_default_projection(projection: &Option<HfProjType>) -> bool {
    *projection == default_projection()
}

impl TextConfig {
    /// The text encoder that this asks for.
    ///
    /// # Panics
    /// If `hf_model_name` is not known, which [`ClipConfig::from_json`](super::ClipConfig::from_json) refuses.
    pub(crate) fn tower(&self) -> TextTower {
        match &self.hf_model_name {
            None => TextTower::Transformer,
            Some(name) => {
                let shape = self.hugging_face_shape(name);
                TextTower::HuggingFace(shape.expect("invariant: validated names are known"))
            }
        }
    }

    fn hugging_face_shape(&self, name: &str) -> Option<HfTextShape> {
        let shape = HfTextShape::by_hub_name(name)?;
        Some(HfTextShape {
            pooler: self.hf_pooler_type,
            projection: self.hf_proj_type,
            ..shape
        })
    }

    /// The configuration with the numbers of Hugging Face's model, if one is named that is known.
    pub(super) fn with_numbers_of_named(self) -> Self {
        let name = self.hf_model_name.as_deref();
        match name.and_then(|name| self.hugging_face_shape(name)) {
            Some(shape) => Self {
                vocab_size: shape.vocab_size,
                width: shape.width,
                heads: shape.heads,
                layers: shape.layers,
                mlp_ratio: shape.mlp_width as f64 / shape.width as f64,
                ..self
            },
            None => self,
        }
    }

    pub(super) fn validate_hugging_face(
        &self,
        name: &str,
        embed_dim: usize,
        origin: &str,
    ) -> Result<(), ModelError> {
        let Some(shape) = self.hugging_face_shape(name) else {
            return Err(unsupported("text_cfg.hf_model_name", &name.into(), origin));
        };
        self.refuse_transformers_keys(origin)?;
        let longest = shape.longest;
        if self.context_length > longest {
            let reason = format!(
                "`text_cfg.context_length` {} is more than the {longest} tokens that `{name}` reads",
                self.context_length
            );
            return Err(invalid(reason, origin));
        }
        if shape.projection.is_none() && shape.width != embed_dim {
            let reason = format!(
                "`text_cfg.hf_proj_type` is null, but `{name}` is {} wide and `embed_dim` {embed_dim}",
                shape.width
            );
            return Err(invalid(reason, origin));
        }
        Ok(())
    }

    /// Refuses what only OpenCLIP's own text transformers have.
    fn refuse_transformers_keys(&self, origin: &str) -> Result<(), ModelError> {
        let asked = [
            ("no_causal_mask", self.no_causal_mask),
            ("pool_type", self.pool_type != TextPool::default()),
            ("proj_type", self.proj_type != ProjType::default()),
            ("proj_bias", self.proj_bias),
            ("norm_kwargs", self.norm_kwargs.is_some()),
            ("act_kwargs", self.act_kwargs.is_some()),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((key, _)) => {
                let reason = format!(
                    "`text_cfg.{key}` is OpenCLIP's own text transformer's, and this is none"
                );
                Err(invalid(reason, origin))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ClipConfig;

    const JSON: &str = r#"{"embed_dim": 512, "vision_cfg": {"image_size": 8, "layers": 1, "width": 8,
        "head_width": 8, "patch_size": 4}, "text_cfg": {"hf_model_name": "xlm-roberta-base",
        "hf_tokenizer_name": "xlm-roberta-base", "hf_pooler_type": "mean_pooler"}}"#;

    #[test]
    fn a_named_model_brings_its_numbers() {
        let config = ClipConfig::from_json(JSON, "x.json").unwrap();
        let text = &config.text_cfg;
        assert_eq!((text.vocab_size, text.context_length), (250_002, 77));
        assert_eq!((text.width, text.heads, text.layers), (768, 12, 12));
        // As it is written, it is read again.
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(ClipConfig::from_json(&json, "y.json").unwrap(), config);
        let moved = JSON.replacen("xlm-", "FacebookAI/xlm-", 1);
        let moved = ClipConfig::from_json(&moved, "x.json").unwrap();
        assert_eq!(moved.num_params(), config.num_params());
    }

    /// 278,043,648 is what `XLMRobertaModel` counts without a pooler of 590,592.
    #[test]
    fn poolers_and_projections_are_counted() {
        let count = |from: &str, to: &str| {
            let json = JSON.replacen(from, to, 1);
            ClipConfig::from_json(&json, "x.json")
                .unwrap()
                .text_params()
        };
        let hidden = 640; // the mean of 768 and 512
        assert_eq!(count("", ""), 277_453_056 + hidden * (768 + 512));
        let linear = r#"{"hf_proj_type": "linear", "#;
        assert_eq!(
            count(r#"{"hf_m"#, &format!("{linear}\"hf_m")),
            277_453_056 + 768 * 512
        );
        let cls = count("mean_pooler", "cls_pooler");
        assert_eq!(cls - count("", ""), 590_592);
        assert_eq!(
            count("mean_pooler", "cls_last_hidden_state_pooler"),
            count("", "")
        );
    }

    #[test]
    fn what_a_named_model_has_not_is_refused() {
        for (from, to, refusal) in [
            (
                "xlm-roberta-base",
                "bert-base",
                "`text_cfg.hf_model_name` = \"bert-base\" is not implemented",
            ),
            ("mean_pooler", "max_pooler", "unknown variant `max_pooler`"),
            (
                "\"hf_pooler_type\"",
                "\"hf_proj_type\": null, \"hf_pooler_type\"",
                "`text_cfg.hf_proj_type` is null, but `xlm-roberta-base` is 768 wide",
            ),
            (
                "\"hf_pooler_type\"",
                "\"hf_proj_type\": \"none\", \"hf_pooler_type\"",
                "unknown variant `none`",
            ),
            (
                "\"hf_pooler_type\"",
                "\"context_length\": 513, \"hf_pooler_type\"",
                "`text_cfg.context_length` 513 is more than the 512 tokens",
            ),
            (
                "\"hf_pooler_type\"",
                "\"no_causal_mask\": true, \"hf_pooler_type\"",
                "`text_cfg.no_causal_mask` is OpenCLIP's own text transformer's",
            ),
        ] {
            let json = JSON.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json").unwrap_err();
            let error = clip_files::one_line(&error);
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
    }
}
