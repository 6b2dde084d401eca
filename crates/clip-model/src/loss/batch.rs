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
    /// What another model finds of the same pairs, to learn from as well. [`InfoNce`](super::InfoNce) alone does.
    pub teacher: Option<TeacherFeatures>,
}

/// What a teacher finds of a batch: the similarities of its features are what a student's should be like.
///
/// # References
/// Hinton et al. 2015, [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531), of which the
/// temperature is each model's own.
#[derive(Clone, Debug)]
pub struct TeacherFeatures {
    /// `[batch, embed_dim]`, normalised by the loss; of another width than the student's, maybe.
    pub image: Tensor<2>,
    /// `[batch, embed_dim]`, normalised by the loss.
    pub text: Tensor<2>,
    /// `[1]`: logarithm of the factor between the teacher's cosines and logits.
    pub logit_scale: Tensor<1>,
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
            teacher: None,
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

    /// Has the model learn from another beside the captions.
    pub fn with_teacher(self, teacher: Option<TeacherFeatures>) -> Self {
        Self { teacher, ..self }
    }
}

/// A loss and its derivative by everything it depends on; with a teacher, that of `loss + distill`.
#[derive(Clone, Debug)]
pub struct ContrastiveGradients {
    /// `[1]`: of the captions, in nats.
    pub loss: Tensor<1>,
    /// `[1]`: of the teacher, in nats, if there is one.
    pub distill: Option<Tensor<1>>,
    /// `[batch, embed_dim]`: by the image features as they were given, not normalised.
    pub image: Tensor<2>,
    /// `[batch, embed_dim]`: by the text features as they were given, not normalised.
    pub text: Tensor<2>,
    /// `[1]`: by the logarithm of the temperature factor.
    pub logit_scale: Tensor<1>,
    /// `[1]`: by the bias, where the loss depends on it.
    pub logit_bias: Option<Tensor<1>>,
}
