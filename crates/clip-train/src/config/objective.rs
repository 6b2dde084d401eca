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

impl Loss {
    /// What a model loses that knows nothing of the images and captions of a batch but how often they match, in nats.
    /// `None` for a batch of one pair, where there is nothing to guess.
    pub fn of_guessing(self, batch: usize) -> Option<f64> {
        let batch = (batch > 1).then_some(batch as f64)?;
        Some(match self {
            Self::InfoNce => batch.ln(),
            // An image's caption, and all others, each matching with probability 1 / batch.
            Self::SigLip => batch.ln() - (batch - 1.0) * (-1.0 / batch).ln_1p(),
        })
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use clip_model::loss::ContrastiveBatch;

    use super::*;

    /// Features that are all the same tell nothing, and SigLIP's best answer then is a bias of the odds.
    #[test]
    fn guessing_costs_what_the_losses_say_of_equal_features() {
        let (device, rows) = (Device::flex(), 32_usize);
        for loss in [Loss::InfoNce, Loss::SigLip] {
            let same = Tensor::<2>::ones([rows, 4], &device);
            let scale = Tensor::from_floats([0.0], &device);
            // A cosine of 1 at a scale of 1, so the logit is 1 more than the bias.
            let odds = -((rows - 1) as f32).ln() - 1.0;
            let bias = Some(Tensor::from_floats([odds], &device));
            let batch = ContrastiveBatch::new(same.clone(), same, scale).with_bias(bias);
            let found: f32 = ContrastiveLoss::from(loss)
                .with_gradients(batch)
                .loss
                .into_scalar();
            let expected = loss.of_guessing(rows).unwrap();
            assert!(
                (f64::from(found) - expected).abs() < 1e-5,
                "{found}, not {expected}"
            );
        }
        assert_eq!(Loss::InfoNce.of_guessing(1), None);
    }
}
