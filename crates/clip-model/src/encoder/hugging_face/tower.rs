use burn::{
    module::Module,
    nn::{Embedding, Linear},
    tensor::{Bool, DType, Int, Tensor},
};

use super::{
    super::{Activation, EmbeddedCaptions, Mlp},
    HfFamily, HfTextShape, M2m100, Roberta,
    shape::PADDING,
};
use crate::{HfPooler, HfProjType, Init};

/// One of Hugging Face's transformers, then OpenCLIP's pooler and projection.
///
/// # References
/// `HFTextEncoder` in `open_clip/hf_model.py`.
#[derive(Module, Debug)]
pub struct HfTextEncoder {
    /// Hugging Face's model.
    pub transformer: HfTransformer,
    /// Into the joint space; none where that is as wide.
    pub proj: Option<HfProjection>,
    #[module(skip)]
    pooler: HfPooler,
    longest: usize,
}

/// The families of models.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // As for `TextEncoder`.
pub enum HfTransformer {
    /// `RoBERTa` and XLM-`RoBERTa`.
    Roberta(Roberta),
    /// M2M100's encoder, and NLLB's.
    M2m100(M2m100),
}

impl HfTransformer {
    fn init(shape: &HfTextShape, init: &mut Init) -> Self {
        match shape.family {
            HfFamily::Roberta => Self::Roberta(Roberta::init(shape, init)),
            HfFamily::M2m100 => Self::M2m100(M2m100::init(shape, init)),
        }
    }

    fn lock(self, unlocked_groups: usize) -> Self {
        match self {
            Self::Roberta(roberta) => Self::Roberta(roberta.lock(unlocked_groups)),
            Self::M2m100(m2m100) => Self::M2m100(m2m100.lock(unlocked_groups)),
        }
    }

    fn forward(
        &self,
        captions: &EmbeddedCaptions,
        attended: &Tensor<2, Bool>,
        only_first: bool,
    ) -> Tensor<3> {
        match self {
            Self::Roberta(roberta) => roberta.forward(captions, attended, only_first),
            Self::M2m100(m2m100) => m2m100.forward(captions, attended, only_first),
        }
    }

    /// Its own, from the first token's features.
    fn pooler(&self) -> Option<&Linear> {
        match self {
            Self::Roberta(roberta) => roberta.pooler.as_ref(),
            Self::M2m100(_) => None,
        }
    }
}

/// Into the joint space.
#[derive(Module, Debug)]
pub enum HfProjection {
    /// `[width, embed_dim]`, without bias.
    Linear(Linear),
    /// Two layers without biases around GELU, with as many hidden features as the mean of both widths.
    Mlp(Mlp),
}

impl HfTextEncoder {
    /// With initial weights as transformers and OpenCLIP draw them.
    pub fn init(shape: &HfTextShape, embed_dim: usize, init: &mut Init) -> Self {
        Self {
            transformer: HfTransformer::init(shape, init),
            proj: HfProjection::init(shape, embed_dim, init),
            pooler: shape.pooler,
            longest: shape.longest,
        }
    }

    /// Locks all but the last [groups](super::super::LockedGroups) of layers. The stem is the embeddings, and there is
    /// no head: the projection is trained in any case. The last layer's has what follows it in Hugging Face's model.
    ///
    /// # References
    /// OpenCLIP's `HFTextEncoder.lock`, by its defaults: its training program leaves norms unlocked unless it is told
    /// `--lock-text-freeze-layer-norm`.
    pub(in super::super) fn lock(self, unlocked_groups: usize) -> Self {
        Self {
            transformer: self.transformer.lock(unlocked_groups),
            ..self
        }
    }

    /// Features of each caption in the joint space, not normalised. How far captions are padded changes nothing.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, padded with [`PADDING`](super::PADDING)
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If there are more tokens than the model has positions.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        self.check(&tokens);
        self.forward_embedded(&EmbeddedCaptions::of(tokens, self.token_embedding()))
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]`
    pub fn forward_embedded(&self, captions: &EmbeddedCaptions) -> Tensor<2> {
        let attended = captions.tokens().clone().not_equal_elem(PADDING);
        let only_first = self.pooler != HfPooler::MeanPooler;
        let x = self.transformer.forward(captions, &attended, only_first);
        let pooled = match (self.pooler, self.transformer.pooler()) {
            (HfPooler::MeanPooler, _) => mean(x, attended),
            (HfPooler::ClsPooler, Some(pooler)) => pooler.forward(first(x)).tanh(),
            (HfPooler::ClsPooler | HfPooler::ClsLastHiddenStatePooler, _) => first(x),
        };
        match &self.proj {
            Some(projection) => projection.forward(pooled),
            None => pooled,
        }
    }

    /// # Panics
    /// If there are more tokens than the model has positions.
    pub(in super::super) fn check(&self, tokens: &Tensor<2, Int>) {
        let [_, length] = tokens.dims();
        let longest = self.longest;
        assert!(
            length <= longest,
            "{length} tokens, but the text encoder has {longest} positions"
        );
    }

    /// `[vocab_size, width]`.
    pub fn token_embedding(&self) -> &Embedding {
        match &self.transformer {
            HfTransformer::Roberta(roberta) => &roberta.embeddings.word_embeddings,
            HfTransformer::M2m100(m2m100) => &m2m100.embed_tokens,
        }
    }
}

/// Of the tokens that aren't padding.
///
/// # Shapes
/// - `x`: `[batch, tokens, width]`
/// - `attended`: `[batch, tokens]`
/// - returns `[batch, width]`
fn mean(x: Tensor<3>, attended: Tensor<2, Bool>) -> Tensor<2> {
    let dtype = x.dtype();
    let weights = attended.float().unsqueeze_dim::<3>(2);
    let sum = (x.cast(DType::F32) * weights.clone()).sum_dim(1);
    (sum / weights.sum_dim(1)).squeeze_dim::<2>(1).cast(dtype)
}

/// # Shapes
/// - `x`: `[batch, 1, width]`
/// - returns `[batch, width]`
fn first(x: Tensor<3>) -> Tensor<2> {
    x.squeeze_dim(1)
}

impl HfProjection {
    /// PyTorch's default initialisation.
    fn init(shape: &HfTextShape, embed_dim: usize, init: &mut Init) -> Option<Self> {
        let mut matrix = |from: usize, to: usize| Linear {
            weight: init.uniform([from, to], (from as f64).powf(-0.5)),
            bias: None,
        };
        let hidden = shape.projection_width(embed_dim);
        shape.projection.map(|projection| match projection {
            HfProjType::Linear => Self::Linear(matrix(shape.width, embed_dim)),
            HfProjType::Mlp => Self::Mlp(Mlp {
                c_fc: matrix(shape.width, hidden),
                c_proj: matrix(hidden, embed_dim),
                activation: Activation::Gelu,
            }),
        })
    }

    /// # Shapes
    /// - `x`: `[batch, width]`
    /// - returns `[batch, embed_dim]`
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(linear) => linear.forward(x),
            Self::Mlp(mlp) => mlp.forward(x.unsqueeze_dim(1)).squeeze_dim(1),
        }
    }
}
