use std::iter::repeat_n;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    LARGEST, MOST_LAYERS, block_params, default_mlp_ratio, invalid, multiple, refuse_unknown,
    validate_mlp, within,
};
use crate::{
    ModelError,
    encoder::{
        coca::AttentionalPooler,
        convnext::ConvNeXtShape,
        eva::EvaShape,
        fastvit::FastVitShape,
        modified_resnet::ModifiedResNet,
        rising,
        siglip::{SiglipShape, SiglipVisionTransformer},
        timm_vit::TimmVitShape,
        vitamin::ViTaminShape,
    },
};

/// An image encoder's architecture: a vision transformer's, a `ModifiedResNet`'s, or one that timm has a name for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // OpenCLIP's keys.
pub struct VisionConfig {
    /// Side of the square input, in pixels.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    /// Blocks of a transformer, or the bottlenecks of a residual network's four stages.
    #[serde(default)]
    pub layers: Layers,
    /// Features of a token; channels after a residual network's stem.
    #[serde(default = "default_width")]
    pub width: usize,
    /// Features of an attention head; `width / head_width` heads, in a residual network `32 * width / head_width`.
    /// 64: CLIP, table 19.
    #[serde(default = "default_head_width")]
    pub head_width: usize,
    /// Hidden features of a block's MLP, in multiples of `width`. 4: Vaswani et al. 2017.
    #[serde(default = "default_mlp_ratio")]
    pub mlp_ratio: f64,
    /// Side of a square patch, in pixels. `null` in a residual network's configuration.
    #[serde(default = "default_patch_size")]
    pub patch_size: Option<usize>,
    /// Whether nothing is normed before the blocks: CLIPA's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_ln_pre: bool,
    /// What layer scales begin with, which the blocks have only then. 1e-4 in OpenCLIP's presets: Touvron et al. 2021,
    /// for 18 to 24 blocks 1e-5, for fewer 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ls_init_value: Option<f64>,
    /// Which tokens' features are the image's.
    #[serde(default, skip_serializing_if = "VisionPool::is_default")]
    pub pool_type: VisionPool,
    /// Whether the norm after the blocks follows the pooling: CLIPA's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub final_ln_after_pool: bool,
    /// Whether learned queries attend to the tokens after the blocks, the first for the image's features: CoCa's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attentional_pool: bool,
    /// How many queries. 256, like the heads below: `OpenCLIP`'s; Yu et al. 2022, section 3.2, for captions.
    #[serde(
        default = "default_attn_pooler_queries",
        skip_serializing_if = "is_default_attn_pooler_queries"
    )]
    pub attn_pooler_queries: usize,
    /// Their attention heads.
    #[serde(
        default = "default_attn_pooler_heads",
        skip_serializing_if = "is_default_attn_pooler_heads"
    )]
    pub attn_pooler_heads: usize,
    /// Whether a decoder reads the tokens that aren't the image's features: CoCa's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_tokens: bool,
    /// Share of patch tokens dropped in training, in `[0, 1)`.
    #[serde(default)]
    pub patch_dropout: f64,
    /// Name of one of timm's SigLIP, `ConvNeXt`, `Eva`, `FastVit`, `MobileCLIP` or `ViTamin` models, whose numbers then count
    /// instead of `layers`, `width`, `head_width`, `mlp_ratio` and `patch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timm_model_name: Option<String>,
    /// How timm's model makes features of tokens or places: `map` (attention) of a SigLIP model and a Perception Encoder,
    /// `token` (the class token's) of EVA and of `MobileCLIP`'s vision transformers, `avg` (OpenCLIP's default) of a `FastVit`,
    /// and of a `ConvNeXt` or a `ViTamin`, where an empty name means it too.
    #[serde(
        default = "default_timm_pool",
        skip_serializing_if = "is_default_timm_pool"
    )]
    pub timm_pool: Option<String>,
    /// What follows timm's model: `none` after a SigLIP model, `linear` (OpenCLIP's default) or `mlp` after a `ConvNeXt` or a
    /// `ViTamin`, and `null` after the others, which have a projection of their own.
    #[serde(
        default = "default_timm_proj",
        skip_serializing_if = "is_default_timm_proj"
    )]
    pub timm_proj: Option<String>,
    /// Share of images that skip the last block in training, rising from 0 at the first (stochastic depth: Huang et al. 2016,
    /// [Deep Networks with Stochastic Depth](https://arxiv.org/abs/1603.09382)), of a `ConvNeXt`, a `ViTamin`'s transformer and
    /// a vision transformer of timm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timm_drop_path: Option<f64>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// Which tokens' features are the image's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VisionPool {
    /// The class token's features.
    #[default]
    Tok,
    /// The mean of the patches': CLIPA's.
    Avg,
}

impl VisionPool {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Depth of an image encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// A transformer's blocks.
    Blocks(usize),
    /// The bottlenecks of a residual network's stages.
    Stages([usize; 4]),
}

/// OpenCLIP's, which are ViT-B/16's.
impl Default for Layers {
    fn default() -> Self {
        Self::Blocks(12)
    }
}

fn default_attn_pooler_queries() -> usize {
    256
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_default_attn_pooler_queries(queries: &usize) -> bool {
    *queries == default_attn_pooler_queries()
}

fn default_attn_pooler_heads() -> usize {
    8
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
fn is_default_attn_pooler_heads(heads: &usize) -> bool {
    *heads == default_attn_pooler_heads()
}

fn default_image_size() -> usize {
    224
}

fn default_width() -> usize {
    768
}

fn default_head_width() -> usize {
    64
}

#[allow(clippy::unnecessary_wraps)] // The field can be `null`.
fn default_patch_size() -> Option<usize> {
    Some(16)
}

#[allow(clippy::unnecessary_wraps)] // The field can be `null`.
fn default_timm_pool() -> Option<String> {
    Some("avg".to_owned())
}

#[allow(clippy::ref_option)] // serde calls it with a reference to the field.
fn is_default_timm_pool(pool: &Option<String>) -> bool {
    *pool == default_timm_pool()
}

#[allow(clippy::unnecessary_wraps)] // The field can be `null`.
fn default_timm_proj() -> Option<String> {
    Some("linear".to_owned())
}

#[allow(clippy::ref_option)] // serde calls it with a reference to the field.
fn is_default_timm_proj(projection: &Option<String>) -> bool {
    *projection == default_timm_proj()
}

/// Which image encoder a configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tower {
    /// The paper's vision transformer.
    VisionTransformer {
        /// Its blocks.
        layers: usize,
    },
    /// The paper's residual network, by the bottlenecks of its stages.
    ModifiedResNet([usize; 4]),
    /// SigLIP's vision transformer.
    Siglip(SiglipShape),
    /// timm's convolutional network, with OpenCLIP's projection.
    ConvNeXt(ConvNeXtShape),
    /// timm's EVA, or the Perception Encoder.
    Eva(EvaShape),
    /// timm's convolutional network of `MobileCLIP`.
    FastVit(FastVitShape),
    /// timm's vision transformer of `MobileCLIP`.
    TimmVit(TimmVitShape),
    /// timm's convolutions before a transformer, with OpenCLIP's projection.
    ViTamin(ViTaminShape),
}

impl VisionConfig {
    /// The image encoder.
    ///
    /// # Panics
    /// If `timm_model_name` is not known, which [`ClipConfig::from_json`](super::ClipConfig::from_json) refuses.
    pub fn tower(&self) -> Tower {
        match (&self.timm_model_name, self.layers) {
            (Some(name), _) => {
                let tower = self.timm_tower(name);
                tower.expect("invariant: validated names are known")
            }
            (None, Layers::Blocks(layers)) => Tower::VisionTransformer { layers },
            (None, Layers::Stages(stages)) => Tower::ModifiedResNet(stages),
        }
    }

    /// Side of a vision transformer's patch, in pixels.
    pub fn patch_size(&self) -> usize {
        self.patch_size.or(default_patch_size()).unwrap_or(1)
    }

    /// Patches along one side; in a residual network, places along one side of its last stage.
    pub fn grid(&self) -> usize {
        match self.layers {
            Layers::Blocks(_) => self.image_size / self.patch_size(),
            Layers::Stages(_) => self.image_size / 32,
        }
    }

    /// How often each residual path is skipped in training, from the first to the last; none if no path ever is.
    pub fn path_rates(&self) -> Vec<f64> {
        let last = self.timm_drop_path.unwrap_or(0.0);
        let (blocks, paths) = match self.tower() {
            _ if last == 0.0 => return Vec::new(),
            Tower::ConvNeXt(shape) => (shape.depths.iter().sum(), 1),
            Tower::TimmVit(shape) => (shape.layers, 2),
            Tower::ViTamin(shape) => (shape.layers, 2),
            _ => return Vec::new(),
        };
        let rates = rising(last, blocks);
        rates.flat_map(|rate| repeat_n(rate, paths)).collect()
    }

    /// Tokens of an image in a vision transformer: the class token and one for each patch.
    pub fn tokens(&self) -> usize {
        self.grid().pow(2) + 1
    }

    /// Attention heads; in a residual network, those of its pooling.
    pub fn heads(&self) -> usize {
        match self.layers {
            Layers::Blocks(_) => self.width / self.head_width,
            Layers::Stages(_) => 32 * self.width / self.head_width,
        }
    }

    /// Hidden features of a block's MLP.
    pub fn mlp_width(&self) -> usize {
        (self.width as f64 * self.mlp_ratio) as usize
    }

    /// Number of parameters.
    pub(super) fn num_params(&self, embed_dim: usize) -> usize {
        match self.tower() {
            Tower::Siglip(shape) => SiglipVisionTransformer::num_params(&shape),
            Tower::ConvNeXt(shape) => shape.num_params(embed_dim),
            Tower::Eva(shape) => shape.num_params(embed_dim),
            Tower::FastVit(shape) => shape.num_params(embed_dim),
            Tower::TimmVit(shape) => shape.num_params(embed_dim),
            Tower::ViTamin(shape) => shape.num_params(embed_dim),
            Tower::ModifiedResNet(stages) => ModifiedResNet::num_params(self, stages, embed_dim),
            Tower::VisionTransformer { layers } => {
                let norms = if self.no_ln_pre { 1 } else { 2 };
                let layer_scales = if self.ls_init_value.is_some() { 2 } else { 0 };
                let block = block_params(self.width, self.mlp_width()) + layer_scales * self.width;
                // What the projection and the norm before it get.
                let (pooled, pooler) = if self.attentional_pool {
                    let pooler = AttentionalPooler::num_params(self, embed_dim);
                    (embed_dim, pooler)
                } else {
                    (self.width, 0)
                };
                self.width * 3 * self.patch_size().pow(2)
                    + self.width
                    + self.tokens() * self.width
                    + (norms - 1) * 2 * self.width
                    + 2 * pooled
                    + layers * block
                    + pooler
                    + pooled * embed_dim
            }
        }
    }

    pub(super) fn validate(&self, embed_dim: usize, origin: &str) -> Result<(), ModelError> {
        refuse_unknown(&self.other, "vision_cfg.", origin)?;
        within(
            LARGEST,
            &[
                ("vision_cfg.image_size", self.image_size),
                ("vision_cfg.width", self.width),
                ("vision_cfg.head_width", self.head_width),
            ],
            origin,
        )?;
        if !(0.0..1.0).contains(&self.patch_dropout) {
            let reason = format!(
                "`vision_cfg.patch_dropout` {} is outside [0, 1)",
                self.patch_dropout
            );
            return Err(invalid(reason, origin));
        }
        if self.timm_model_name.is_some() || matches!(self.layers, Layers::Stages(_)) {
            self.refuse_transformers_keys(origin)?;
        }
        match (&self.timm_model_name, self.layers) {
            (Some(name), _) => self.validate_timm(name, embed_dim, origin),
            (None, Layers::Blocks(layers)) => self.validate_transformer(layers, embed_dim, origin),
            (None, Layers::Stages(stages)) => self.validate_resnet(stages, origin),
        }
    }

    /// Refuses what only OpenCLIP's own vision transformers have.
    fn refuse_transformers_keys(&self, origin: &str) -> Result<(), ModelError> {
        let asked = [
            ("no_ln_pre", self.no_ln_pre),
            ("ls_init_value", self.ls_init_value.is_some()),
            ("pool_type", self.pool_type != VisionPool::default()),
            ("final_ln_after_pool", self.final_ln_after_pool),
            ("attentional_pool", self.attentional_pool),
            ("output_tokens", self.output_tokens),
        ];
        match asked.iter().find(|(_, asked)| *asked) {
            Some((key, _)) => {
                let reason =
                    format!("`vision_cfg.{key}` is a vision transformer's, and this is none");
                Err(invalid(reason, origin))
            }
            None => Ok(()),
        }
    }

    fn validate_transformer(
        &self,
        layers: usize,
        embed_dim: usize,
        origin: &str,
    ) -> Result<(), ModelError> {
        let Some(patch_size) = self.patch_size else {
            let reason = "`vision_cfg.patch_size` is null, but a vision transformer needs one";
            return Err(invalid(reason.to_owned(), origin));
        };
        within(MOST_LAYERS, &[("vision_cfg.layers", layers)], origin)?;
        within(LARGEST, &[("vision_cfg.patch_size", patch_size)], origin)?;
        validate_mlp("vision_cfg", self.width, self.mlp_ratio, origin)?;
        if self.ls_init_value.is_some_and(|value| !value.is_finite()) {
            return Err(invalid(
                "`vision_cfg.ls_init_value` must be finite".to_owned(),
                origin,
            ));
        }
        if patch_size > self.image_size {
            let reason = format!(
                "`vision_cfg.patch_size` {patch_size} is larger than `vision_cfg.image_size` {}",
                self.image_size
            );
            return Err(invalid(reason, origin));
        }
        multiple(
            ("vision_cfg.width", self.width),
            ("vision_cfg.head_width", self.head_width),
            origin,
        )?;
        self.validate_pooling(embed_dim, origin)
    }

    /// What gives tokens is the class token's pooling, or attention's.
    fn validate_pooling(&self, embed_dim: usize, origin: &str) -> Result<(), ModelError> {
        for (key, asked) in [
            ("pool_type", self.pool_type != VisionPool::default()),
            ("final_ln_after_pool", self.final_ln_after_pool),
        ] {
            if asked && (self.attentional_pool || self.output_tokens) {
                let reason = format!(
                    "`vision_cfg.{key}` is not implemented beside `attentional_pool` and `output_tokens`"
                );
                return Err(invalid(reason, origin));
            }
        }
        if !self.attentional_pool {
            return Ok(());
        }
        let (queries, heads) = (self.attn_pooler_queries, self.attn_pooler_heads);
        if queries < 2 {
            let reason = format!(
                "`vision_cfg.attn_pooler_queries` {queries} leaves none but the first, which is the image's features"
            );
            return Err(invalid(reason, origin));
        }
        let heads = ("vision_cfg.attn_pooler_heads", heads);
        let queries = ("vision_cfg.attn_pooler_queries", queries);
        within(LARGEST, &[heads, queries], origin)?;
        multiple(("embed_dim", embed_dim), heads, origin)
    }

    fn validate_resnet(&self, stages: [usize; 4], origin: &str) -> Result<(), ModelError> {
        let stages = stages.map(|depth| ("vision_cfg.layers", depth));
        within(MOST_LAYERS, &stages, origin)?;
        if self.patch_dropout > 0.0 {
            let reason = "`vision_cfg.patch_dropout` must be 0: a residual network has no patches";
            return Err(invalid(reason.to_owned(), origin));
        }
        let pooled = self.width * 32;
        for (dividend, divisor) in [
            (("vision_cfg.image_size", self.image_size), ("32", 32)),
            (("vision_cfg.width", self.width), ("2", 2)),
            (
                ("vision_cfg.width * 32", pooled),
                ("vision_cfg.head_width", self.head_width),
            ),
        ] {
            multiple(dividend, divisor, origin)?;
        }
        Ok(())
    }
}
