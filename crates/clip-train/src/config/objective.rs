use clip_model::{
    ClipConfig, SIGLIP_LOGIT_BIAS, SIGLIP_LOGIT_SCALE,
    loss::{ContrastiveLoss, InfoNce, SigLip},
};
use serde::{Deserialize, Serialize};

/// The loss that a run minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// CLIP's: which of the batch's captions is the image's, and which of its images the caption's.
    #[default]
    InfoNce,
    /// SigLIP's: whether image and caption match, asked of every two of the batch.
    SigLip,
}

/// What equal captions and equal images of a batch are to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Negatives as any others: the reference's losses.
    #[default]
    Negatives,
    /// Positives; see [`Groups`](clip_model::loss::Groups).
    Positives,
}

impl Loss {
    /// Gives a model the temperature and bias that the loss begins with, unless its configuration tells others.
    pub(super) fn prepare(self, model: &mut ClipConfig) {
        if self == Self::SigLip {
            model.init_logit_scale.get_or_insert(SIGLIP_LOGIT_SCALE);
            model.init_logit_bias.get_or_insert(SIGLIP_LOGIT_BIAS);
        }
    }
}

impl From<Loss> for ContrastiveLoss {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::InfoNce => Self::InfoNce(InfoNce::default()),
            Loss::SigLip => Self::SigLip(SigLip::default()),
        }
    }
}
