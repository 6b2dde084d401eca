use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ClipConfig, LARGEST, MOST_LAYERS, block_params, invalid, multiple, refuse_unknown,
    text::{
        default_context_length, default_heads, default_layers, default_vocab_size, default_width,
    },
    unsupported, within,
};
use crate::ModelError;

/// Hidden features of a decoder's MLPs, in multiples of its width: `OpenCLIP` reads no other.
const MLP_RATIO: usize = 4;

/// The decoder that writes captions of images in a CoCa model.
///
/// # References
/// Yu et al. 2022, [CoCa: Contrastive Captioners are Image-Text Foundation
/// Models](https://arxiv.org/abs/2205.01917), section 3.2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MultimodalConfig {
    /// Most tokens that it reads. 77, like the numbers below: `OpenCLIP`'s.
    #[serde(default = "default_context_length")]
    pub context_length: usize,
    /// Unused: the text encoder's counts.
    #[serde(default = "default_vocab_size")]
    pub vocab_size: usize,
    /// Features of a token, of the text encoder's and of the image's.
    #[serde(default = "default_width")]
    pub width: usize,
    /// Attention heads.
    #[serde(default = "default_heads")]
    pub heads: usize,
    /// Blocks of each kind: one that mixes a caption's tokens, then one that attends to the image's.
    #[serde(default = "default_layers")]
    pub layers: usize,
    /// 4, the one that `OpenCLIP` builds, whatever is asked for.
    #[serde(
        default = "default_mlp_ratio",
        skip_serializing_if = "is_default_mlp_ratio"
    )]
    pub mlp_ratio: usize,
    /// Unused, as in `OpenCLIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim_head: Option<usize>,
    /// Unused, as in `OpenCLIP`: `vision_cfg.attn_pooler_queries` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_queries: Option<usize>,
    /// Unused, as in `OpenCLIP`: `vision_cfg.attn_pooler_heads` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_pooler_heads: Option<usize>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

fn default_mlp_ratio() -> usize {
    MLP_RATIO
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_default_mlp_ratio(ratio: &usize) -> bool {
    *ratio == MLP_RATIO
}

impl MultimodalConfig {
    /// Hidden features of a block's MLP.
    pub fn mlp_width(&self) -> usize {
        self.width * MLP_RATIO
    }

    /// Number of parameters, of a decoder into a vocabulary.
    pub(super) fn num_params(&self, vocab_size: usize) -> usize {
        let block = block_params(self.width, self.mlp_width());
        let norm = 2 * self.width;
        self.layers * (2 * block + norm) + norm + self.width * vocab_size
    }

    fn validate(&self, model: &ClipConfig, origin: &str) -> Result<(), ModelError> {
        refuse_unknown(&self.other, "multimodal_cfg.", origin)?;
        if self.mlp_ratio != MLP_RATIO {
            let ratio = self.mlp_ratio.into();
            return Err(unsupported("multimodal_cfg.mlp_ratio", &ratio, origin));
        }
        let width = ("multimodal_cfg.width", self.width);
        within(
            LARGEST,
            &[width, ("multimodal_cfg.heads", self.heads)],
            origin,
        )?;
        within(
            MOST_LAYERS,
            &[("multimodal_cfg.layers", self.layers)],
            origin,
        )?;
        multiple(width, ("multimodal_cfg.heads", self.heads), origin)?;
        let (vision, text) = (&model.vision_cfg, &model.text_cfg);
        let of_images = if vision.attentional_pool {
            ("embed_dim", model.embed_dim)
        } else {
            ("vision_cfg.width", vision.width)
        };
        for (key, got) in [of_images, ("text_cfg.width", text.width)] {
            if got != self.width {
                let reason = format!(
                    "`multimodal_cfg.width` {} must be `{key}` {got}: the decoder reads tokens of that width",
                    self.width
                );
                return Err(invalid(reason, origin));
            }
        }
        if self.context_length < text.context_length {
            let reason = format!(
                "`multimodal_cfg.context_length` {} is less than `text_cfg.context_length` {}",
                self.context_length, text.context_length
            );
            return Err(invalid(reason, origin));
        }
        Ok(())
    }
}

impl ClipConfig {
    /// Checks that a decoder is there together with what it reads.
    pub(super) fn validate_decoder(&self, origin: &str) -> Result<(), ModelError> {
        let (vision, text) = (&self.vision_cfg, &self.text_cfg);
        let parts = [
            ("vision_cfg.output_tokens", vision.output_tokens),
            ("text_cfg.output_tokens", text.output_tokens),
            ("text_cfg.embed_cls", text.embed_cls),
        ];
        let Some(decoder) = &self.multimodal_cfg else {
            return match parts.into_iter().find(|(_, asked)| *asked) {
                Some((key, _)) => {
                    let reason = format!("`{key}` is for models with `multimodal_cfg`");
                    Err(invalid(reason, origin))
                }
                None => Ok(()),
            };
        };
        if vision.timm_model_name.is_some() || text.hf_model_name.is_some() {
            let reason = "`multimodal_cfg` is implemented beside OpenCLIP's own transformers alone";
            return Err(invalid(reason.to_owned(), origin));
        }
        let mut parts = parts.into_iter().chain([("custom_text", self.custom_text)]);
        if let Some((key, _)) = parts.find(|(_, asked)| !asked) {
            let reason = format!("`{key}` must be true beside `multimodal_cfg`");
            return Err(invalid(reason, origin));
        }
        decoder.validate(self, origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_and_what_it_reads_belong_together() {
        let json = crate::presets::json("coca_ViT-B-32").unwrap();
        let config = ClipConfig::from_json(json, "x.json").unwrap();
        let kept: Value = serde_json::to_value(&config).unwrap();
        let again = ClipConfig::from_json(&kept.to_string(), "x.json").unwrap();
        assert_eq!(again, config);
        for (from, to, refusal) in [
            (
                "\"custom_text\": true",
                "\"custom_text\": false",
                "`custom_text` must be true",
            ),
            (
                "\"embed_cls\": true",
                "\"embed_cls\": false",
                "`text_cfg.embed_cls` must be true",
            ),
            ("multimodal_cfg", "multimodal_cfg2", "`multimodal_cfg2` ="),
            (
                "\"embed_dim\": 512",
                "\"embed_dim\": 768",
                "must be `embed_dim` 768",
            ),
            (
                "\"attentional_pool\": true,",
                "",
                "must be `vision_cfg.width` 768",
            ),
            (
                "\"attentional_pool\": true",
                "\"attentional_pool\": true, \"pool_type\": \"avg\"",
                "`vision_cfg.pool_type`",
            ),
            (
                "\"attn_pooler_heads\": 8,",
                "\"attn_pooler_heads\": 7,",
                "`vision_cfg.attn_pooler_heads` 7",
            ),
            (
                "\"embed_cls\": true",
                "\"embed_cls\": true, \"no_causal_mask\": true",
                "`text_cfg.no_causal_mask`",
            ),
            (
                "\"embed_cls\": true",
                "\"embed_cls\": true, \"correct_cls_mask\": true",
                "`text_cfg.correct_cls_mask` = true",
            ),
        ] {
            let json = json.replacen(from, to, 1);
            let error = ClipConfig::from_json(&json, "x.json")
                .unwrap_err()
                .to_string();
            assert!(error.contains(refusal), "{refusal}: {error}");
        }
        let mut plain = serde_json::to_value(&config).unwrap();
        plain.as_object_mut().unwrap().remove("multimodal_cfg");
        let error = ClipConfig::from_json(&plain.to_string(), "x.json").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("for models with `multimodal_cfg`"),
            "{error}"
        );
    }
}
