//! A block's passes, forward and back, as tensor operations without a graph.
//!
//! A GPU waits for whoever tells it what to do next. Autodiff tells it more than is needed, and of both towers by turns,
//! so that fewer operations become one kernel: a slice of a weight, for one, is filled with zeros, written to and added
//! on its way back. These passes ask for fewer.

mod attention;
mod gradients;
mod layers;
#[cfg(test)]
mod tests;

pub use {attention::ScoreMask, gradients::BlockGradients};

use burn::tensor::Tensor;

use self::{
    attention::Attention,
    layers::{Statistics, by_input, linear, norm},
};
use super::{LayerScale, ResidualAttentionBlock};

/// What a block's backward pass needs of its forward pass.
///
/// `[batch, tokens, width]` where nothing else is said, in the model's precision.
#[derive(Clone, Debug)]
pub struct Kept {
    x: Tensor<3>,
    norm_1: Statistics,
    normed_1: Tensor<3>,
    attention: Attention,
    /// What attention gave, where it is scaled.
    attended: Option<Tensor<3>>,
    middle: Tensor<3>,
    norm_2: Statistics,
    normed_2: Tensor<3>,
    /// `[batch, tokens, hidden]`, before the non-linearity.
    hidden: Tensor<3>,
    /// What the MLP gave, where it is scaled.
    mapped: Option<Tensor<3>>,
}

impl ResidualAttentionBlock {
    /// The block for all tokens, and what [`back`](Self::back) needs. The block is on a graph, which takes no part.
    ///
    /// # Shapes
    /// - `x`: `[batch, tokens, width]`, without a graph, and so is the first result
    /// - `mask`: of as many tokens
    pub fn pass(&self, x: Tensor<3>, mask: &ScoreMask) -> (Tensor<3>, Kept) {
        let (normed_1, norm_1) = norm(&self.ln_1, self.epsilon, x.clone());
        let attention = self.attn.pass(normed_1.clone(), mask);
        let attended = linear(&self.attn.out_proj, attention.mixed.clone());
        let (added, attended) = scaled(self.ls_1.as_ref(), attended);
        let middle = x.clone() + added;
        let (normed_2, norm_2) = norm(&self.ln_2, self.epsilon, middle.clone());
        let (hidden, value) = self.mlp.hidden(normed_2.clone());
        let mapped = linear(&self.mlp.c_proj, value);
        let (added, mapped) = scaled(self.ls_2.as_ref(), mapped);
        let y = middle.clone() + added;
        let kept = Kept {
            x,
            norm_1,
            normed_1,
            attention,
            attended,
            middle,
            norm_2,
            normed_2,
            hidden,
            mapped,
        };
        (y, kept)
    }

    /// From the gradient by what [`pass`](Self::pass) gave to that by what it got. A block that isn't on a graph has no
    /// parameters that train.
    ///
    /// # Shapes
    /// - `by_y`: `[batch, tokens, width]`, without a graph, and so is the first result
    pub fn back(&self, kept: Kept, by_y: Tensor<3>) -> (Tensor<3>, BlockGradients) {
        let mut found = BlockGradients::default();
        let by_mapped = found.layer_scale(self.ls_2.as_ref(), kept.mapped, by_y.clone());
        let by_value = by_input(&self.mlp.c_proj, by_mapped.clone());
        let (value, by_hidden) = self.mlp.hidden_back(kept.hidden, by_value);
        found.linear(&self.mlp.c_proj, value, &by_mapped);
        found.linear(&self.mlp.c_fc, kept.normed_2, &by_hidden);
        let by_normed = by_input(&self.mlp.c_fc, by_hidden);
        let by_middle = found.norm(&self.ln_2, kept.middle, kept.norm_2, by_normed, by_y);

        let by_attended = found.layer_scale(self.ls_1.as_ref(), kept.attended, by_middle.clone());
        let mixed = kept.attention.mixed.clone();
        found.linear(&self.attn.out_proj, mixed, &by_attended);
        let by_mixed = by_input(&self.attn.out_proj, by_attended);
        let by_projected = self.attn.back(kept.attention, by_mixed);
        found.linear(&self.attn.in_proj, kept.normed_1, &by_projected);
        let by_normed = by_input(&self.attn.in_proj, by_projected);
        let by_x = found.norm(&self.ln_1, kept.x, kept.norm_1, by_normed, by_middle);
        (by_x, found)
    }
}

/// What is added to the residual path; and, where it is scaled, what it is of.
fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> (Tensor<3>, Option<Tensor<3>>) {
    match scale {
        Some(LayerScale { scale }) => (x.clone() * scale.val().inner().unsqueeze(), Some(x)),
        None => (x, None),
    }
}
