use burn::{
    module::Module,
    nn::{Embedding, LayerNorm, Linear},
    tensor::{Bool, Tensor, TensorData, activation::relu},
};

use super::{
    super::{EmbeddedCaptions, LockedGroups, sequences},
    HfAttention, HfTextShape,
    layers::{STD, linear, padding_mask, positions},
    shape::{EPSILON, PADDING},
};
use crate::Init;

/// The encoder of a translator of a hundred languages, M2M100's, which NLLB's is too: each layer's norms come first.
///
/// # References
/// Fan et al. 2020, [Beyond English-Centric Multilingual Machine Translation](https://arxiv.org/abs/2010.11125); NLLB Team
/// 2022, [No Language Left Behind](https://arxiv.org/abs/2207.04672); parameters as transformers names them.
#[derive(Module, Debug)]
pub struct M2m100 {
    /// `[vocab_size, width]`.
    pub embed_tokens: Embedding,
    /// First to last.
    pub layers: Vec<M2m100Layer>,
    /// After the layers.
    pub layer_norm: LayerNorm,
}

/// Attention, then an MLP with `ReLU`, each after a norm and beside a residual path.
#[derive(Module, Debug)]
pub struct M2m100Layer {
    /// Mixes tokens.
    pub self_attn: HfAttention,
    /// Before the attention.
    pub self_attn_layer_norm: LayerNorm,
    /// `[width, mlp_width]`.
    pub fc1: Linear,
    /// `[mlp_width, width]`.
    pub fc2: Linear,
    /// Before the MLP.
    pub final_layer_norm: LayerNorm,
}

impl M2m100 {
    pub(super) fn init(shape: &HfTextShape, init: &mut Init) -> Self {
        let words = [shape.vocab_size, shape.width];
        Self {
            embed_tokens: init.padded_embedding(words, STD, PADDING as usize),
            layers: (0..shape.layers)
                .map(|_| M2m100Layer::init(shape, init))
                .collect(),
            layer_norm: init.layer_norm(shape.width, EPSILON),
        }
    }

    /// Locks all but the last [groups](LockedGroups) of layers. The stem is the embedding, and the last layer's has the
    /// norm that follows it.
    pub(super) fn lock(self, unlocked_groups: usize) -> Self {
        let groups = LockedGroups::without_head(self.layers.len(), unlocked_groups);
        Self {
            embed_tokens: groups.stem(self.embed_tokens),
            layers: groups.blocks(self.layers),
            layer_norm: groups.last_block(self.layer_norm),
        }
    }

    /// Features of all tokens, or of the first alone.
    ///
    /// # Shapes
    /// - `attended`: `[batch, tokens]`, what isn't padding
    /// - returns `[batch, tokens, width]` or `[batch, 1, width]`
    pub(super) fn forward(
        &self,
        captions: &EmbeddedCaptions,
        attended: &Tensor<2, Bool>,
        only_first: bool,
    ) -> Tensor<3> {
        let embedded = captions.embedded();
        let [.., width] = embedded.dims();
        let x = embedded * (width as f64).sqrt() + sinusoids(attended, width);
        let x = match self.layers.first() {
            Some(layer) => x.cast(layer.fc1.weight.val().dtype()),
            None => x,
        };
        let mask = padding_mask(attended.clone());
        let last = self.layers.len().saturating_sub(1);
        let layers = self.layers.iter().enumerate();
        let x = layers.fold(x, |x, (at, layer)| {
            layer.forward(x, mask.clone(), only_first && at == last)
        });
        sequences::layer_norm(&self.layer_norm, EPSILON, x)
    }
}

impl M2m100Layer {
    fn init(shape: &HfTextShape, init: &mut Init) -> Self {
        let width = shape.width;
        Self {
            self_attn: HfAttention::init(width, shape.heads, init),
            self_attn_layer_norm: init.layer_norm(width, EPSILON),
            fc1: linear(width, shape.mlp_width, init),
            fc2: linear(shape.mlp_width, width, init),
            final_layer_norm: init.layer_norm(width, EPSILON),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, tokens, width]`
    /// - `mask`: as for [`HfAttention::forward`]
    /// - returns `[batch, tokens, width]`, or `[batch, 1, width]` if `only_first`
    pub fn forward(&self, x: Tensor<3>, mask: Tensor<4>, only_first: bool) -> Tensor<3> {
        let normed = sequences::layer_norm(&self.self_attn_layer_norm, EPSILON, x.clone());
        let (x, queries) = if only_first {
            (x.narrow(1, 0, 1), normed.clone().narrow(1, 0, 1))
        } else {
            (x, normed.clone())
        };
        let x = x + self.self_attn.forward(queries, normed, mask);
        let normed = sequences::layer_norm(&self.final_layer_norm, EPSILON, x.clone());
        let hidden = relu(sequences::linear(&self.fc1, normed));
        x + sequences::linear(&self.fc2, hidden)
    }
}

/// Sines, then cosines, of a token's place at wavelengths from 2 pi to 20,000 pi; 0 for padding.
///
/// # Shapes
/// - `attended`: `[batch, tokens]`
/// - returns `[batch, tokens, width]`
///
/// # References
/// Vaswani et al. 2017, section 3.5, as tensor2tensor has it.
fn sinusoids(attended: &Tensor<2, Bool>, width: usize) -> Tensor<3> {
    /// From the shortest wavelength to the longest.
    const RANGE: f64 = 10_000.0;
    let half = width / 2;
    let step = RANGE.ln() / (half - 1) as f64;
    let frequencies: Vec<f32> = (0..half)
        .map(|at| (-step * at as f64).exp() as f32)
        .collect();
    let frequencies = TensorData::new(frequencies, [1, 1, half]);
    let frequencies = Tensor::<3>::from_data(frequencies, &attended.device());
    let places = positions(attended).float().unsqueeze_dim::<3>(2);
    let angles = places * frequencies; // [batch, tokens, width / 2]
    let waves = Tensor::cat(vec![angles.clone().sin(), angles.cos()], 2);
    waves * attended.clone().float().unsqueeze_dim(2)
}
