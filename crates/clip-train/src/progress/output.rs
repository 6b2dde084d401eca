use burn::train::{ItemLazy, metric::Adaptor};
use burn_std::ExecutionError;
use serde::Serialize;

use super::metrics::{NamedValues, Reading, quantity};

/// What one training step says about itself, as plain numbers: the tensors behind them are gone,
/// so the metrics thread never waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepOutput {
    /// The contrastive loss of the whole batch, in nats.
    pub loss: f64,
    /// What the similarities lose that should be a teacher's, in nats; of a run that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill_loss: Option<f64>,
    /// What a CoCa model's decoder loses of each token, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caption_loss: Option<f64>,
    /// The temperature's inverse `exp(logit_scale)`, as it multiplies the similarities.
    pub logit_scale: f64,
    /// The learning rate of this step.
    pub lr: f64,
    /// Training throughput, in images/s.
    pub images_per_s: f64,
    /// The share of the step's time spent waiting for data, 0 to 1.
    pub data_wait: f64,
    /// The global norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Pairs in the batch.
    pub batch: usize,
}

/// What one evaluation found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvalOutput {
    /// The contrastive loss on the validation pairs, in nats.
    pub loss: Option<f64>,
    /// Retrieval by key, such as `i2t_r1`, each a share from 0 to 1.
    pub retrieval: Vec<(String, f64)>,
    /// Zero-shot classification by key without its `zeroshot_`, such as `top1` or `top1_unseen`,
    /// each a share from 0 to 1.
    pub zeroshot: Vec<(String, f64)>,
    /// What the averaged weights gave, under the same keys as [`named`](Self::named) gives.
    pub averaged: Vec<(String, f64)>,
}

impl EvalOutput {
    /// Every number under the key that `metrics.jsonl` gives it: `val_loss`, `i2t_r1`,
    /// `zeroshot_top1`, `ema_i2t_r1`.
    pub fn named(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        let loss = self.loss.map(|loss| ("val_loss".to_string(), loss));
        let retrieval = self.retrieval.iter().cloned();
        let zeroshot = self
            .zeroshot
            .iter()
            .map(|(key, value)| (format!("zeroshot_{key}"), *value));
        let averaged = self
            .averaged
            .iter()
            .map(|(key, value)| (format!("ema_{key}"), *value));
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
            retrieval: vec![("i2t_r1".into(), 0.016)],
            zeroshot: vec![("top1".into(), 0.95)],
            averaged: vec![("zeroshot_top1".into(), 0.96)],
        };
        let named: Vec<_> = output.named().collect();
        assert_eq!(
            named,
            [
                ("val_loss".to_string(), 3.5),
                ("i2t_r1".to_string(), 0.016),
                ("zeroshot_top1".to_string(), 0.95),
                ("ema_zeroshot_top1".to_string(), 0.96)
            ]
        );
    }
}
