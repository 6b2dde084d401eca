use burn::{
    module::Module,
    nn::Embedding,
    tensor::{Int, Tensor},
};

use super::{
    Activation, EmbeddedCaptions, TextTransformer,
    coca::CocaTextTransformer,
    hugging_face::{HfTextEncoder, PADDING},
};
use crate::{Init, TextConfig, TextPool, config::TextTower};

/// The text encoder that a configuration asks for.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One lives a model, and Burn's modules don't go into boxes.
pub enum TextEncoder {
    /// The paper's transformer, and SigLIP's.
    Transformer(TextTransformer),
    /// One of Hugging Face's.
    HuggingFace(HfTextEncoder),
    /// CoCa's.
    Coca(CocaTextTransformer),
}

/// Where a caption is over, so that what follows changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEnd {
    /// At the first token of the highest id.
    Highest,
    /// At the last token that isn't this padding, which the encoder leaves out.
    BeforePadding(i32),
    /// At the end of the context: padding counts.
    Context,
}

impl TextEnd {
    /// Of a text transformer: the paper's is at its token of the highest id.
    pub(crate) fn of_transformer(is_causal: bool, pool: TextPool) -> Self {
        if is_causal && pool == TextPool::Argmax {
            Self::Highest
        } else {
            Self::Context
        }
    }

    /// Tokens of a caption up to its end; at least one.
    pub fn length(self, ids: &[i32]) -> usize {
        let last = match self {
            Self::Highest => (0..ids.len()).max_by_key(|&at| (ids[at], std::cmp::Reverse(at))),
            Self::BeforePadding(padding) => ids.iter().rposition(|id| *id != padding),
            Self::Context => ids.len().checked_sub(1),
        };
        last.unwrap_or(0) + 1
    }
}

impl TextEncoder {
    pub(crate) fn init(
        config: &TextConfig,
        embed_dim: usize,
        activation: Activation,
        init: &mut Init,
    ) -> Self {
        match config.tower() {
            TextTower::Transformer if config.embed_cls => Self::Coca(CocaTextTransformer::init(
                config, embed_dim, activation, init,
            )),
            TextTower::Transformer => {
                let encoder = TextTransformer::init(config, embed_dim, activation, init);
                Self::Transformer(encoder)
            }
            TextTower::HuggingFace(shape) => {
                Self::HuggingFace(HfTextEncoder::init(&shape, embed_dim, init))
            }
        }
    }

    /// Features of each caption in the joint space, not normalised. Captions may be cut at their
    /// [ends](Self::end).
    ///
    /// # Shapes
    /// - `tokens`: `[batch, tokens]`, padded as the encoder's tokenizer does
    /// - returns `[batch, embed_dim]`
    ///
    /// # Panics
    /// If there are more tokens than the encoder has positions.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        match self {
            Self::Transformer(encoder) => encoder.forward(tokens),
            Self::HuggingFace(encoder) => encoder.forward(tokens),
            Self::Coca(encoder) => encoder.forward(&tokens),
        }
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]`
    pub fn forward_embedded(&self, captions: &EmbeddedCaptions) -> Tensor<2> {
        match self {
            Self::Transformer(encoder) => encoder.forward_embedded(captions),
            Self::HuggingFace(encoder) => encoder.forward_embedded(captions),
            Self::Coca(encoder) => encoder.forward_embedded(captions),
        }
    }

    /// Features of captions whose tokens were looked up, in the joint space and not normalised, and the tokens that a
    /// decoder reads.
    ///
    /// # Shapes
    /// - returns `[batch, embed_dim]` and `[batch, tokens, width]`
    ///
    /// # Panics
    /// If the encoder is another than CoCa's.
    pub fn forward_with_tokens(&self, captions: &EmbeddedCaptions) -> (Tensor<2>, Tensor<3>) {
        match self {
            Self::Coca(encoder) => encoder.forward_with_tokens(captions),
            _ => panic!("no decoder reads this text encoder's tokens"),
        }
    }

    /// Captions whose tokens are looked up.
    ///
    /// # Shapes
    /// - `tokens`: as for [`forward`](Self::forward)
    ///
    /// # Panics
    /// If there are more tokens than the encoder has positions.
    pub fn embed(&self, tokens: &Tensor<2, Int>) -> EmbeddedCaptions {
        EmbeddedCaptions::of(self.padded(tokens), self.token_embedding())
    }

    /// Captions of which a graph begins with the tokens that were looked up: the embedding is as large as the vocabulary,
    /// and so is a gradient by it, whatever few tokens it is of. Whoever has those by the leaf can add them all at once.
    ///
    /// # Shapes
    /// - `tokens`: as for [`forward`](Self::forward), with autodiff
    /// - returns, beside the captions, the leaf, `[batch, tokens, width]`, in f32, padded where padding counts
    ///
    /// # Panics
    /// If there are more tokens than the encoder has positions.
    pub fn embed_as_leaf(&self, tokens: &Tensor<2, Int>) -> (EmbeddedCaptions, Tensor<3>) {
        EmbeddedCaptions::as_leaf(self.padded(tokens), self.token_embedding())
    }

    /// The tokens with as much padding as counts.
    fn padded(&self, tokens: &Tensor<2, Int>) -> Tensor<2, Int> {
        match self {
            Self::Transformer(encoder) => encoder.padded(tokens),
            Self::HuggingFace(encoder) => {
                encoder.check(tokens);
                tokens.clone()
            }
            Self::Coca(encoder) => encoder.padded(tokens),
        }
    }

    /// `[vocab_size, width]`.
    pub fn token_embedding(&self) -> &Embedding {
        match self {
            Self::Transformer(encoder) => &encoder.token_embedding,
            Self::HuggingFace(encoder) => encoder.token_embedding(),
            Self::Coca(encoder) => &encoder.token_embedding,
        }
    }

    /// Where a caption is over for it.
    pub fn end(&self) -> TextEnd {
        match self {
            Self::Transformer(encoder) => encoder.end(),
            Self::HuggingFace(_) => TextEnd::BeforePadding(PADDING),
            Self::Coca(encoder) => encoder.end(),
        }
    }

    /// Locks all but the last groups of layers: those have no gradient, and training leaves them as they are. Groups
    /// are the embeddings, each block, and the projection, which is in none after a model of Hugging Face's and always
    /// trained.
    ///
    /// # References
    /// OpenCLIP's `--lock-text-unlocked-layers`.
    pub fn lock(self, unlocked_groups: usize) -> Self {
        match self {
            Self::Transformer(encoder) => Self::Transformer(encoder.lock(unlocked_groups)),
            Self::HuggingFace(encoder) => Self::HuggingFace(encoder.lock(unlocked_groups)),
            Self::Coca(encoder) => Self::Coca(encoder.lock(unlocked_groups)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_over_where_its_encoder_says() {
        let ids = [0, 5, 1, 9, 2, 1, 1];
        assert_eq!(TextEnd::Highest.length(&ids), 4);
        assert_eq!(TextEnd::BeforePadding(1).length(&ids), 5);
        assert_eq!(TextEnd::Context.length(&ids), 7);
        assert_eq!(TextEnd::BeforePadding(1).length(&[1, 1]), 1);
    }
}
