use burn::tensor::{Int, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    LARGEST, LARGEST_VOCABULARY, MOST_LAYERS, block_params, default_mlp_ratio,
    hugging_face_text::{
        HfPooler, HfProjType, TextTower, default_projection, is_default_projection,
    },
    invalid, multiple, refuse_unknown, validate_mlp, within,
};
use crate::{
    ModelError,
    encoder::{Activation, LAYER_NORM_EPSILON, TextEnd, coca::COCA_PADDING, hugging_face::PADDING},
    presets,
};

/// A text encoder's architecture: a text transformer's, or one of Hugging Face's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // OpenCLIP's keys.
pub struct TextConfig {
    /// Longest caption, in tokens, start and end included. 77: CLIP's code.
    #[serde(default = "default_context_length")]
    pub context_length: usize,
    /// Tokens of the vocabulary. 49,408: CLIP's own; any other asks for one trained on the run's captions,
    /// but for Hugging Face's encoders, whose tokenizer comes with weights.
    #[serde(default = "default_vocab_size")]
    pub vocab_size: usize,
    /// Features of a token. 512, like the two that follow: OpenCLIP's.
    #[serde(default = "default_width")]
    pub width: usize,
    /// Attention heads.
    #[serde(default = "default_heads")]
    pub heads: usize,
    /// Transformer blocks.
    #[serde(default = "default_layers")]
    pub layers: usize,
    /// Hidden features of a block's MLP, in multiples of `width`.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Whether tokens attend to later ones too, as SigLIP's do; padding then counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_causal_mask: bool,
    /// Which token's features are the text's.
    #[serde(default, skip_serializing_if = "TextPool::is_default")]
    pub pool_type: TextPool,
    /// The end token's id, where `pool_type` is `eos`. 2: OpenCLIP's.
    #[serde(default = "default_eos_id", skip_serializing_if = "is_default_eos_id")]
    pub eos_id: i32,
    /// Whether a class token after the context pools the text: CoCa's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embed_cls: bool,
    /// Whether a decoder reads the tokens: CoCa's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_tokens: bool,
    /// What follows the blocks.
    #[serde(default, skip_serializing_if = "ProjType::is_default")]
    pub proj_type: ProjType,
    /// Whether the projection has a bias.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proj_bias: bool,
    /// Of every layer norm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_kwargs: Option<NormKwargs>,
    /// Of GELU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act_kwargs: Option<ActKwargs>,
    /// Name of one of Hugging Face's text encoders, whose numbers then replace `vocab_size`, `width`, `heads`, `layers` and
    /// `mlp_ratio`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_model_name: Option<String>,
    /// What follows Hugging Face's model: `mlp`, `linear`, or null where its width is `embed_dim`.
    #[serde(
        default = "default_projection",
        skip_serializing_if = "is_default_projection"
    )]
    pub hf_proj_type: Option<HfProjType>,
    /// How OpenCLIP makes a text's features of the tokens' that Hugging Face's model gives.
    #[serde(default, skip_serializing_if = "HfPooler::is_default")]
    pub hf_pooler_type: HfPooler,
    /// Whether OpenCLIP begins with the hub's weights for Hugging Face's model; unused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_model_pretrained: Option<bool>,
    /// Where OpenCLIP finds the tokenizer when it isn't CLIP's own. Here it says only that: a model directory carries its
    /// tokenizer in a file, and a new model whose vocabulary isn't CLIP's learns one from its captions, if its encoder has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf_tokenizer_name: Option<String>,
    /// Keyword arguments for OpenCLIP's tokenizer: how captions are cleaned before they are cut into tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_kwargs: Option<Value>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// Which token's features are the text's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPool {
    /// The first.
    First,
    /// The last of the whole context: SigLIP's.
    Last,
    /// The token of the highest id, which is the end token's in CLIP's vocabulary.
    #[default]
    Argmax,
    /// The first whose id is `eos_id`.
    Eos,
}

/// What follows the blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProjType {
    /// A projection into the joint space.
    #[default]
    Linear,
    /// Nothing.
    None,
}

/// Keyword arguments of PyTorch's layer norm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NormKwargs {
    /// Added to variances.
    pub eps: f64,
}

/// Keyword arguments of PyTorch's GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActKwargs {
    /// How the function is computed.
    pub approximate: Approximate,
}

/// How GELU is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approximate {
    /// Exactly.
    None,
    /// By its approximation with tanh: SigLIP 2's.
    Tanh,
}

pub(super) fn default_context_length() -> usize {
    77
}

pub(super) fn default_vocab_size() -> usize {
    presets::CLIP_VOCAB_SIZE
}

pub(super) fn default_width() -> usize {
    512
}

pub(super) fn default_heads() -> usize {
    8
}

pub(super) fn default_layers() -> usize {
    12
}

fn default_eos_id() -> i32 {
    2
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_default_eos_id(id: &i32) -> bool {
    *id == default_eos_id()
}

impl TextPool {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Where each text's token is.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`
    /// - returns `[batch, 1]`
    pub(crate) fn positions(self, tokens: &Tensor<2, Int>, eos_id: i32) -> Tensor<2, Int> {
        let [batch, length] = tokens.dims();
        let at = |position: usize| Tensor::full([batch, 1], position as i64, &tokens.device());
        match self {
            Self::First => at(0),
            Self::Last => at(length - 1),
            Self::Argmax => tokens.clone().argmax(1),
            Self::Eos => tokens.clone().equal_elem(eos_id).int().argmax(1),
        }
    }
}

impl ProjType {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TextConfig {
    /// Hidden features of a block's MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    /// The blocks' non-linearity, where the model's is GELU.
    pub fn activation(&self, model: Activation) -> Activation {
        let tanh = ActKwargs {
            approximate: Approximate::Tanh,
        };
        if self.act_kwargs == Some(tanh) {
            Activation::GeluTanh
        } else {
            model
        }
    }

    /// What every layer norm adds to variances.
    pub fn layer_norm_epsilon(&self) -> f64 {
        self.norm_kwargs.map_or(LAYER_NORM_EPSILON, |norm| norm.eps)
    }

    /// Whether the vocabulary is CLIP's own where no tokenizer lies beside the weights: it is as large, and no other is named.
    pub fn may_be_clips_vocabulary(&self) -> bool {
        self.vocab_size == presets::CLIP_VOCAB_SIZE && self.hf_tokenizer_name.is_none()
    }

    /// Where a caption is over for the text encoder.
    pub fn end(&self) -> TextEnd {
        match self.hf_model_name {
            Some(_) => TextEnd::BeforePadding(PADDING),
            None if self.embed_cls => TextEnd::BeforePadding(COCA_PADDING),
            None => TextEnd::of_transformer(!self.no_causal_mask, self.pool_type),
        }
    }

    /// Number of parameters.
    pub(super) fn num_params(&self, embed_dim: usize) -> usize {
        if let TextTower::HuggingFace(shape) = self.tower() {
            return shape.num_params(embed_dim);
        }
        let projection = match (self.proj_type, self.proj_bias) {
            (ProjType::None, _) => 0,
            (ProjType::Linear, false) => self.width * embed_dim,
            (ProjType::Linear, true) => (self.width + 1) * embed_dim,
        };
        let class_token = if self.embed_cls { 2 * self.width } else { 0 }; // it and its position
        self.vocab_size * self.width
            + self.context_length * self.width
            + class_token
            + self.layers * block_params(self.width, self.mlp_width())
            + 2 * self.width
            + projection
    }

    pub(super) fn validate(&self, embed_dim: usize, origin: &str) -> Result<(), ModelError> {
        refuse_unknown(&self.other, "text_cfg.", origin)?;
        within(
            LARGEST,
            &[
                ("text_cfg.width", self.width),
                ("text_cfg.heads", self.heads),
                ("text_cfg.context_length", self.context_length),
            ],
            origin,
        )?;
        within(MOST_LAYERS, &[("text_cfg.layers", self.layers)], origin)?;
        let vocabulary = ("text_cfg.vocab_size", self.vocab_size);
        within(LARGEST_VOCABULARY, &[vocabulary], origin)?;
        validate_mlp("text_cfg", self.width, self.mlp_ratio, origin)?;
        multiple(
            ("text_cfg.width", self.width),
            ("text_cfg.heads", self.heads),
            origin,
        )?;
        if self.context_length < 3 || self.vocab_size < 3 {
            let reason = "`text_cfg.context_length` and `text_cfg.vocab_size` must be at least 3: \
                          a start token, an end token and one between";
            return Err(invalid(reason.to_owned(), origin));
        }
        if let Some(name) = &self.hf_model_name {
            return self.validate_hugging_face(name, embed_dim, origin);
        }
        if self.embed_cls && self.no_causal_mask {
            let reason = "`text_cfg.no_causal_mask` is not implemented beside `text_cfg.embed_cls`";
            return Err(invalid(reason.to_owned(), origin));
        }
        if self.proj_type == ProjType::None && self.width != embed_dim {
            let reason = format!(
                "`text_cfg.width` {} must be `embed_dim` {embed_dim} without a projection",
                self.width
            );
            return Err(invalid(reason, origin));
        }
        Ok(())
    }
}
