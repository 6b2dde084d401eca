use crate::{HfPooler, HfProjType};

/// The id that all of these pad with.
pub const PADDING: i32 = 1;
/// Positions are counted from after the padding's id.
const FIRST_POSITION: usize = PADDING as usize + 1;
/// Added to variances: `layer_norm_eps` of their configurations.
pub(super) const EPSILON: f64 = 1e-5;

/// The numbers of one of Hugging Face's text encoders, which OpenCLIP's configurations name instead of writing them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HfTextShape {
    /// Which transformer it is.
    pub family: HfFamily,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Longest text, in tokens.
    pub longest: usize,
    /// Features of a token.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Hidden features of a layer's MLP.
    pub mlp_width: usize,
    /// From tokens to a text.
    pub pooler: HfPooler,
    /// Into the joint space; none where that is as wide.
    pub projection: Option<HfProjType>,
}

/// The kinds of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HfFamily {
    /// `RoBERTa`'s and XLM-`RoBERTa`'s.
    Roberta,
    /// The encoder of M2M100's and NLLB's.
    M2m100,
}

impl HfTextShape {
    /// The shape behind the hub's name of a model, with OpenCLIP's mean pooler and its projection of two layers.
    pub fn by_hub_name(name: &str) -> Option<Self> {
        // The hub moved them to their authors' name, and still knows them by the one that they had.
        let name = name.strip_prefix("FacebookAI/").unwrap_or(name);
        let (vocab_size, width, heads, layers, mlp_width) = match name {
            "roberta-base" => (50_265, 768, 12, 12, 3072),
            "roberta-large" => (50_265, 1024, 16, 24, 4096),
            "xlm-roberta-base" => (250_002, 768, 12, 12, 3072),
            "xlm-roberta-large" => (250_002, 1024, 16, 24, 4096),
            "facebook/nllb-200-distilled-600M" => (256_206, 1024, 16, 12, 4096),
            "facebook/nllb-200-distilled-1.3B" => (256_206, 1024, 16, 24, 8192),
            _ => return None,
        };
        let (family, longest) = if name.starts_with("facebook/nllb") {
            (HfFamily::M2m100, 1024)
        } else {
            (HfFamily::Roberta, 512)
        };
        Some(Self {
            family,
            vocab_size,
            longest,
            width,
            heads,
            layers,
            mlp_width,
            pooler: HfPooler::MeanPooler,
            projection: Some(HfProjType::Mlp),
        })
    }

    /// Rows of `RoBERTa`'s table of positions, of which those up to the padding's id are no token's.
    pub(super) fn positions(&self) -> usize {
        self.longest + FIRST_POSITION
    }

    /// Hidden features of OpenCLIP's projection of two layers.
    pub(super) fn projection_width(&self, embed_dim: usize) -> usize {
        usize::midpoint(self.width, embed_dim)
    }

    /// Number of parameters.
    pub(crate) fn num_params(&self, embed_dim: usize) -> usize {
        let width = self.width;
        let linear = |from: usize, to: usize| (from + 1) * to;
        let norm = 2 * width;
        // M2M100's positions are no parameters, and its norm is after the layers.
        let learned = match self.family {
            HfFamily::Roberta => self.positions() + 1,
            HfFamily::M2m100 => 0,
        };
        let embeddings = (self.vocab_size + learned) * width + norm;
        let attention = 4 * linear(width, width) + norm;
        let mlp = linear(width, self.mlp_width) + linear(self.mlp_width, width) + norm;
        let pooler = match (self.pooler, self.family) {
            (HfPooler::ClsPooler, HfFamily::Roberta) => linear(width, width),
            _ => 0,
        };
        let projection = match self.projection {
            Some(HfProjType::Linear) => width * embed_dim,
            Some(HfProjType::Mlp) => self.projection_width(embed_dim) * (width + embed_dim),
            None => 0,
        };
        embeddings + self.layers * (attention + mlp) + pooler + projection
    }
}
