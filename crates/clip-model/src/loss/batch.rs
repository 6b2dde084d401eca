use burn::tensor::Tensor;

use super::Groups;

/// A batch's features, and what turns their cosines into logits.
#[derive(Clone, Debug)]
pub struct ContrastiveBatch {
    /// `[batch, embed_dim]`, normalised by the loss.
    pub image: Tensor<2>,
    /// `[batch, embed_dim]`, normalised by the loss.
    pub text: Tensor<2>,
    /// `[1]`: logarithm of the factor between cosines and logits.
    pub logit_scale: Tensor<1>,
    /// `[1]`, added to every logit. A softmax, and so [`InfoNce`](super::InfoNce), is blind to it.
    pub logit_bias: Option<Tensor<1>>,
    /// Which pairs match each other; without them, each image matches its own caption alone.
    pub groups: Option<Groups>,
}

impl ContrastiveBatch {
    /// Pairs that all differ, compared without bias.
    pub fn new(image: Tensor<2>, text: Tensor<2>, logit_scale: Tensor<1>) -> Self {
        Self {
            image,
            text,
            logit_scale,
            logit_bias: None,
            groups: None,
        }
    }

    /// Adds a bias to every logit.
    pub fn with_bias(self, logit_bias: Option<Tensor<1>>) -> Self {
        Self { logit_bias, ..self }
    }

    /// Makes each image match every caption of its group.
    pub fn with_groups(self, groups: Option<Groups>) -> Self {
        Self { groups, ..self }
    }
}

/// A loss and its derivative by everything it depends on.
#[derive(Clone, Debug)]
pub struct ContrastiveGradients {
    /// `[1]`, in nats.
    pub loss: Tensor<1>,
    /// `[batch, embed_dim]`: by the image features as they were given, not normalised.
    pub image: Tensor<2>,
    /// `[batch, embed_dim]`: by the text features as they were given, not normalised.
    pub text: Tensor<2>,
    /// `[1]`: by the logarithm of the temperature factor.
    pub logit_scale: Tensor<1>,
    /// `[1]`: by the bias, where the loss depends on it.
    pub logit_bias: Option<Tensor<1>>,
}
