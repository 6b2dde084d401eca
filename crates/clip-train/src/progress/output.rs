use burn::train::{ItemLazy, metric::Adaptor};
use burn_std::ExecutionError;
use clip_metrics::{Kind, Measured, VAL_LOSS, averaged_key, zeroshot_key};
use serde::Serialize;

use super::metrics::{NamedValues, Reading, quantity};

/// What one training step says about itself, as plain numbers: the tensors behind them are gone,
/// so the metrics thread never waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct StepOutput {
    /// The contrastive loss of the whole batch, in nats.
    pub(crate) loss: f64,
    /// What the similarities lose that should be a teacher's, in nats; of a run that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) distill_loss: Option<f64>,
    /// What a CoCa model's decoder loses of each token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) caption_loss: Option<f64>,
    /// The temperature's inverse `exp(logit_scale)`, as it multiplies the similarities.
    pub(crate) logit_scale: f64,
    /// The learning rate of this step.
    pub(crate) lr: f64,
    /// Training throughput, in images/s.
    pub(crate) images_per_s: f64,
    /// The share of the step's time spent waiting for data, 0 to 1.
    pub(crate) data_wait: f64,
    /// The global norm of the gradient, before clipping.
    pub(crate) grad_norm: f64,
    /// Pairs in the batch.
    pub(crate) batch: usize,
}

/// What one evaluation found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvalOutput {
    /// The contrastive loss on the validation pairs, in nats.
    pub loss: Option<f64>,
    /// Retrieval: recalls, such as `i2t_r1`, and median ranks.
    pub retrieval: Vec<Measured>,
    /// Zero-shot classification by key without its `zeroshot_`, such as `top1` or `top1_unseen`.
    pub zeroshot: Vec<Measured>,
    /// What the averaged weights gave, under the same keys as [`named`](Self::named) gives.
    pub averaged: Vec<Measured>,
}

impl EvalOutput {
    /// Every number under the key that `metrics.jsonl` gives it: `val_loss`, `i2t_r1`,
    /// `zeroshot_top1`, `ema_i2t_r1`.
    pub fn named(&self) -> impl Iterator<Item = Measured> + '_ {
        let under = |key: String, measured: &Measured| Measured {
            key,
            ..measured.clone()
        };
        let loss = self.loss;
        let loss = loss.map(|loss| Measured::new(VAL_LOSS, Kind::Loss, loss));
        let retrieval = self.retrieval.iter().cloned();
        let zeroshot = self.zeroshot.iter();
        let zeroshot = zeroshot.map(move |found| under(zeroshot_key(&found.key), found));
        let averaged = self.averaged.iter();
        let averaged = averaged.map(move |found| under(averaged_key(&found.key), found));
        loss.into_iter()
            .chain(retrieval)
            .chain(zeroshot)
            .chain(averaged)
    }
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl ItemLazy for EvalOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Reading<quantity::Loss>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::Loss> {
        Reading::new(self.loss, self.batch)
    }
}

impl Adaptor<Reading<quantity::CaptionLoss>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::CaptionLoss> {
        Reading::new(self.caption_loss.unwrap_or(f64::NAN), self.batch)
    }
}

impl Adaptor<Reading<quantity::DistillLoss>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::DistillLoss> {
        Reading::new(self.distill_loss.unwrap_or(f64::NAN), self.batch)
    }
}

impl Adaptor<Reading<quantity::LogitScale>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::LogitScale> {
        Reading::new(self.logit_scale, 1)
    }
}

impl Adaptor<Reading<quantity::LearningRate>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::LearningRate> {
        Reading::new(self.lr, 1)
    }
}

impl Adaptor<Reading<quantity::ImagesPerSecond>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::ImagesPerSecond> {
        Reading::new(self.images_per_s, 1)
    }
}

impl Adaptor<Reading<quantity::DataWait>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::DataWait> {
        Reading::new(100.0 * self.data_wait, 1)
    }
}

impl Adaptor<Reading<quantity::GradNorm>> for StepOutput {
    fn adapt(&self) -> Reading<quantity::GradNorm> {
        Reading::new(self.grad_norm, 1)
    }
}

impl Adaptor<NamedValues> for EvalOutput {
    fn adapt(&self) -> NamedValues {
        NamedValues(self.named().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_names_its_numbers_as_the_metrics_file_does() {
        let output = EvalOutput {
            loss: Some(3.5),
            retrieval: vec![Measured::new("i2t_r1", Kind::Share, 0.016)],
            zeroshot: vec![Measured::new("top1", Kind::Share, 0.95)],
            averaged: vec![Measured::new("i2t_median_rank", Kind::Rank, 7.0)],
        };
        let named: Vec<_> = output.named().collect();
        assert_eq!(
            named,
            [
                Measured::new("val_loss", Kind::Loss, 3.5),
                Measured::new("i2t_r1", Kind::Share, 0.016),
                Measured::new("zeroshot_top1", Kind::Share, 0.95),
                Measured::new("ema_i2t_median_rank", Kind::Rank, 7.0),
            ]
        );
    }
}
